"""Copies of volume files that hold the content of one moment.

Used by :class:`csi_driver.drivers.file.FileVolumeDriver` for snapshots, clones and
reverts.  In this order:

1. **Reflink** (XFS, Btrfs): the filesystem shares the blocks, at once, while it
   keeps writers out.  Filesystems mounted on the volume write out first what they
   hold, so that what was written before the call is in the copy; what is written
   during it may be.  As on a storage array the copy is crash-consistent.
2. **Copy of a file that nobody writes**: proved by a read lease, which the kernel
   grants only while nobody has the file open for writing, and breaks when
   somebody wants to.  Only the data is copied, holes stay holes.
3. **Copy of a file in use**: the filesystems on its loop devices are frozen
   meanwhile, for at most ``freeze_limit_s``.
4. Otherwise the copy is refused: it would be a mixture of moments, that is, of no
   use when it is needed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from csi_driver.drivers import loop_mounts
from csi_driver.drivers.errors import VolumeFileBusy
from csi_driver.drivers.volume_directory import VolumeDirectory

_FICLONE = 0x40049409  # linux/fs.h

_NO_REFLINK = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS}
_NO_COPY_RANGE = {errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}

_STEP = 32 << 20
"""Bytes that are copied between two checks that the source still stands still."""

_BUFFER = 1 << 20


@dataclass(frozen=True)
class Copier:
    """Copies files of ``directory``.

    :param freeze_limit_s: so long at most a filesystem in use is held still, seconds.
    """

    directory: VolumeDirectory
    freeze_limit_s: float
    make_timer: loop_mounts.MakeTimer = threading.Timer

    def copy(self, name: str, target: int) -> None:
        """Fill the open, empty file ``target`` with the content of the file ``name``.

        :raises VolumeFileMissing: there is no such file.
        :raises VolumeFileBusy: it is in use, and its users cannot be held.
        :raises OSError: reading or writing failed.
        """
        path = self.directory.existing(name)
        loop_mounts.write_out(path)
        # Read-only: a lease of the kind that is needed is not to be had otherwise.
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if reflink(source, target):
                return
            with self._still(name, path, source) as check:
                sparse_copy(source, target, check)
                check()
        finally:
            os.close(source)

    def copy_all(self, copies: Sequence[tuple[str, int]]) -> None:
        """Fill open, empty files with the content that several files have at one moment.

        All of them are held still before the first is copied, and until the last is.

        :param copies: pairs of a file's name and the open file that gets its content.
        :raises VolumeFileMissing, VolumeFileBusy, OSError: as :meth:`copy`.
        """
        with contextlib.ExitStack() as held:
            opened = []
            for name, target in copies:
                path = self.directory.existing(name)
                loop_mounts.write_out(path)
                source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                held.callback(os.close, source)
                opened.append((name, path, source, target))
            checks = [
                held.enter_context(self._still(name, path, source))
                for name, path, source, _ in opened
            ]

            def check_all() -> None:
                for check in checks:
                    check()

            for _, _, source, target in opened:
                if not reflink(source, target):
                    sparse_copy(source, target, check_all)
            check_all()

    def revert(self, name: str, snapshot: str) -> None:
        """Give the file ``name`` the content of the file ``snapshot``, and keep its size.

        The file stays the same one (its inode, what it is marked with).  A crash
        meanwhile leaves it marked as half reverted; see
        :meth:`VolumeDirectory.check_whole`.

        :raises VolumeFileMissing: one of them is not there.
        :raises VolumeFileBusy: somebody has the file open.
        :raises OSError: reading or writing failed; the file is half reverted.
        """
        path = self.directory.existing(name)
        self.directory.existing(snapshot)
        target = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if not lease(target, fcntl.F_WRLCK):
                raise VolumeFileBusy(f"{path} is in use and cannot be reverted")
            size = os.fstat(target).st_size
            with self.directory.reverting(name, snapshot):
                os.ftruncate(target, 0)
                self.copy(snapshot, target)
                os.ftruncate(target, size)
                os.fsync(target)
        finally:
            os.close(target)

    @contextlib.contextmanager
    def _still(self, name: str, path: Path, source: int) -> Iterator[Callable[[], None]]:
        if lease(source, fcntl.F_RDLCK):
            yield lambda: check_lease(source, fcntl.F_RDLCK, path)
            return
        filesystems = loop_mounts.open_filesystems(path)
        try:
            if not filesystems:
                raise VolumeFileBusy(
                    f"{path} is open for writing, and no filesystem on it can be frozen meanwhile",
                    advice="Detach the volume first, or keep volumes on XFS or Btrfs, whose"
                    " copies need no standstill",
                )
            with (
                self.directory.freezing(name),
                loop_mounts.frozen(filesystems, self.freeze_limit_s, self.make_timer) as check,
            ):
                os.fsync(source)
                yield check
        finally:
            for descriptor in filesystems or []:
                os.close(descriptor)


def reflink(source: int, target: int) -> bool:
    """Make ``target`` share the blocks of ``source``; False where that is not possible.

    :raises OSError: it is possible, and failed.
    """
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in _NO_REFLINK:
            return False
        raise
    return True


def sparse_copy(source: int, target: int, check: Callable[[], None]) -> None:
    """Copy the data of ``source`` into ``target``, which is empty or all holes.

    :param check: called after every 32 MiB; raises to give up.
    """
    size = os.fstat(source).st_size
    if os.fstat(target).st_size < size:
        os.ftruncate(target, size)
    position = 0
    while position < size:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # nothing but a hole up to the end
            raise
        position = start
        end = os.lseek(source, start, os.SEEK_HOLE)
        while position < end:
            position += _copy_step(source, target, position, min(_STEP, end - position))
            check()


def _copy_step(source: int, target: int, position: int, length: int) -> int:
    """Copy up to ``length`` bytes; answers how many."""
    try:
        copied = os.copy_file_range(source, target, length, position, position)
    except OSError as error:
        if error.errno not in _NO_COPY_RANGE:
            raise
        copied = 0
    if copied:
        return copied
    data = os.pread(source, min(length, _BUFFER), position)
    if not data:
        raise OSError(errno.EIO, "The file became shorter while it was copied")
    return os.pwrite(target, data, position)


def lease(descriptor: int, kind: int) -> bool:
    """Take a lease: F_RDLCK, nobody writes the file; F_WRLCK, nobody else has it open.

    It ends with the descriptor.  False when it is not granted.
    """
    # A lease is broken with a signal, by default SIGIO, which ends a process that
    # does not expect it.  SIGURG is ignored by default; the lease is asked instead.
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, kind)
    except OSError:
        return False
    return True


def check_lease(descriptor: int, kind: int, path: Path) -> None:
    """Refuse to go on once the lease is being broken, or was.

    :raises VolumeFileBusy: somebody else has opened the file.
    """
    if fcntl.fcntl(descriptor, fcntl.F_GETLEASE) != kind:
        raise VolumeFileBusy(f"{path} came into use while it was copied")
