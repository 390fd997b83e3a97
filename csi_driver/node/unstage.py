"""NodeUnstageVolume, and the undoing that a failed stage needs as well.

Works from the node's own state alone, with every store out of reach.  Without a
usable state file it works from what is mounted at the staging path.
"""

from __future__ import annotations

import logging

import msgspec

from csi_driver.attach import devices, loop
from csi_driver.attach.errors import UnsupportedTransport
from csi_driver.base.errors import CinderCSIError, InvalidRequest, SealError
from csi_driver.base.values import AccessType
from csi_driver.node import mounts, observe
from csi_driver.node.errors import NodeStateDamaged, StillPublished
from csi_driver.node.operations import Progress
from csi_driver.node.parts import Parts
from csi_driver.node.state import StagedVolume, Step

LOG = logging.getLogger(__name__)


def unstage(parts: Parts, volume_id: str, staging_path: str, progress: Progress) -> None:
    """Undo a stage completely: unmount, flush, detach, forget.  Repeats are fine.

    A volume that is staged at another path is unstaged there: CSI allows one
    staging path per node, and the answer OK lets the controller detach the volume.

    :raises StillPublished: it is mounted at a target path.  Drivers differ here (some
        unmount and then fail at the busy device); refusing first keeps a running Pod whole.
    :raises TargetBusy, UnmountFailed: the staging path cannot be unmounted.
    :raises CinderCSIError: the device cannot be detached; the state is kept for the retry.
    """
    try:
        staged = parts.state.read(volume_id)
    except NodeStateDamaged as error:
        LOG.warning("Volume %s is unstaged from the mount table: %s", volume_id, error.message)
        _undo_mount(staging_path)
        aside = progress.record("set-aside", parts.state.set_aside, volume_id)
        LOG.warning("The damaged state file is now %s", aside)
        return
    if staged is None:
        _undo_mount(staging_path)
        return
    if live := observe.live_targets(staged):
        raise StillPublished(f"Volume {volume_id} is published at {', '.join(live)}")
    unstaging = msgspec.structs.replace(staged, step=Step.UNSTAGING)
    progress.record(unstaging.step, parts.state.write, unstaging)
    undo(parts, staged, progress)


def undo(parts: Parts, staged: StagedVolume, progress: Progress) -> None:
    """Take away everything that ``staged`` records, then the record; proved at each step.

    :raises CinderCSIError: something cannot be undone; the record is kept.
    """
    if staged.capability.access_type is AccessType.MOUNT:
        progress.at("unmounting")
        mounts.unmount(staged.staging_path)
    progress.at("detaching")
    _flush(staged)
    _disconnect(parts, staged)
    progress.record("gone", parts.state.remove, staged.volume_id)


def _undo_mount(staging_path: str) -> None:
    """Unmount what is at the path and detach the loop device that it came from."""
    mount = mounts.find(staging_path)
    if mount is None:
        return
    mounts.unmount(staging_path)
    if mounts.device_number(mount.source) == mount.device and loop.backing_file(mount.source):
        loop.detach(mount.source)


def _flush(staged: StagedVolume) -> None:
    """Write out what the kernel still holds; a device that fails cannot stop an unstage."""
    if staged.readonly or not observe.is_attached(staged):
        return
    try:
        devices.flush(staged.device)
    except (CinderCSIError, OSError) as error:
        LOG.warning("Volume %s: %s was not flushed: %s", staged.volume_id, staged.device, error)


def _disconnect(parts: Parts, staged: StagedVolume) -> None:
    # What os-brick told about a device of an earlier boot names another device now.
    device_info = staged.device_info if staged.boot_id == observe.boot_id() else {}
    try:
        connection = parts.connection(staged)
    except (SealError, InvalidRequest):
        if not staged.loop:
            raise
        # A file needs no connection info to be let go.
        if observe.is_attached(staged):
            loop.detach(staged.loop)
        return
    try:
        parts.attacher.disconnect(connection, device_info)
    except UnsupportedTransport:
        # What has no connector never became a device; one that did must not be forgotten.
        if staged.device:
            raise
