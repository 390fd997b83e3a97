"""A directory of volume files: names, making, removing, and what they take.

Used by :class:`csi_driver.drivers.file.FileVolumeDriver`; knows no Cinder.

A file gets its name when it is complete and on disk.  Until then it is hidden
(``.creating-...``) and its maker holds a lock on it; hidden files without a living
maker are swept up at the next start.  Snapshots are read-only files.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from csi_driver.drivers.capacity import Usage
from csi_driver.drivers.directory_mark import DirectoryMark
from csi_driver.drivers.errors import (
    NotAdoptable,
    PoolFull,
    UnsafeName,
    VolumeFileBusy,
    VolumeFileError,
    VolumeFileExists,
    VolumeFileMissing,
)

OWNER_XATTR = "user.cinderlib.volume_id"
"""Extended attribute of a volume file: the id of its Cinder volume."""

_CREATING = ".creating-"
_REVERTING = ".reverting-"
_FREEZING = ".freezing-"
_LOCK = ".lock"

# Room for a prefix and a random end within the 255 bytes of a file name.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")

_NO_XATTR = {errno.ENOTSUP, errno.ENODATA}
_QCOW2 = b"QFI\xfb"
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


class VolumeDirectory:
    """The files of one pool, shared by threads and processes of one host.

    Whatever looks for a file or changes one checks first that the directory is still
    the one that :meth:`prepare` found, and raises ``VolumeDirectoryAway`` otherwise.

    :param path: the directory; :meth:`prepare` makes it.
    :param recorded: whether there are records of volumes in it.
    """

    def __init__(self, path: Path, recorded: Callable[[], bool] = lambda: False) -> None:
        self.path = path
        # As text: pathlib would cost half of what making and removing a file costs.
        self._path = os.fspath(path)
        self._lock = f"{self._path}/{_LOCK}"
        self._mark = DirectoryMark(self._path, recorded)

    def prepare(self) -> None:
        """Make the directory if need be, and remove what crashed makers left.

        :raises VolumeDirectoryAway: volumes in it are recorded, and it does not look like it.
        :raises VolumeFileError: the directory cannot be made or written.
        """
        with _explained(f"The volume directory {self.path} cannot be used"):
            self._mark.check_before_start()
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self.locked():
                self._mark.mark_if_used()
                for leftover in self._orphans(_CREATING):
                    leftover.unlink(missing_ok=True)

    def check(self) -> None:
        """See that the directory is still the same one.

        :raises VolumeDirectoryAway: its filesystem is not mounted, or it was replaced.
        """
        with _explained(f"The volume directory {self.path} cannot be used"):
            self._mark.check()

    def path_of(self, name: str) -> Path:
        """Where the file of that name is, or will be.

        :raises UnsafeName: it could be elsewhere, or hidden.
        """
        return Path(self._at(name))

    def _at(self, name: str) -> str:
        if not _PLAIN_NAME.fullmatch(name):
            raise UnsafeName(f"{name!r} cannot be the name of a volume file")
        return f"{self._path}/{name}"

    def find(self, name: str) -> os.stat_result | None:
        """The file of that name; None when there is none.

        :raises VolumeFileMissing: it is no regular file.
        :raises UnsafeName: it could be elsewhere, or hidden.
        """
        path = self._at(name)
        with _explained(f"{path} cannot be used"):
            self._mark.check()
            return _regular(path)

    def existing(self, name: str) -> Path:
        """The path of a file that is there.

        :raises VolumeFileMissing: it is not, or is no regular file.
        """
        return Path(self._existing(name))

    def _existing(self, name: str) -> str:
        path = self._at(name)
        if self.find(name) is None:
            raise VolumeFileMissing(f"There is no file {path}")
        return path

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Keep other threads and processes from making, sweeping and promising space."""
        self._mark.check()
        return _Locked(self._lock)

    @contextlib.contextmanager
    def making(
        self, name: str, size: int, admit: Callable[[Usage], None], *, owner: str = ""
    ) -> Iterator[int]:
        """Make a file: the caller fills the open file, which then gets its name.

        :param size: bytes; nothing is written, the file is sparse.
        :param admit: raises when there is no room, before anything is made.
        :param owner: id of the volume; without it the file is a snapshot, read-only.
        :raises VolumeFileExists: the name is taken.
        :raises VolumeFileError: it cannot be made.
        """
        path = self._at(name)
        with _explained(f"{path} cannot be made"):
            with self.locked():
                if _exists(path):
                    raise VolumeFileExists(f"{path} exists already")
                self._mark.mark()
                admit(self.usage())
                descriptor, hidden = self._hidden(f"{_CREATING}{name}-", size)
            try:
                yield descriptor
                if owner:
                    _set_owner(descriptor, owner)
                else:
                    os.fchmod(descriptor, 0o400)
                os.fsync(descriptor)
                # With the lock: one who measures in between could see neither name, and
                # promise the same room again.  Unlike a rename, a link never replaces.
                with self.locked():
                    os.link(hidden, path)
                    os.unlink(hidden)
            except BaseException:
                _unlink(hidden)
                raise
            finally:
                os.close(descriptor)
            self._sync()

    def remove(
        self, name: str, refuse: Callable[[os.stat_result, str], None] | None = None
    ) -> None:
        """Remove the file; nothing happens when it is not there.

        :param refuse: called with the file that is there and its owner; raises to keep it.
        :raises VolumeFileMissing: it is no regular file, when somebody wants to look at it.
        :raises VolumeFileError: it cannot be removed.
        """
        path = self._at(name)
        with _explained(f"{path} cannot be removed"):
            self._mark.check()
            if refuse is not None and (found := _regular(path)) is not None:
                refuse(found, _owner(path))
            _unlink(path)
            _unlink(f"{self._path}/{_REVERTING}{name}")
            self._sync()

    def grow(self, name: str, size: int, admit: Callable[[Usage], None]) -> None:
        """Make the file ``size`` bytes large; nothing happens when it is already.

        :raises VolumeFileError: it is larger, or cannot be grown.
        """
        path = self.existing(name)
        with _explained(f"{path} cannot be extended"), self.locked():
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                now = os.fstat(descriptor).st_size
                if now > size:
                    raise VolumeFileError(f"{path} has {now} bytes, more than {size}")
                if now < size:
                    admit(self.usage())
                    os.ftruncate(descriptor, size)
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)

    @contextlib.contextmanager
    def reverting(self, name: str, source: str) -> Iterator[None]:
        """Mark the file as half reverted until the block has ended well."""
        mark = self.path / f"{_REVERTING}{name}"
        mark.write_text(source)
        self._sync()
        yield
        mark.unlink()
        self._sync()

    def adopt(self, name: str, new_name: str, *, owner: str = "") -> None:
        """Take over a file of this directory by giving it a name of ours.

        It is renamed first: after a crash in between it can be adopted by its new name.

        :param owner: id of the volume; without it the file is a snapshot.
        :raises VolumeFileMissing: there is no such file.
        :raises VolumeFileExists: the new name is taken.
        :raises NotAdoptable: it is somebody's, of another kind, or has other names.
        """
        target = self.path_of(new_name)
        with _explained(f"{name!r} cannot be taken over"), self.locked():
            path = self.existing(name)
            reason = self.why_not_adoptable(name, snapshot=not owner)
            if reason:
                raise NotAdoptable(f"{path} cannot be taken over: {reason}")
            self._mark.mark()
            if name != new_name:
                if target.exists():
                    raise VolumeFileExists(f"{target} exists already")
                path.rename(target)
            if owner:
                descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    _set_owner(descriptor, owner)
                finally:
                    os.close(descriptor)
            self._sync()

    def why_not_adoptable(self, name: str, *, snapshot: bool) -> str:
        """Why a file may not be taken over as a snapshot or as a volume; '' if it may."""
        info = self.existing(name).stat()
        owner = self.owner(name)
        if owner:
            return f"it belongs to the volume {owner}"
        if bool(info.st_mode & stat.S_IWUSR) is snapshot:
            return "it is writable: a volume" if snapshot else "it is read-only: a snapshot"
        if info.st_nlink != 1:
            return "it has other names, hard links"
        if info.st_size == 0:
            return "it is empty"
        with self.path_of(name).open("rb") as file:
            if file.read(len(_QCOW2)) == _QCOW2:
                return "it is a qcow2 image, not raw data"
        return ""

    def disown(self, name: str) -> None:
        """Let a file be nobody's; it keeps its name and its content."""
        path = self.existing(name)
        with _explained(f"{path} cannot be given back"):
            try:
                os.removexattr(path, OWNER_XATTR)
            except OSError as error:
                if error.errno not in _NO_XATTR:
                    raise
            self._sync()

    def names(self, *, snapshots: bool) -> dict[str, int]:
        """The files with names of their own, and their sizes in bytes: snapshots or volumes."""
        found: dict[str, int] = {}
        self.check()
        with _explained(f"{self.path} cannot be listed"), os.scandir(self.path) as entries:
            for entry in entries:
                info = entry.stat(follow_symlinks=False)
                readonly = not info.st_mode & stat.S_IWUSR
                named = _PLAIN_NAME.fullmatch(entry.name) and stat.S_ISREG(info.st_mode)
                if named and readonly is snapshots:
                    found[entry.name] = info.st_size
        return found

    def check_whole(self, name: str) -> None:
        """Refuse a file whose revert was interrupted.

        :raises VolumeFileBusy: it holds neither its old content nor the snapshot's.
        """
        mark = self.path / f"{_REVERTING}{name}"
        with contextlib.suppress(FileNotFoundError):
            raise VolumeFileBusy(
                f"The volume file {name} is half reverted to {mark.read_text()}",
                advice="Revert it again, to that snapshot or to another, or delete it",
            )

    def owner(self, name: str) -> str:
        """The id of the volume that the file was made for; '' when nothing says so."""
        path = self._existing(name)
        with _explained(f"{path} cannot be read"):
            return _owner(path)

    @contextlib.contextmanager
    def freezing(self, name: str) -> Iterator[None]:
        """Note that filesystems on the file are frozen, should this process die now."""
        with self.locked():
            descriptor, note = self._hidden(_FREEZING)
        try:
            os.write(descriptor, name.encode())
            yield
        finally:
            os.unlink(note)
            os.close(descriptor)

    def left_frozen(self, thaw: Callable[[Path], None]) -> None:
        """Call ``thaw`` with each file on which a dead process left a filesystem frozen."""
        with _explained(f"The volume directory {self.path} cannot be used"), self.locked():
            for note in self._orphans(_FREEZING):
                name = note.read_text()
                if _PLAIN_NAME.fullmatch(name) and (self.path / name).exists():
                    thaw(self.path / name)
                note.unlink()

    def usage(self) -> Usage:
        """Measure the disk and all files; O(files)."""
        disk = os.statvfs(self._path)
        written = promised = 0
        with os.scandir(self._path) as entries:
            for entry in entries:
                if entry.name.startswith(".") and not entry.name.startswith(_CREATING):
                    continue
                try:
                    info = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                blocks = info.st_blocks * 512
                grows = info.st_mode & stat.S_IWUSR
                written += blocks
                promised += max(blocks, info.st_size) if grows else blocks
        return Usage(
            free=disk.f_bavail * disk.f_frsize,
            used=(disk.f_blocks - disk.f_bfree) * disk.f_frsize,
            written=written,
            promised=promised,
        )

    def _hidden(self, prefix: str, size: int = 0) -> tuple[int, str]:
        """A new file that belongs to this process while it is open; needs the lock."""
        path = f"{self._path}/{prefix}{secrets.token_hex(8)}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, size)
        except BaseException:
            os.unlink(path)
            os.close(descriptor)
            raise
        return descriptor, path

    def _orphans(self, prefix: str) -> Iterator[Path]:
        """Hidden files whose maker is dead; needs the lock."""
        for path in self.path.glob(f"{prefix}*"):
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield path

    def _sync(self) -> None:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._mark.check_open(descriptor)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _exists(path: str) -> bool:
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def _regular(path: str) -> os.stat_result | None:
    """The file there; None when there is none."""
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(info.st_mode):
        raise VolumeFileMissing(f"There is no file {path}")
    return info


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _owner(path: str) -> str:
    """See :meth:`VolumeDirectory.owner`."""
    try:
        return os.getxattr(path, OWNER_XATTR).decode("utf-8", "replace")
    except OSError as error:
        if error.errno in _NO_XATTR:
            return ""
        raise


def _set_owner(descriptor: int, owner: str) -> None:
    try:
        os.setxattr(descriptor, OWNER_XATTR, owner.encode())
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise


# Every volume enters the next two: as generators they would take three times as long.


class _Locked:
    """Hold the lock of a file, which is made if it is not there."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


class _explained:
    """Say of an operating system's error what could not be done."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, FileExistsError):
            raise VolumeFileExists(f"{self._what}: it exists already") from error
        if isinstance(error, OSError):
            failed = PoolFull if error.errno in _NO_SPACE else VolumeFileError
            raise failed(f"{self._what}: {error.strerror or error}") from error
