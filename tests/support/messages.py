"""CSI messages that many tests build."""

from __future__ import annotations

from csi_driver.rpc._generated import csi_pb2 as pb

MODE = pb.VolumeCapability.AccessMode


def mount(mode: str = "SINGLE_NODE_WRITER", fs_type: str = "") -> pb.VolumeCapability:
    """The capability to mount a filesystem."""
    return pb.VolumeCapability(
        mount=pb.VolumeCapability.MountVolume(fs_type=fs_type), access_mode=MODE(mode=mode)
    )


def block(mode: str = "SINGLE_NODE_WRITER") -> pb.VolumeCapability:
    """The capability to use the raw device."""
    return pb.VolumeCapability(block=pb.VolumeCapability.BlockVolume(), access_mode=MODE(mode=mode))


def from_snapshot(snapshot_id: str) -> pb.VolumeContentSource:
    """The source of a volume that is restored."""
    return pb.VolumeContentSource(
        snapshot=pb.VolumeContentSource.SnapshotSource(snapshot_id=snapshot_id)
    )


def from_volume(volume_id: str) -> pb.VolumeContentSource:
    """The source of a volume that is cloned."""
    return pb.VolumeContentSource(volume=pb.VolumeContentSource.VolumeSource(volume_id=volume_id))
