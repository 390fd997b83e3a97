"""`cinder-csi revert`: the volume put back, by the controller that runs or by the command."""

import subprocess
from pathlib import Path

from csi_driver.base.values import GIB
from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc.client import Client
from tests.support.driver_process import COMMAND, DriverProcess
from tests.support.messages import mount


def revert(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "revert", *arguments], check=False, capture_output=True, text=True, timeout=60
    )


def made(client: Client, file_of: Path) -> tuple[str, str, Path]:
    """A volume that holds ``after!`` and was snapshotted when it held ``before``."""
    volume = client.controller.CreateVolume(
        pb.CreateVolumeRequest(
            name="v",
            capacity_range=pb.CapacityRange(required_bytes=GIB),
            volume_capabilities=[mount()],
        )
    ).volume
    (file,) = (file_of / "volumes").glob("volume-*")
    with file.open("r+b") as disk:
        disk.write(b"before")
    snapshot = client.controller.CreateSnapshot(
        pb.CreateSnapshotRequest(name="s", source_volume_id=volume.volume_id)
    ).snapshot
    with file.open("r+b") as disk:
        disk.write(b"after!")
    return volume.volume_id, snapshot.snapshot_id, file


def test_a_stopped_controller_s_volume_holds_again_what_its_snapshot_holds(tmp_path: Path) -> None:
    driver = DriverProcess(tmp_path)
    state = ["--state-dir", str(driver.state_directory)]
    with driver, Client(str(driver.socket)) as client:
        volume_id, snapshot_id, file = made(client, driver.state_directory)
        elsewhere = revert(volume_id, snapshot_id, *state)
        driver.stop()
    assert elsewhere.returncode == 1, "a controller has the store and is not on the default socket"
    assert "with --endpoint" in elsewhere.stderr
    assert "Traceback" not in elsewhere.stderr
    assert file.read_bytes()[:6] == b"after!"
    done = revert(volume_id, snapshot_id, *state)
    assert done.returncode == 0, done.stderr
    assert file.read_bytes()[:6] == b"before"
    absent = revert(volume_id, "absent", *state)
    assert absent.returncode == 1
    assert "has no finished snapshot" in absent.stderr


def test_a_running_controller_does_it_when_it_is_asked(tmp_path: Path) -> None:
    driver = DriverProcess(tmp_path)
    here = ["--endpoint", driver.endpoint]
    with driver, Client(str(driver.socket)) as client:
        volume_id, snapshot_id, file = made(client, driver.state_directory)
        done = revert(volume_id, snapshot_id, *here)
        assert done.returncode == 0, done.stderr
        assert file.read_bytes()[:6] == b"before"
        absent = revert(volume_id, "absent", *here)
        assert absent.returncode == 1
        assert "NOT_FOUND" in absent.stderr
        assert "has no finished snapshot" in absent.stderr
        nobody = revert(
            volume_id, snapshot_id, "--store=kubernetes", f"--endpoint=unix://{tmp_path}/none.sock"
        )
        assert nobody.returncode == 1
        assert "kubectl exec" in nobody.stderr
    assert f"Asked to revert volume {volume_id} to snapshot {snapshot_id}" in driver.logs()
