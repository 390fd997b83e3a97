"""`cinder-csi revert`: the controller stopped, the volume put back."""

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


def test_a_volume_holds_again_what_its_snapshot_holds(tmp_path: Path) -> None:
    driver = DriverProcess(tmp_path)
    state = ["--state-dir", str(driver.state_directory)]
    with driver, Client(str(driver.socket)) as client:
        volume = client.controller.CreateVolume(
            pb.CreateVolumeRequest(
                name="v",
                capacity_range=pb.CapacityRange(required_bytes=GIB),
                volume_capabilities=[mount()],
            )
        ).volume
        (file,) = (driver.state_directory / "volumes").glob("volume-*")
        with file.open("r+b") as disk:
            disk.write(b"before")
        snapshot = client.controller.CreateSnapshot(
            pb.CreateSnapshotRequest(name="s", source_volume_id=volume.volume_id)
        ).snapshot
        with file.open("r+b") as disk:
            disk.write(b"after!")
        handles = [volume.volume_id, snapshot.snapshot_id]
        beside = revert(*handles, *state)
        driver.stop()
    assert beside.returncode == 1, "the controller runs and has the store"
    assert "Traceback" not in beside.stderr
    done = revert(*handles, *state)
    assert done.returncode == 0, done.stderr
    assert file.read_bytes()[:6] == b"before"
    absent = revert(volume.volume_id, "absent", *state)
    assert absent.returncode == 1
    assert "has no finished snapshot" in absent.stderr
