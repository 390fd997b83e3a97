"""A volume's whole life over a CSI socket: the calls that Kubernetes would make.

Called by the demo.  Each step is one method that does its calls and answers one
sentence; what a step needs from an earlier one is kept here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from csi_driver.base.errors import CinderCSIError
from csi_driver.base.values import GIB
from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc.client import Client

DATA_MIB = 64


class DemoFailed(CinderCSIError):
    """What the demo saw is not what it must see."""


@dataclass
class Volume:
    """A volume of the demo and where it is."""

    name: str
    id: str
    size: int
    publish_context: dict[str, str] = field(default_factory=dict)
    staging: Path = Path()
    target: Path = Path()


class Life:
    """The steps, in the order of their names in :mod:`csi_driver.cli.demo`."""

    def __init__(self, client: Client, directory: Path) -> None:
        self._csi = client
        self._directory = directory
        self._node_id = client.node.NodeGetInfo(pb.NodeGetInfoRequest()).node_id
        self._capability = pb.VolumeCapability(
            mount=pb.VolumeCapability.MountVolume(fs_type="xfs"),
            access_mode=pb.VolumeCapability.AccessMode(
                mode=pb.VolumeCapability.AccessMode.SINGLE_NODE_WRITER
            ),
        )
        self._volumes: list[Volume] = []
        self._snapshot_id = ""
        self._checksum = ""

    # -- steps ----------------------------------------------------------------

    def create(self) -> str:
        """CreateVolume, empty."""
        volume = self._create("demo-original", GIB)
        return f"{volume.id}, 1 GiB"

    def controller_publish(self) -> str:
        """ControllerPublishVolume."""
        sealed = self._controller_publish(self._volumes[0])
        return f"to node {self._node_id}; context sealed, {sealed} bytes"

    def stage(self) -> str:
        """NodeStageVolume: attach, mkfs, mount."""
        self._stage(self._volumes[0])
        return f"attached, mkfs xfs, mounted at {self._volumes[0].staging.name}"

    def publish(self) -> str:
        """NodePublishVolume."""
        self._publish(self._volumes[0])
        return f"bind mounted at {self._volumes[0].target.name}"

    def write(self) -> str:
        """Write data as a workload would."""
        self._checksum = self._write(self._volumes[0])
        return f"{DATA_MIB} MiB, SHA-256 {self._checksum[:16]}..."

    def snapshot(self) -> str:
        """CreateSnapshot of the mounted volume; then the original changes."""
        snapshot = self._csi.controller.CreateSnapshot(
            pb.CreateSnapshotRequest(name="demo-snapshot", source_volume_id=self._volumes[0].id)
        ).snapshot
        self._snapshot_id = snapshot.snapshot_id
        if self._volumes[0].staging != Path():
            (self._volumes[0].target / "later").write_text("written after the snapshot")
        return f"{snapshot.snapshot_id}, ready to use: {snapshot.ready_to_use}"

    def restore(self) -> str:
        """CreateVolume from the snapshot, larger."""
        source = pb.VolumeContentSource(
            snapshot=pb.VolumeContentSource.SnapshotSource(snapshot_id=self._snapshot_id)
        )
        volume = self._create("demo-restored", 2 * GIB, source)
        return f"{volume.id}, 2 GiB"

    def compare_restored(self) -> str:
        """Mount the restored volume: same data, nothing later, grown filesystem."""
        volume = self._volumes[-1]
        self._bring_up(volume)
        self._same_data(volume)
        if (volume.target / "later").exists():
            raise DemoFailed("The restored volume holds data written after the snapshot")
        return f"same SHA-256; filesystem grown to {_filesystem_gib(volume.target):.2f} GiB"

    def clone(self) -> str:
        """CreateVolume from the volume; mounted beside its source."""
        source = pb.VolumeContentSource(
            volume=pb.VolumeContentSource.VolumeSource(volume_id=self._volumes[0].id)
        )
        volume = self._create("demo-clone", GIB, source)
        return f"{volume.id}, 1 GiB"

    def compare_clone(self) -> str:
        """Mount the clone beside its source: same data."""
        self._bring_up(self._volumes[-1])
        self._same_data(self._volumes[-1])
        return "same SHA-256; xfs mounted beside its source"

    def expand(self) -> str:
        """ControllerExpandVolume, and NodeExpandVolume while it is mounted."""
        volume = self._volumes[0]
        answer = self._csi.controller.ControllerExpandVolume(
            pb.ControllerExpandVolumeRequest(
                volume_id=volume.id, capacity_range=pb.CapacityRange(required_bytes=3 * GIB)
            )
        )
        if answer.capacity_bytes != 3 * GIB:
            raise DemoFailed(f"Asked for 3 GiB, got {answer.capacity_bytes} bytes")
        if volume.staging == Path():
            return "1 GiB to 3 GiB"
        self._csi.node.NodeExpandVolume(
            pb.NodeExpandVolumeRequest(
                volume_id=volume.id,
                volume_path=str(volume.target),
                staging_target_path=str(volume.staging),
                capacity_range=pb.CapacityRange(required_bytes=3 * GIB),
                volume_capability=self._capability,
            )
        )
        self._same_data(volume)
        return f"1 GiB to 3 GiB while mounted; filesystem {_filesystem_gib(volume.target):.2f} GiB"

    def stats(self) -> str:
        """NodeGetVolumeStats."""
        volume = self._volumes[0]
        usage = self._csi.node.NodeGetVolumeStats(
            pb.NodeGetVolumeStatsRequest(volume_id=volume.id, volume_path=str(volume.target))
        ).usage
        bytes_used = next(entry for entry in usage if entry.unit == pb.VolumeUsage.BYTES)
        inodes = next(entry for entry in usage if entry.unit == pb.VolumeUsage.INODES)
        return f"{bytes_used.used >> 20} of {bytes_used.total >> 20} MiB, {inodes.used} inodes used"

    def unpublish(self) -> str:
        """NodeUnpublishVolume of every volume."""
        for volume in self._on(lambda volume: volume.target):
            self._csi.node.NodeUnpublishVolume(
                pb.NodeUnpublishVolumeRequest(volume_id=volume.id, target_path=str(volume.target))
            )
        return f"{len(self._volumes)} volumes"

    def unstage(self) -> str:
        """NodeUnstageVolume of every volume."""
        for volume in self._on(lambda volume: volume.staging):
            self._csi.node.NodeUnstageVolume(
                pb.NodeUnstageVolumeRequest(
                    volume_id=volume.id, staging_target_path=str(volume.staging)
                )
            )
            volume.staging.rmdir()
        return f"{len(self._volumes)} volumes: unmounted, loop devices gone"

    def controller_unpublish(self) -> str:
        """ControllerUnpublishVolume of every volume that is published."""
        published = [volume for volume in self._volumes if volume.publish_context]
        for volume in published:
            self._csi.controller.ControllerUnpublishVolume(
                pb.ControllerUnpublishVolumeRequest(volume_id=volume.id, node_id=self._node_id)
            )
        return f"{len(published)} volume" + ("s" if len(published) != 1 else "")

    def delete(self) -> str:
        """DeleteSnapshot and DeleteVolume."""
        self._csi.controller.DeleteSnapshot(pb.DeleteSnapshotRequest(snapshot_id=self._snapshot_id))
        for volume in self._volumes:
            self._csi.controller.DeleteVolume(pb.DeleteVolumeRequest(volume_id=volume.id))
        left = self._csi.controller.ListVolumes(pb.ListVolumesRequest()).entries
        snapshots = self._csi.controller.ListSnapshots(pb.ListSnapshotsRequest()).entries
        if left or snapshots:
            raise DemoFailed(f"Still listed: {len(left)} volumes, {len(snapshots)} snapshots")
        return f"{len(self._volumes)} volumes, 1 snapshot; none is listed"

    def abandon(self) -> None:
        """After a failure: undo on this machine what the driver lets us undo."""
        for clean_up in (self.unpublish, self.unstage, self.controller_unpublish, self.delete):
            with contextlib.suppress(grpc.RpcError, OSError, DemoFailed):
                clean_up()

    # -- how ------------------------------------------------------------------

    def _on(self, place: Callable[[Volume], Path]) -> list[Volume]:
        """The volumes that have a path of this kind."""
        return [volume for volume in self._volumes if place(volume) != Path()]

    def _create(self, name: str, size: int, source: pb.VolumeContentSource | None = None) -> Volume:
        answer = self._csi.controller.CreateVolume(
            pb.CreateVolumeRequest(
                name=name,
                capacity_range=pb.CapacityRange(required_bytes=size),
                volume_capabilities=[self._capability],
                volume_content_source=source,
            )
        ).volume
        if answer.capacity_bytes != size:
            raise DemoFailed(f"Asked for {size} bytes, got {answer.capacity_bytes}")
        volume = Volume(name, answer.volume_id, size)
        self._volumes.append(volume)
        return volume

    def _controller_publish(self, volume: Volume) -> int:
        answer = self._csi.controller.ControllerPublishVolume(
            pb.ControllerPublishVolumeRequest(
                volume_id=volume.id, node_id=self._node_id, volume_capability=self._capability
            )
        )
        volume.publish_context = dict(answer.publish_context)
        return sum(len(key) + len(value) for key, value in volume.publish_context.items())

    def _stage(self, volume: Volume) -> None:
        volume.staging = self._directory / f"{volume.name}.staging"
        volume.staging.mkdir()
        self._csi.node.NodeStageVolume(
            pb.NodeStageVolumeRequest(
                volume_id=volume.id,
                publish_context=volume.publish_context,
                staging_target_path=str(volume.staging),
                volume_capability=self._capability,
            )
        )

    def _publish(self, volume: Volume) -> None:
        volume.target = self._directory / f"{volume.name}.target"
        self._csi.node.NodePublishVolume(
            pb.NodePublishVolumeRequest(
                volume_id=volume.id,
                publish_context=volume.publish_context,
                staging_target_path=str(volume.staging),
                target_path=str(volume.target),
                volume_capability=self._capability,
            )
        )

    def _bring_up(self, volume: Volume) -> None:
        self._controller_publish(volume)
        self._stage(volume)
        self._publish(volume)

    def _write(self, volume: Volume) -> str:
        digest = hashlib.sha256()
        with (volume.target / "data").open("wb") as file:
            for _ in range(DATA_MIB):
                block = os.urandom(1 << 20)
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        return digest.hexdigest()

    def _same_data(self, volume: Volume) -> None:
        with (volume.target / "data").open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self._checksum:
            raise DemoFailed(f"{volume.name}: the data differ from what was written")


def _filesystem_gib(path: Path) -> float:
    status = os.statvfs(path)
    return status.f_blocks * status.f_frsize / GIB
