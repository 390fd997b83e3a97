"""A note on the device itself: an ext filesystem with this UUID is being made.

Called by :mod:`csi_driver.node.filesystems`.  mke2fs writes its tables first and the
superblock last.  A crash in between leaves bytes without a signature, which look
like somebody's data, so that the volume would wait for an administrator.  The note
is written before mke2fs starts and tells that these bytes are ours.  mkfs.xfs needs
none: its first superblock, with the UUID, is the first thing that it writes.

The note lies 128 KiB before the end: mke2fs clears the last 64 KiB, and seldom has a
use for the place.  Where it does, or a filesystem later does, the note is
overwritten, which is harmless: it is asked only while the record says "never
formatted" and no signature is there.
"""

from __future__ import annotations

import os

from csi_driver.attach import devices
from csi_driver.attach.errors import DeviceReadError

_MAGIC = b"cinder-csi mkfs began\n"
_FROM_END = 128 * 1024
_BYTES = 4096


def write(device: str, uuid: str) -> None:
    """Leave the note; it is on the medium when this returns.

    :raises DeviceReadError: the device does not take it.
    """
    offset = _offset(device)
    if offset is None:
        return
    note = (_MAGIC + uuid.lower().encode()).ljust(_BYTES, b"\0")
    try:
        descriptor = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, note, offset)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DeviceReadError(f"{device} cannot be written: {error.strerror}") from error


def read(device: str) -> str:
    """The UUID in the note; '' when there is no note.

    :raises DeviceReadError: the device cannot be read.
    """
    offset = _offset(device)
    if offset is None:
        return ""
    note = devices.read_direct(device, offset, _BYTES)
    if not note.startswith(_MAGIC):
        return ""
    return note[len(_MAGIC) :].rstrip(b"\0").decode("ascii", "replace")


def _offset(device: str) -> int | None:
    """Where the note lies, in bytes; None on devices too small to bother."""
    size = devices.size_bytes(device)
    return (size - _FROM_END) // _BYTES * _BYTES if size >= devices.MIB else None
