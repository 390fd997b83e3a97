"""Questions to a block device, answered from the device and not from a cache.

Called by ``node`` before it writes to a device and by
:mod:`csi_driver.attach.attacher`.  What a device holds and whose it is stand in
:mod:`~csi_driver.attach.signatures` and :mod:`~csi_driver.attach.identity`; both
are offered here too, so that a caller needs one module.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat
import struct
from collections.abc import Iterator

from csi_driver.attach.errors import DeviceReadError
from csi_driver.attach.identity import (
    expected_identity,
    identities_of,
    identity_of,
)
from csi_driver.attach.signatures import Signature, signatures

__all__ = [
    "MIB",
    "Signature",
    "edges_are_zero",
    "expected_identity",
    "flush",
    "identities_of",
    "identity_of",
    "is_read_only",
    "read_check",
    "read_direct",
    "set_read_only",
    "signatures",
    "size_bytes",
]

MIB = 1 << 20
"""Bytes in one MiB."""

# linux/fs.h
_BLKROSET = 0x125D
_BLKROGET = 0x125E
_BLKFLSBUF = 0x1261
_ZEROS = bytes(MIB)


def size_bytes(path: str) -> int:
    """Bytes of a block device or a regular file.

    :raises DeviceReadError: it cannot be opened.
    """
    with _opened(path, os.O_RDONLY) as descriptor:
        return os.lseek(descriptor, 0, os.SEEK_END)


def read_direct(path: str, offset: int, length: int) -> bytes:
    """Bytes from the medium, past the page cache.

    :param offset: bytes; a multiple of the logical block size, as is ``length``.
    :raises DeviceReadError: it cannot be read, or ends before.
    """
    try:
        with _opened(path, os.O_RDONLY | os.O_DIRECT) as descriptor:
            return _read(path, descriptor, offset, length, direct=True)
    except _DirectRefused:
        # Some filesystems know no O_DIRECT: have the cache dropped and read through it.
        with _opened(path, os.O_RDONLY) as descriptor:
            os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_DONTNEED)
            return _read(path, descriptor, offset, length, direct=False)


def read_check(path: str) -> None:
    """Prove that the first and the last MiB can be read.

    :raises DeviceReadError: they cannot, or the device is empty.
    """
    for _ in _edges(path):
        pass


def edges_are_zero(path: str) -> bool:
    """Whether the first and the last MiB hold nothing but zeros.

    :raises DeviceReadError: they cannot be read, or the device is empty.
    """
    # Both are read in any case: the question is also whether they can be.
    edges = list(_edges(path))
    return all(edge == _ZEROS[: len(edge)] for edge in edges)


def is_read_only(path: str) -> bool:
    """Whether the kernel refuses to write to the device or the file.

    :raises DeviceReadError: it cannot be asked.
    """
    with _opened(path, os.O_RDONLY) as descriptor:
        if not stat.S_ISBLK(os.fstat(descriptor).st_mode):
            return not os.access(path, os.W_OK)
        raw: bytes = fcntl.ioctl(descriptor, _BLKROGET, bytes(4))
        return bool(struct.unpack("=i", raw)[0])


def set_read_only(path: str, readonly: bool) -> None:
    """Make the kernel refuse writes to a block device, or allow them again.

    :raises DeviceReadError: the device is gone or does not allow it.
    """
    with _opened(path, os.O_RDONLY) as descriptor:
        try:
            fcntl.ioctl(descriptor, _BLKROSET, struct.pack("=i", int(readonly)))
        except OSError as error:
            mode = "read-only" if readonly else "writable"
            raise DeviceReadError(f"{path} cannot be made {mode}: {error.strerror}") from error


def flush(path: str) -> None:
    """Write out what is cached for the device, then forget the cache.

    :raises DeviceReadError: the device did not take it.
    """
    with _opened(path, os.O_RDONLY) as descriptor:
        try:
            os.fsync(descriptor)
            if stat.S_ISBLK(os.fstat(descriptor).st_mode):
                fcntl.ioctl(descriptor, _BLKFLSBUF)
        except OSError as error:
            raise DeviceReadError(
                f"{path} cannot be flushed: {error.strerror}",
                advice="What was written last may be lost; check the path to the storage",
            ) from error


def _edges(path: str) -> Iterator[bytes]:
    size = size_bytes(path)
    if size == 0:
        raise DeviceReadError(f"{path} has no bytes")
    length = min(size, MIB)
    yield read_direct(path, 0, length)
    if size > length:
        yield read_direct(path, size - length, length)


class _DirectRefused(Exception):
    """The file or its filesystem knows no O_DIRECT, or not for this length."""


@contextlib.contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EINVAL and flags & os.O_DIRECT:
            raise _DirectRefused from error
        raise DeviceReadError(f"{path} cannot be opened: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read(path: str, descriptor: int, offset: int, length: int, *, direct: bool) -> bytes:
    # O_DIRECT wants aligned memory; an anonymous mapping is page-aligned.
    with mmap.mmap(-1, length) as buffer:
        done = 0
        while done < length:
            with memoryview(buffer) as whole, whole[done:] as rest:
                try:
                    count = os.preadv(descriptor, [rest], offset + done)
                except OSError as error:
                    if direct and error.errno == errno.EINVAL:
                        raise _DirectRefused from error
                    raise DeviceReadError(
                        f"{path} cannot be read at byte {offset + done}: {error.strerror}"
                    ) from error
            if count == 0:
                raise DeviceReadError(f"{path} ends at byte {offset + done}, before its size")
            done += count
        return buffer[:]
