"""A whole life with secrets everywhere, at DEBUG and with failures: none of them shows anywhere.

The driver double quotes its passwords in every log line and in every error, as the worst of
drivers do; every logger of the process writes at DEBUG; every request carries secrets. What is
looked through: log, errors, answers, every file of the state directory (records with their
write-ahead log, the node's state), command lines and environments, the process's own and its
children's.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest

from csi_driver.base.publish_context import open_context
from csi_driver.base.sealing import load
from csi_driver.base.values import GIB
from csi_driver.config import DRIVER_NAME, BackendSettings
from csi_driver.rpc._generated import csi_pb2 as pb
from tests.support import leftovers
from tests.support.calls import WAIT, Calls
from tests.support.driver_process import DriverDidNotStart, DriverProcess
from tests.support.messages import from_snapshot, mount
from tests.support.state import records

REPOSITORY = Path(__file__).parents[2]
NODE = "node-1"

PASSWORD = 'opt$-"quoted"/Pw9xyz'
LOGIN = "target-l0gin-Zq8w-Zq8w"
PASSPHRASE = "luks passphrase of this volume 77"
TOKEN = "request-t0ken-abcdef"
SECRETS = (PASSWORD, LOGIN, PASSPHRASE, TOKEN)
GIVEN = {"passphrase": PASSPHRASE, "token": TOKEN}
"""Secrets of a request, as sidecars and kubelet take them from a Secret."""

VENDOR_ERROR = "tests.doubles.faults.VendorError"
FAULTS = [
    "create_volume:after",
    "create_volume_from_snapshot:before",
    "initialize_connection:before",
    "initialize_connection:after",
    "terminate_connection:after",
    "remove_export:before",
    "create_snapshot:after",
    "delete_snapshot:before",
    "extend_volume:before",
    "delete_volume:before",
    "ensure_export:after",
]
"""Each happens once; what fails is tried again until it succeeds."""

RECORDER = """\
#!/bin/sh
cat /proc/$$/cmdline /proc/$$/environ >> "$0.seen"
exec {program} "$@"
"""


class Life:
    """A driver process, its calls, and everything that it lets out."""

    def __init__(self, directory: Path, faults: list[str]) -> None:
        self.directory = directory
        self.programs = directory / "programs"
        backends = directory / "backends.json"
        backends.write_bytes(msgspec.json.encode([_backend(directory, faults)]))
        self.process = DriverProcess(
            directory,
            node_id=NODE,
            command=(sys.executable, "-m", "tests.support.serve_backend", str(backends)),
            arguments=("--log-level", "DEBUG"),
            environment={
                "PYTHONPATH": str(REPOSITORY),
                "PATH": f"{self.programs}:{os.environ['PATH']}",
            },
        )
        self.said: list[str] = []

    def record_children(self) -> None:
        """Let every program that the node starts tell its command line and environment."""
        self.programs.mkdir()
        for name in ("mount", "umount", "blkid", "wipefs", "mkfs.xfs", "xfs_repair", "xfs_growfs"):
            program = shutil.which(name)
            assert program, f"{name} is a prerequisite"
            recorder = self.programs / name
            recorder.write_text(RECORDER.format(program=program))
            recorder.chmod(0o755)

    def call(self, method: Callable[..., Any], request: Any) -> Any:
        """Call until it succeeds, as sidecars and kubelet do; keeps all that is answered."""
        if "secrets" in request.DESCRIPTOR.fields_by_name:
            request.secrets.update(GIVEN)
        deadline = time.monotonic() + WAIT
        while True:
            try:
                answer = method(request, timeout=WAIT)
            except grpc.RpcError as error:
                self.said.append(f"{error.code()} {error.details()}")
                if time.monotonic() > deadline:
                    raise
                continue
            self.said.append(repr(answer))
            return answer

    def refused(self, method: Callable[..., Any], request: Any) -> None:
        """Call what must fail; keeps the error."""
        request.secrets.update(GIVEN)
        with pytest.raises(grpc.RpcError) as refusal:
            method(request, timeout=WAIT)
        self.said.append(f"{refusal.value.code()} {refusal.value.details()}")

    def leaks(self) -> list[str]:
        """Where a secret is found in clear, now."""
        pid = self.process.pid
        texts = {
            "log": self.process.log.read_bytes(),
            "answers": "\n".join(self.said).encode(),
            "command line": Path(f"/proc/{pid}/cmdline").read_bytes(),
            "environment": Path(f"/proc/{pid}/environ").read_bytes(),
        }
        for path in self.programs.glob("*.seen"):
            texts[f"child {path.stem}"] = path.read_bytes()
        for path in self.process.state_directory.rglob("*"):
            if path.is_file():
                texts[str(path)] = path.read_bytes()
        return [place for place, text in texts.items() if any(form in text for form in FORMS)]


def _backend(directory: Path, faults: list[str]) -> BackendSettings:
    return BackendSettings(
        name="array",
        driver="tests.doubles.driver.DoubleDriver",
        options={
            "double_directory": str(directory / "array"),
            "double_password": PASSWORD,
            "double_login": LOGIN,
            "double_fail": ",".join(f"{fault}:{VENDOR_ERROR}:1" for fault in faults),
        },
    )


def _forms() -> Iterator[bytes]:
    for secret in SECRETS:
        yield secret.encode()
        yield json.dumps(secret).strip('"').encode()
        yield base64.b64encode(secret.encode()).rstrip(b"=")[:-1]


FORMS = tuple(_forms())


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    made = Life(tmp_path, FAULTS)
    yield made
    with contextlib.suppress(RuntimeError):  # it does not run any more
        made.process.kill()
    leftovers.release(tmp_path)


def create(name: str, source: Any = None) -> Any:
    return pb.CreateVolumeRequest(
        name=name,
        volume_capabilities=[mount(fs_type="xfs")],
        capacity_range=pb.CapacityRange(required_bytes=GIB),
        volume_content_source=source,
    )


def publish(volume_id: str) -> Any:
    return pb.ControllerPublishVolumeRequest(
        volume_id=volume_id, node_id=NODE, volume_capability=mount(fs_type="xfs")
    )


def stage(volume_id: str, context: Any, path: Path) -> Any:
    return pb.NodeStageVolumeRequest(
        volume_id=volume_id,
        publish_context=context,
        staging_target_path=str(path),
        volume_capability=mount(fs_type="xfs"),
    )


@pytest.mark.root
def test_no_secret_shows_in_a_whole_life_with_failures(life: Life):
    life.record_children()
    with life.process, Calls(life.process) as calls:
        volume = life.call(calls.controller.CreateVolume, create("data")).volume.volume_id
        context = begin(life, calls, volume)
        assert life.leaks() == []
        prove_that_the_secrets_were_there(life, volume, context)
        life.process.kill()  # as it is, with its write-ahead log
        life.process.start()
        assert life.leaks() == []
        end(life, calls, volume)
        assert life.leaks() == []
        log, said = life.process.logs(), "\n".join(life.said)
    for fault in FAULTS:
        assert f"{fault}:{VENDOR_ERROR}:1 was asked for" in log + said, "the failure was told"
    assert "the array does not take ***" in log
    assert "the target does not take ***" in log
    assert "the target does not take ***" in said
    assert " DEBUG cinder." in log
    assert " DEBUG os_brick." in log
    assert " DEBUG oslo" in log
    assert {path.stem for path in life.programs.glob("*.seen")} >= {"mkfs.xfs", "mount", "umount"}


def begin(life: Life, calls: Calls, volume: str) -> Any:
    """Up to a volume in use, with a snapshot and a restored volume; the publish_context."""
    answer = life.call(calls.controller.ControllerPublishVolume, publish(volume))
    context = answer.publish_context
    staging = life.directory / "staging"
    file = next((life.directory / "array").iterdir())
    hidden = file.rename(life.directory / "hidden")
    life.refused(calls.node.NodeStageVolume, stage(volume, context, staging))
    hidden.rename(file)
    life.call(calls.node.NodeStageVolume, stage(volume, context, staging))
    target = pb.NodePublishVolumeRequest(
        volume_id=volume,
        publish_context=context,
        staging_target_path=str(staging),
        target_path=str(life.directory / "target"),
        volume_capability=mount(fs_type="xfs"),
    )
    life.call(calls.node.NodePublishVolume, target)
    cut = pb.CreateSnapshotRequest(source_volume_id=volume, name="cut")
    snapshot = life.call(calls.controller.CreateSnapshot, cut).snapshot.snapshot_id
    source = from_snapshot(snapshot)
    restored = life.call(calls.controller.CreateVolume, create("restored", source)).volume
    life.call(calls.controller.DeleteVolume, pb.DeleteVolumeRequest(volume_id=restored.volume_id))
    life.call(calls.controller.DeleteSnapshot, pb.DeleteSnapshotRequest(snapshot_id=snapshot))
    larger = pb.CapacityRange(required_bytes=2 * GIB)
    grow = pb.ControllerExpandVolumeRequest(volume_id=volume, capacity_range=larger)
    life.call(calls.controller.ControllerExpandVolume, grow)
    return context


def prove_that_the_secrets_were_there(life: Life, volume: str, context: Any) -> None:
    """What was not found in clear is there, sealed."""
    state = life.process.state_directory
    ring = load(state / "keys" / "transport.json")
    opened = open_context(context, ring, DRIVER_NAME, volume, NODE)
    assert opened.connection["data"]["auth_password"] == LOGIN
    (record,) = records(state, "volume")
    assert record["provider"]["provider_auth"].startswith("sealed:")


def end(life: Life, calls: Calls, volume: str) -> None:
    """From a volume in use to none."""
    target, staging = str(life.directory / "target"), str(life.directory / "staging")
    unpublish = pb.NodeUnpublishVolumeRequest(volume_id=volume, target_path=target)
    life.call(calls.node.NodeUnpublishVolume, unpublish)
    unstage = pb.NodeUnstageVolumeRequest(volume_id=volume, staging_target_path=staging)
    life.call(calls.node.NodeUnstageVolume, unstage)
    detach = pb.ControllerUnpublishVolumeRequest(volume_id=volume, node_id=NODE)
    life.call(calls.controller.ControllerUnpublishVolume, detach)
    life.call(calls.controller.DeleteVolume, pb.DeleteVolumeRequest(volume_id=volume))


def test_a_backend_that_cannot_be_set_up_tells_no_secret(tmp_path: Path):
    life = Life(tmp_path, ["do_setup:before"])
    with pytest.raises(DriverDidNotStart) as failed:
        life.process.start()
    assert "was asked for" in str(failed.value), "the reason is told"
    assert "does not take ***" in str(failed.value)
    for form in FORMS:
        assert form not in life.process.log.read_bytes()
