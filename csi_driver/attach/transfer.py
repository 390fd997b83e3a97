"""The content of one block device onto another.

Called by the object layer where a backend cannot revert a volume itself.
"""

from __future__ import annotations

import os

from csi_driver.attach.errors import DeviceReadError, DeviceWriteError

_STEP = 4 << 20


def copy_device(source: str, target: str, size: int) -> int:
    """Make the first ``size`` bytes of ``target`` those of ``source``; answers bytes written.

    Only what differs is written: blocks that a thin volume has never given out stay so.
    Everything is on the device when this returns.

    :raises DeviceReadError: one of them cannot be read, or is too short.
    :raises DeviceWriteError: the target cannot be written; it may be half changed.
    """
    written = 0
    reader = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        writer = os.open(target, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
        try:
            for offset in range(0, size, _STEP):
                length = min(_STEP, size - offset)
                data = _read(reader, source, offset, length)
                if data != _read(writer, target, offset, length):
                    _write(writer, target, offset, data)
                    written += length
            _flush(writer, target)
        finally:
            os.close(writer)
    finally:
        os.close(reader)
    return written


def _read(descriptor: int, path: str, offset: int, length: int) -> bytes:
    parts = []
    while length:
        try:
            data = os.pread(descriptor, length, offset)
        except OSError as error:
            raise DeviceReadError(f"{path} cannot be read at byte {offset}: {error}") from error
        if not data:
            raise DeviceReadError(f"{path} ends at byte {offset}")
        parts.append(data)
        offset += len(data)
        length -= len(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _write(descriptor: int, path: str, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            done = os.pwrite(descriptor, view, offset)
        except OSError as error:
            raise DeviceWriteError(f"{path} cannot be written at byte {offset}: {error}") from error
        offset += done
        view = view[done:]


def _flush(descriptor: int, path: str) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise DeviceWriteError(f"{path} cannot be flushed: {error}") from error
