"""A node service on real loop devices: volumes are files, attached by os-brick's local connector.

The controller's part (files, contexts, grants) is played here; everything on the node is real.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from csi_driver.attach import loop
from csi_driver.attach.attacher import Attacher, AttachSettings
from csi_driver.base.publish_context import seal
from csi_driver.base.sealing import KeyRing
from csi_driver.base.values import (
    AccessMode,
    AccessType,
    Formatting,
    PublishContext,
    VolumeCapability,
)
from csi_driver.node.requests import ExpandRequest, NodeSettings, PublishRequest, StageRequest
from csi_driver.node.service import NodeService
from csi_driver.node.state import NodeState, StagedVolume
from tests.support.ledger import MemoryLedger

DRIVER = "csi.example.org"
NODE = "node-1"
MIB = 1 << 20
EXT4_BYTES = 64 * MIB
XFS_BYTES = 320 * MIB  # mkfs.xfs makes none below 300 MiB

MOUNT = VolumeCapability(access_type=AccessType.MOUNT, mode=AccessMode.SINGLE_NODE_WRITER)
BLOCK = VolumeCapability(access_type=AccessType.BLOCK, mode=AccessMode.SINGLE_NODE_WRITER)
XFS = msgspec.structs.replace(MOUNT, fs_type="xfs")
READER = msgspec.structs.replace(MOUNT, mode=AccessMode.MULTI_NODE_READER_ONLY)
MULTI = msgspec.structs.replace(MOUNT, mode=AccessMode.SINGLE_NODE_MULTI_WRITER)


def with_flags(*flags: str) -> VolumeCapability:
    """A writable mount with these mount flags."""
    return msgspec.structs.replace(MOUNT, mount_flags=flags)


@dataclass(frozen=True)
class TestVolume:
    """A volume as the controller knows it; ``file`` is where the backend keeps it."""

    __test__ = False

    id: str
    file: Path
    size_bytes: int
    formatting: Formatting


@dataclass
class Bench:
    """One node below ``directory``; ``restart`` gives a second process's view of it."""

    directory: Path
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    keys: KeyRing = field(default_factory=KeyRing.generate)

    def __post_init__(self) -> None:
        self.attacher = Attacher(AttachSettings(lock_path=self.directory / "locks"))
        self.restart()

    def restart(self) -> None:
        """A new service on the same state directory, as after the end of the process."""
        settings = NodeSettings(
            node_id=NODE,
            state_dir=self.directory / "state",
            driver_name=DRIVER,
            topology={"example.org/node": NODE},
            max_volumes=32,
        )
        self.service = NodeService(settings, self.ledger, lambda: self.keys, self.attacher)
        self.state = NodeState(self.directory / "state" / "volumes")

    def volume(self, size_bytes: int = EXT4_BYTES, name: str = "vol-1") -> TestVolume:
        """A new volume of zeros that was never formatted."""
        file = self.directory / f"{name}.raw"
        with file.open("wb") as content:
            content.truncate(size_bytes)
        return TestVolume(name, file, size_bytes, Formatting(fs_uuid=str(uuid.uuid4())))

    def context(self, volume: TestVolume, **changes: object) -> dict[str, str]:
        """The sealed publish_context of the volume."""
        data = {"device_path": str(volume.file), "access_mode": "rw"}
        context = PublishContext(
            volume_id=volume.id,
            node_id=NODE,
            connection={"driver_volume_type": "local", "data": data},
            size_bytes=volume.size_bytes,
            formatting=volume.formatting,
        )
        return seal(msgspec.structs.replace(context, **changes), self.keys, DRIVER)

    def formatting(self, volume: TestVolume) -> Formatting:
        """What the ledger says of the volume; there must be something."""
        confirmation = self.ledger.confirmation(volume.id)
        if confirmation is None:
            raise LookupError(f"volume {volume.id} was never confirmed")
        return confirmation.formatting

    def staging(self, volume: TestVolume) -> str:
        """The staging path of the volume, made as the kubelet makes it."""
        path = self.directory / "staging" / volume.id
        path.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):  # "exist_ok" would look at a dead mount
            path.mkdir()
        return str(path)

    def target(self, name: str = "a") -> str:
        """A target path whose parent is not there yet."""
        return str(self.directory / "pods" / name / "mount")

    def stage_request(
        self, volume: TestVolume, capability: VolumeCapability = MOUNT, **changes: object
    ) -> StageRequest:
        return StageRequest(
            volume_id=volume.id,
            publish_context=self.context(volume, **changes),
            staging_path=self.staging(volume),
            capability=capability,
        )

    def stage(
        self, volume: TestVolume, capability: VolumeCapability = MOUNT, **changes: object
    ) -> str:
        """Stage the volume; ``changes`` are to its publish context.  Answers the staging path."""
        request = self.stage_request(volume, capability, **changes)
        self.service.stage(request)
        return request.staging_path

    def unstage(self, volume: TestVolume) -> None:
        self.service.unstage(volume.id, self.staging(volume))

    def publish(
        self,
        volume: TestVolume,
        name: str = "a",
        capability: VolumeCapability = MOUNT,
        readonly: bool = False,
    ) -> str:
        """Publish the volume; answers the target path."""
        target = self.target(name)
        self.service.publish(
            PublishRequest(
                volume_id=volume.id,
                staging_path=self.staging(volume),
                target_path=target,
                capability=capability,
                readonly=readonly,
            )
        )
        return target

    def unpublish(self, volume: TestVolume, name: str = "a") -> None:
        self.service.unpublish(volume.id, self.target(name))

    def expand(self, volume: TestVolume, path: str, required: int = 0, limit: int = 0) -> int:
        return self.service.expand(
            ExpandRequest(
                volume_id=volume.id, volume_path=path, required_bytes=required, limit_bytes=limit
            )
        )

    def recorded(self, volume: TestVolume) -> StagedVolume:
        """What the state file says; there must be one."""
        staged = self.state.read(volume.id)
        if staged is None:
            raise LookupError(f"volume {volume.id} has no state file")
        return staged

    def nothing_left(self, volume: TestVolume) -> bool:
        """Whether no mount, loop device or state of the volume is on this node."""
        return (
            not os.path.ismount(self.staging(volume))
            and loop.devices_of(volume.file) == []
            and self.state.read(volume.id) is None
        )


def named_after_reboot(staged: StagedVolume, other: StagedVolume) -> StagedVolume:
    """``staged`` as a reboot leaves it when ``other`` got the device that it had."""
    return msgspec.structs.replace(
        staged,
        boot_id="of an earlier boot",
        device=other.device,
        device_number=other.device_number,
        loop=other.loop,
        device_info=other.device_info,
    )


def failing_program(bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    """Put a program of this name first in the path: it runs ``script`` and fails."""
    directory = bench.directory / "programs"
    directory.mkdir(exist_ok=True)
    program = directory / name
    program.write_text(f"#!/bin/sh\n{script}\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
