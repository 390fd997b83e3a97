"""Filesystems on block devices: probe, make, check, grow, and how to mount them.

Called by ``node`` when it stages and expands volumes.  The one dangerous step,
mkfs, is decided in :mod:`csi_driver.node.filesystem_rules`, a pure function; this
module looks at the device for it and carries out what it decided.  Supported are
ext4 (the default), ext3 and xfs.
"""

from __future__ import annotations

from collections.abc import Sequence

from csi_driver.attach import devices
from csi_driver.attach.errors import CommandFailed
from csi_driver.attach.processes import run
from csi_driver.node import filesystem_intent
from csi_driver.node.filesystem_errors import (
    FilesystemDamaged,
    FilesystemNotGrown,
    FilesystemNotMade,
    ForeignSignature,
    GrowNotPermitted,
    UnsupportedFilesystem,
)
from csi_driver.node.filesystem_rules import (
    DEFAULT,
    SUPPORTED,
    Action,
    Decision,
    Probed,
    decide,
)
from csi_driver.node.filesystem_sizes import (
    FilesystemSize,
    ext_size,
    xfs_is_unfinished,
    xfs_size,
)

__all__ = [
    "DEFAULT",
    "SUPPORTED",
    "Action",
    "Decision",
    "Probed",
    "check",
    "decide",
    "grow_mounted",
    "grow_offline",
    "make",
    "mount_options",
    "needs_growth",
    "probe",
]

_EXT = ("ext3", "ext4")

# e2fsck(8): 1 errors corrected, 2 corrected and the system should be rebooted
# (said of a mounted root only), 4 left uncorrected, 8 operational error.
_E2FSCK_FINE = (0, 1, 2)
_E2FSCK_UNCORRECTED = 4

# A full check of a large filesystem takes long; it is bounded all the same, so that
# a device that stopped answering is noticed.
_CHECK_SECONDS = 4 * 3600.0
_MAKE_SECONDS = 1800.0


def probe(device: str) -> Probed:
    """What the device shows, after its first and last MiB were proved readable.

    :raises DeviceReadError: it cannot be read.
    :raises AmbivalentSignatures: the probes contradict each other.
    """
    zero = devices.edges_are_zero(device)
    found = devices.signatures(device)
    own = [s for s in found if s.usage == "filesystem" and s.type in SUPPORTED]
    if not found and not zero:
        return Probed(uuid=filesystem_intent.read(device))
    if len(own) != 1:
        return Probed(blank=not found, foreign=tuple(s.type for s in found))
    return Probed(
        fs_type=own[0].type,
        uuid=own[0].uuid,
        foreign=tuple(s.type for s in found if s is not own[0]),
    )


def make(device: str, fs_type: str, uuid: str, options: Sequence[str] = ()) -> None:
    """Make a filesystem with this UUID; only after :func:`decide` said so.

    The device is looked at once more, right before: only a filesystem with the
    same UUID may be there, which is our own unfinished one.  Zeros at both ends are
    enough now: what another node may have made in between begins there.

    :param options: more arguments for mkfs.
    :raises ForeignSignature: something else is on the device.
    :raises FilesystemNotMade: mkfs failed.
    :raises UnsupportedFilesystem: the type cannot be made.
    """
    found = () if devices.edges_are_zero(device) else devices.signatures(device)
    if strange := [s.type for s in found if s.uuid.lower() != uuid.lower() or not uuid]:
        raise ForeignSignature(f"{device} holds {', '.join(strange)}; it is not formatted")
    if fs_type in _EXT:
        # No -F: mke2fs then refuses a device that is mounted or otherwise in use. No blocks
        # are reserved for root, as a volume is a user's. No discard: a new volume has nothing
        # to discard, and on some arrays it takes minutes.
        filesystem_intent.write(device, uuid)
        command = [f"mkfs.{fs_type}", "-q", "-m", "0", "-E", "nodiscard", "-U", uuid]
    elif fs_type == "xfs":
        # -f only over our own unfinished filesystem; mkfs.xfs is a guard of its own otherwise.
        command = ["mkfs.xfs", "-q", "-K", *(["-f"] if found else []), "-m", f"uuid={uuid}"]
    else:
        raise UnsupportedFilesystem(f"Filesystem type {fs_type!r} is not supported")
    try:
        run([*command, *options, device], timeout=_MAKE_SECONDS)
    except CommandFailed as error:
        raise FilesystemNotMade(f"{device} was not formatted: {error.message}") from error
    devices.flush(device)


def check(device: str, fs_type: str) -> None:
    """Bring an unmounted filesystem into order before it is mounted.

    ext3, ext4: ``e2fsck -p`` replays the journal, repairs what is safe to repair
    without asking, and returns at once when the filesystem was left clean.  xfs: its
    journal replays at mount, so it is only seen that mkfs came to its end.  A
    read-only device: nothing, no repair can be written.

    :raises FilesystemDamaged: a person must decide about the repair.
    :raises CommandFailed: the check itself did not work (device in use, unreadable).
    """
    if devices.is_read_only(device):
        return
    if fs_type in _EXT:
        _e2fsck(device)
    elif xfs_is_unfinished(device):
        raise FilesystemDamaged(
            f"The xfs on {device} was never finished by mkfs.xfs",
            advice=f"Look at it with xfs_repair -n {device} on this node",
        )


def needs_growth(device: str, fs_type: str, mountpoint: str | None) -> bool:
    """Whether the filesystem can become larger on its device.

    :param mountpoint: where it is mounted; None when it is not.
    :raises DeviceReadError: the device cannot be read.
    :raises FilesystemMismatch: it does not hold that type.
    """
    return _size(device, fs_type, mountpoint).can_grow_to(devices.size_bytes(device))


def grow_offline(device: str, fs_type: str) -> bool:
    """Grow an unmounted filesystem to its device; False when nothing was done.

    Answers False for xfs too: it grows while mounted only.

    :raises FilesystemDamaged: it must be repaired first.
    :raises FilesystemNotGrown: growing failed.
    """
    if fs_type not in _EXT or not needs_growth(device, fs_type, None):
        return False
    # resize2fs insists on a full check made just before.
    _e2fsck(device, "-f")
    try:
        run(["resize2fs", device], timeout=_CHECK_SECONDS)
    except CommandFailed as error:
        raise FilesystemNotGrown(f"{device} was not grown: {error.message}") from error
    return True


def grow_mounted(device: str, mountpoint: str, fs_type: str) -> bool:
    """Grow a mounted filesystem to its device; False when nothing was to be done.

    :raises GrowNotPermitted: the kernel does not allow it to this process.
    :raises FilesystemNotGrown: growing failed.
    """
    if not needs_growth(device, fs_type, mountpoint):
        return False
    command = ["xfs_growfs", "-d", mountpoint] if fs_type == "xfs" else ["resize2fs", device]
    try:
        run(command, timeout=_CHECK_SECONDS)
    except CommandFailed as error:
        if "permission denied" in error.stderr.lower() or "not permitted" in error.stderr.lower():
            raise GrowNotPermitted(
                f"{fs_type} at {mountpoint} cannot grow while mounted: {error.stderr}"
            ) from error
        raise FilesystemNotGrown(f"{mountpoint} was not grown: {error.message}") from error
    return True


def mount_options(
    fs_type: str, flags: Sequence[str], readonly: bool, device_readonly: bool
) -> list[str]:
    """The options to mount a filesystem with, in order and without repeats.

    xfs always gets ``nouuid``: clones and restored snapshots keep the UUID of
    their source and must mount beside it; the record proves whose they are.

    A read-only device cannot replay a journal, so the kernel refuses to mount a dirty
    one; the caller tells that as :exc:`JournalNotReplayed`.  ``norecovery`` and
    ``noload`` would let it mount, but without what the journal holds: data that was
    synced is then missing without a word.  So they are never added here, and a user
    who wants that asks for them in the mount flags.

    :param flags: the mount flags of the request; 'rw' gives way to ``readonly``.
    :param readonly: the volume is published read-only.
    :param device_readonly: the kernel refuses to write to the device.
    """
    must_not_write = readonly or device_readonly
    options = [flag for flag in flags if not (must_not_write and flag in ("rw", "ro"))]
    if must_not_write:
        options.append("ro")
    if fs_type == "xfs":
        options.append("nouuid")
    return list(dict.fromkeys(options))


def _size(device: str, fs_type: str, mountpoint: str | None) -> FilesystemSize:
    if fs_type in _EXT:
        return ext_size(device)
    if fs_type == "xfs":
        return xfs_size(device, mountpoint)
    raise UnsupportedFilesystem(f"Filesystem type {fs_type!r} is not supported")


def _e2fsck(device: str, *more: str) -> None:
    try:
        run(["e2fsck", *more, "-p", device], timeout=_CHECK_SECONDS, ok=_E2FSCK_FINE)
    except CommandFailed as error:
        if error.returncode < 0 or not error.returncode & _E2FSCK_UNCORRECTED:
            raise
        raise FilesystemDamaged(
            f"The filesystem on {device} has errors that cannot be repaired safely: {error.stderr}",
            advice=f"Save what can be read, then run e2fsck -f {device} on this node",
        ) from error
