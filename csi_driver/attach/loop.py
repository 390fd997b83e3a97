"""Loop devices: a file as a block device, by ioctl and without a process.

Called by :mod:`csi_driver.attach.attacher` for backends whose volumes are files
(file, NFS), and by ``node`` for devices it finds without a record.  The ioctls
are taken instead of losetup because LOOP_CONFIGURE is atomic: a device is never
seen half set up, and a number that another process takes first answers EBUSY.

A device made here carries a mark: a digest of the path of its file, or of the name
that its maker gave.  Paths in sysfs depend on the mount namespace and change when a
file is renamed or deleted; the mark does not, so a device of ours is found again
after a crash.

Kernel 5.8 or newer; ``linux/loop.h`` gives the structures and numbers.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from csi_driver.attach.errors import LoopDeviceBusy, LoopDeviceFailed

_SYSFS = Path("/sys/block")
_CONTROL = "/dev/loop-control"

_LOOP_CLR_FD = 0x4C01
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_SET_CAPACITY = 0x4C07
_LOOP_CONFIGURE = 0x4C0A
_LOOP_CTL_GET_FREE = 0x4C82
_BLKROSET = 0x125D  # linux/fs.h
_FLAG_READ_ONLY = 1
_FLAG_DIRECT_IO = 16

# struct loop_info64: device, inode, rdevice, offset, sizelimit; number, encrypt
# type, encrypt key size, flags; file name, crypt name, encrypt key; init[2].
_INFO = struct.Struct("=5Q4I64s64s32s2Q")
# struct loop_config: descriptor, block size, the info above, reserved[8].
_CONFIG_HEAD = struct.Struct("=2I")
_CONFIG_TAIL = bytes(64)

_ATTEMPTS = 256
_POLL_SECONDS = 0.02
_DELETED = " (deleted)"


@dataclass(frozen=True, kw_only=True)
class BackingFile:
    """The file behind a loop device.

    ``device_number`` and ``inode`` name the file itself (``st_dev``, ``st_ino``)
    and stay true after it was renamed or deleted; ``path`` is where it is, or was.
    """

    path: Path
    device_number: int
    inode: int
    deleted: bool


@dataclass(frozen=True)
class _Status:
    """The parts of ``loop_info64`` that are used here."""

    device_number: int
    inode: int
    mark: bytes


def attach(file: Path, *, readonly: bool = False, owner: str = "") -> str:
    """Make a new loop device of ``file``; answers its path, ``/dev/loopN``.

    Direct I/O is used where the file's filesystem can: data is then cached once,
    and a flush of the device reaches the disk.  No existing device is reused.

    :param owner: marks the device, in place of the path of the file.
    :raises LoopDeviceFailed: the file cannot be opened or no device is to be had.
    """
    descriptor = _open(str(file), os.O_RDONLY if readonly else os.O_RDWR)
    try:
        flags = _FLAG_DIRECT_IO | (_FLAG_READ_ONLY if readonly else 0)
        info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, _mark(file, owner), b"", b"", 0, 0)
        config = _CONFIG_HEAD.pack(descriptor, 0) + info + _CONFIG_TAIL
        for _ in range(_ATTEMPTS):
            device = _free_device()
            if _configure(device, config, readonly=readonly):
                return device
    finally:
        os.close(descriptor)
    raise LoopDeviceFailed(f"No loop device for {file}: every free one was taken by others")


def backing_file(device: str) -> BackingFile | None:
    """The file behind ``device``; None when it is no loop device or has no file.

    :raises LoopDeviceFailed: the device cannot be opened.
    """
    number = _number(device)
    text = _sysfs_backing(number) if number is not None else None
    if text is None:
        return None
    with _opened(device) as descriptor:
        status = None if descriptor is None else _status(descriptor)
    if status is None:
        return None
    return BackingFile(
        path=Path(text.removesuffix(_DELETED)),
        device_number=status.device_number,
        inode=status.inode,
        deleted=text.endswith(_DELETED),
    )


def devices_of(file: Path) -> list[str]:
    """Every loop device of ``file``, whoever made it.

    A file is recognised by device and inode number.  By path too when what was
    there is deleted or replaced: the device then still holds the old content.
    """
    return [
        device
        for device in _bound_devices()
        if (backing := backing_file(device)) is not None and _is_of(backing, file)
    ]


def refresh_size(device: str) -> int:
    """Make the device as large as its file is now; answers the size in bytes.

    :raises LoopDeviceFailed: it is no loop device with a file.
    """
    with _opened(device) as descriptor:
        try:
            if descriptor is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            fcntl.ioctl(descriptor, _LOOP_SET_CAPACITY)
            return os.lseek(descriptor, 0, os.SEEK_END)
        except OSError as error:
            raise LoopDeviceFailed(f"{device} cannot be resized: {error.strerror}") from error


def detach(device: str, *, patience: float = 2.0) -> None:
    """Take the file off ``device``; nothing happens when there is none.

    The kernel answers success while others hold the device open, and only sets
    it to vanish with its last user.  So sysfs is asked afterwards.

    :param patience: seconds to wait for users that pass by, such as udev.
    :raises LoopDeviceBusy: it is mounted or held open; it goes with its last user.
    """
    _detach(device, mark=None, patience=patience)


def detach_made_for(file: Path, *, owner: str = "", only: str = "", patience: float = 2.0) -> None:
    """Remove the loop devices that :func:`attach` made for ``file``.

    Devices that somebody else made of the same file stay.

    :param owner: as it was given to :func:`attach`.
    :param only: one device to remove; '' removes all that were made for the file.
    :param patience: as for :func:`detach`.
    :raises LoopDeviceBusy: one is still in use; the others are removed.
    """
    _detach_marked(_mark(file, owner), [only] if only else _bound_devices(), patience)


def detach_made_by(owner: str, *, patience: float = 2.0) -> None:
    """Remove the loop devices that :func:`attach` made for ``owner``, whatever their files.

    :raises LoopDeviceBusy: one is still in use; the others are removed.
    """
    # What this process may not even open it has not made.
    devices = [device for device in _bound_devices() if os.access(device, os.R_OK)]
    _detach_marked(_mark_of_owner(owner), devices, patience)


def _detach_marked(mark: bytes, devices: list[str], patience: float) -> None:
    busy = None
    for device in devices:
        try:
            _detach(device, mark=mark, patience=patience)
        except LoopDeviceBusy as error:
            busy = error
    if busy is not None:
        raise busy


def _detach(device: str, *, mark: bytes | None, patience: float) -> None:
    number = _number(device)
    if number is None:
        return
    with _opened(device) as descriptor:
        # While the descriptor is open nobody can give this number to another file.
        status = None if descriptor is None else _status(descriptor)
        if descriptor is None or status is None or (mark is not None and status.mark != mark):
            return
        if mounts := _mounts(descriptor):
            # Not even asked: the kernel would agree, and detach at the unmount.
            raise LoopDeviceBusy(f"{device} is mounted at {', '.join(mounts)}")
        _clear(descriptor, device)
    deadline = time.monotonic() + patience
    while _still_holds(device, number, status):
        if time.monotonic() >= deadline:
            raise LoopDeviceBusy(f"{device} is in use by {_users(device, number)}")
        time.sleep(_POLL_SECONDS)


def _clear(descriptor: int, device: str) -> None:
    try:
        fcntl.ioctl(descriptor, _LOOP_CLR_FD)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise LoopDeviceBusy(f"{device} is in use") from error
        if error.errno != errno.ENXIO:
            raise LoopDeviceFailed(f"{device} cannot be detached: {error.strerror}") from error


def _still_holds(device: str, number: int, before: _Status) -> bool:
    if _sysfs_backing(number) is None:
        return False
    with _opened(device) as descriptor:
        return descriptor is not None and _status(descriptor) == before


def _configure(device: str, config: bytes, *, readonly: bool) -> bool:
    """Whether the device is ours now; False when another process was faster."""
    descriptor = _open(device, os.O_RDONLY if readonly else os.O_RDWR)
    try:
        fcntl.ioctl(descriptor, _LOOP_CONFIGURE, config)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise LoopDeviceFailed(f"{device} cannot be set up: {error.strerror}") from error
    else:
        if not readonly:
            # A "read-only" that somebody set on this number outlives the file it was for.
            with contextlib.suppress(OSError):
                fcntl.ioctl(descriptor, _BLKROSET, bytes(4))
        return True
    finally:
        os.close(descriptor)


def _free_device() -> str:
    control = _open(_CONTROL, os.O_RDWR)
    try:
        return f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
    except OSError as error:
        raise LoopDeviceFailed(f"No loop device is to be had: {error.strerror}") from error
    finally:
        os.close(control)


def _open(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise LoopDeviceFailed(f"{path} cannot be opened: {error.strerror}") from error


@contextlib.contextmanager
def _opened(device: str) -> Iterator[int | None]:
    """A descriptor of the device for questions; None when there is no such device."""
    try:
        descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
            raise LoopDeviceFailed(f"{device} cannot be opened: {error.strerror}") from error
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _status(descriptor: int) -> _Status | None:
    try:
        raw = fcntl.ioctl(descriptor, _LOOP_GET_STATUS64, bytes(_INFO.size))
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOTTY):
            return None
        raise
    fields = _INFO.unpack(raw)
    return _Status(device_number=fields[0], inode=fields[1], mark=fields[9].rstrip(b"\0"))


def _mark(file: Path, owner: str) -> bytes:
    return _mark_of_owner(owner) if owner else _digest(os.fsencode(os.path.realpath(file)))


def _mark_of_owner(owner: str) -> bytes:
    # No path begins like this.
    return _digest(b"owner:" + owner.encode())


def _digest(text: bytes) -> bytes:
    # lo_file_name has room for 63 bytes.
    return b"cinder-csi:" + hashlib.sha256(text).hexdigest()[:48].encode()


def _is_of(backing: BackingFile, file: Path) -> bool:
    try:
        found = file.stat()
    except OSError:
        found = None
    if found is not None and (found.st_dev, found.st_ino) == (
        backing.device_number,
        backing.inode,
    ):
        return True
    return backing.deleted and str(backing.path) == os.path.realpath(file)


def _number(device: str) -> int | None:
    match = re.fullmatch(r"/dev/loop(\d+)", os.path.realpath(device))
    return int(match[1]) if match else None


def _bound_devices() -> list[str]:
    numbers = (int(entry.name[4:]) for entry in _SYSFS.glob("loop[0-9]*/"))
    return [f"/dev/loop{n}" for n in sorted(numbers) if _sysfs_backing(n) is not None]


def _sysfs_backing(number: int) -> str | None:
    try:
        return (_SYSFS / f"loop{number}/loop/backing_file").read_text().rstrip("\n")
    except OSError:
        return None


def _mounts(descriptor: int) -> list[str]:
    status = os.fstat(descriptor)
    wanted = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:  # noqa: PTH123
        rows = (line.split() for line in mounts)
        return [row[4] for row in rows if row[2] == wanted]


def _users(device: str, number: int) -> str:
    """Who uses a device, for a person: device-mapper devices and processes."""
    names = [f"/dev/{entry.name}" for entry in _SYSFS.glob(f"loop{number}/holders/*")]
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if str(link.readlink()) == device:
                names.append(f"process {link.parent.parent.name}")
    return ", ".join(dict.fromkeys(names)) or "something outside of this container"
