"""Which filesystems live on a volume file of this host, and how they are held still.

Used by :mod:`csi_driver.drivers.copying`.  A volume file in use is behind a loop
device, and on that (or on a device-mapper device on that, with encryption) there
is a filesystem.  ``FIFREEZE`` makes it write out what it has and then hold all
writers until ``FITHAW``.

A frozen filesystem stays frozen when the process that froze it dies.  So a freeze
ends after a time limit whatever happens, and the volume directory keeps a note
that the next start goes by (:meth:`VolumeDirectory.left_frozen`).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from csi_driver.drivers.errors import VolumeFileBusy

# linux/fs.h and linux/loop.h
_FIFREEZE = 0xC0045877
_FITHAW = 0xC0045878
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_INFO64_BYTES = 232

_PARTITIONS = "/proc/partitions"
_READ_BYTES = 65536
_LOOP = re.compile(r" (loop[0-9]+)$", re.MULTILINE)


@dataclass(frozen=True)
class Mount:
    """A line of mountinfo, as far as it matters here."""

    mount_id: int
    device: str
    point: str
    source: str


class Timer(Protocol):
    """What is used of :class:`threading.Timer`."""

    def start(self) -> None:
        """Begin to count."""

    def cancel(self) -> None:
        """Do not call any more."""


MakeTimer = Callable[[float, Callable[[], None]], Timer]
"""Makes a timer that calls a function after so many seconds; tests give another."""


def loop_devices_of(file: Path) -> list[str]:
    """Names (``loop0``) of the loop devices behind which this very file is."""
    return loop_devices_behind(file.stat())


def loop_devices_behind(file: os.stat_result) -> list[str]:
    """Names of the loop devices behind which the file with this device and inode number is.

    Asked of the devices by these numbers: the path in sysfs depends on the mount
    namespace in which a device was set up.
    """
    inode = (file.st_dev, file.st_ino)
    names = _loop_devices_with_a_file()
    return [name for name in names if _backing_inode(f"/dev/{name}") == inode]


def _loop_devices_with_a_file() -> list[str]:
    """Names, by one read instead of a look at each: a device without a file has no size,
    and is not in this list."""
    return sorted(_LOOP.findall(_read(_PARTITIONS).decode()))


def _read(path: str) -> bytes:
    """A file of the kernel, without what pathlib and io would ask of it before."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return b"".join(iter(lambda: os.read(descriptor, _READ_BYTES), b""))
    finally:
        os.close(descriptor)


def with_holders(name: str, sys_block: Path = Path("/sys/block")) -> list[str]:
    """The block device and all that are stacked on it (``loop0``, ``dm-1``)."""
    holders = sorted(holder.name for holder in (sys_block / name / "holders").glob("*"))
    return [name, *(above for holder in holders for above in with_holders(holder, sys_block))]


def parse_mountinfo(text: str) -> list[Mount]:
    """The mounts of a ``/proc/PID/mountinfo`` (see proc_pid_mountinfo(5))."""
    mounts = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        mounts.append(
            Mount(
                mount_id=int(fields[0]),
                device=fields[2],
                point=_unescape(fields[4]),
                source=_unescape(after.split(" ")[1]),
            )
        )
    return mounts


def open_filesystems(file: Path) -> list[int] | None:
    """Open directories, one for each filesystem on the loop devices of ``file``.

    None when one of the devices has no mount to be seen from here: whoever writes
    to it then cannot be held.  The caller closes the descriptors.
    """
    descriptors: list[int] = []
    with contextlib.ExitStack() as undo:
        for loop in loop_devices_of(file):
            found = [
                descriptor
                for name in with_holders(loop)
                if (descriptor := _open_mount(name)) is not None
            ]
            for descriptor in found:
                undo.callback(os.close, descriptor)
            descriptors += found
            if not found:
                return None
        undo.pop_all()
    return descriptors


def write_out(file: Path) -> None:
    """Have the filesystems on ``file`` write what they hold in memory; best effort."""
    descriptors = open_filesystems(file) or []
    libc = ctypes.CDLL(None, use_errno=True)
    for descriptor in descriptors:
        libc.syncfs(descriptor)
        os.close(descriptor)


def thaw_all(file: Path) -> None:
    """End a freeze that a dead process left on the filesystems of ``file``."""
    for descriptor in open_filesystems(file) or []:
        _thaw(descriptor)
        os.close(descriptor)


@contextlib.contextmanager
def frozen(
    descriptors: list[int], limit_s: float, make_timer: MakeTimer = threading.Timer
) -> Iterator[Callable[[], None]]:
    """Hold the filesystems still; the value is called to check that they still are.

    :param limit_s: after so many seconds they go on, and the check raises.
    :raises VolumeFileBusy: one cannot be frozen; or by the check.
    """
    expired = threading.Event()
    held: list[int] = []

    def thaw() -> None:
        # Popped, so that each is thawed once: the next freeze may be somebody else's.
        with contextlib.suppress(IndexError):
            while True:
                _thaw(held.pop())

    def expire() -> None:
        expired.set()
        thaw()

    def check() -> None:
        if expired.is_set():
            raise VolumeFileBusy(
                f"The volume's filesystem was held for {limit_s:g} s and the copy was not done",
                advice="Detach the volume first, or keep volumes on XFS or Btrfs, which copy at"
                " once; or raise file_freeze_timeout",
            )

    timer = make_timer(limit_s, expire)
    timer.start()
    try:
        for descriptor in descriptors:
            _freeze(descriptor)
            held.append(descriptor)
        # The timer may have run out between the freeze and its entry in the list.
        check()
        yield check
    finally:
        timer.cancel()
        thaw()


def _freeze(descriptor: int) -> None:
    try:
        fcntl.ioctl(descriptor, _FIFREEZE, 0)
    except OSError as error:
        raise VolumeFileBusy(
            f"The filesystem on the volume cannot be frozen: {error.strerror}"
        ) from error


def _thaw(descriptor: int) -> None:
    # EINVAL: it is not frozen.
    with contextlib.suppress(OSError):
        fcntl.ioctl(descriptor, _FITHAW, 0)


def _backing_inode(device: str) -> tuple[int, int] | None:
    """``st_dev`` and ``st_ino`` of the file behind the loop device."""
    info = bytearray(_LOOP_INFO64_BYTES)
    try:
        descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.ioctl(descriptor, _LOOP_GET_STATUS64, info)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    number, inode = struct.unpack_from("=QQ", info)
    return number, inode


def _open_mount(name: str) -> int | None:
    """A directory of the filesystem that is mounted from the block device ``name``."""
    device = f"/dev/{name}"
    number = Path(f"/sys/block/{name}/dev").read_text().strip()
    for mount in parse_mountinfo(Path("/proc/self/mountinfo").read_text()):
        # Btrfs shows a device number of its own, and the device as the source only.
        if number != mount.device and device != mount.source:
            continue
        descriptor = _open_if_on_top(mount)
        if descriptor is not None:
            return descriptor
    return None


def _open_if_on_top(mount: Mount) -> int | None:
    """The mount point, opened, unless another filesystem is mounted over it."""
    try:
        descriptor = os.open(mount.point, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    if f"mnt_id:\t{mount.mount_id}\n" in Path(f"/proc/self/fdinfo/{descriptor}").read_text():
        return descriptor
    os.close(descriptor)
    return None


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), field)
