"""NodeGetVolumeStats: how full a volume is, asked of the kernel."""

from __future__ import annotations

import os

from csi_driver.attach import devices
from csi_driver.base.values import AccessType
from csi_driver.node import observe
from csi_driver.node.errors import DeadMount, VolumePathNotFound
from csi_driver.node.parts import Parts
from csi_driver.node.requests import Usage
from csi_driver.node.state import StagedVolume


def stats(parts: Parts, volume_id: str, volume_path: str) -> tuple[Usage, ...]:
    """Bytes and inodes of a filesystem, the size of a block device.

    :param volume_path: a target path or the staging path.
    :raises VolumePathNotFound: the volume is not there.
    :raises DeadMount: it is there and does not answer.
    """
    staged = require_at(parts, volume_id, volume_path)
    if staged.capability.access_type is AccessType.BLOCK:
        return (Usage(unit="BYTES", total=devices.size_bytes(staged.device)),)
    try:
        status = os.statvfs(volume_path)
    except OSError as error:
        raise DeadMount(f"{volume_path} of volume {volume_id}: {error.strerror}") from error
    return (
        Usage(
            unit="BYTES",
            total=status.f_blocks * status.f_frsize,
            available=status.f_bavail * status.f_frsize,
            used=(status.f_blocks - status.f_bfree) * status.f_frsize,
        ),
        Usage(
            unit="INODES",
            total=status.f_files,
            available=status.f_favail,
            used=status.f_files - status.f_ffree,
        ),
    )


def require_at(parts: Parts, volume_id: str, volume_path: str) -> StagedVolume:
    """The state of the volume, proved to be at ``volume_path``.

    :raises VolumePathNotFound, DeadMount: it is not there, or does not work.
    """
    staged = parts.state.read(volume_id)
    if staged is None:
        raise VolumePathNotFound(f"Volume {volume_id} is not staged on this node")
    if _is_block_staging(staged, volume_path):
        return staged
    seen = observe.look(staged, volume_path)
    if not seen.ours:
        raise VolumePathNotFound(f"Volume {volume_id} is not at {volume_path}")
    if not seen.usable:
        raise DeadMount(f"The device of volume {volume_id} at {volume_path} does not answer")
    return staged


def _is_block_staging(staged: StagedVolume, volume_path: str) -> bool:
    # Nothing is mounted at the staging path of a block volume.
    return (
        staged.capability.access_type is AccessType.BLOCK
        and volume_path == staged.staging_path
        and observe.is_attached(staged)
    )
