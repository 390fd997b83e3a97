"""Tells the volume directory from what shows in its place when its filesystem is not mounted.

Used by :class:`csi_driver.drivers.volume_directory.VolumeDirectory`.  In an empty mount
point every volume would count as deleted, and new ones would be hidden by the next mount.
So the directory is marked before the first volume is made in it: not earlier, or a start
before the first mount would mark the mount point.  The mark is a symbolic link whose text
is a random id: made at once or not at all, and it takes no block from the volumes.

While the process runs one ``stat`` tells that the directory is the same (device and
inode); when they have changed, a directory with the same id is the same one, mounted
anew.  At start the directory may be any that is marked, that holds volumes (of a version
without marks), or of which no volume is recorded.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections.abc import Callable
from pathlib import Path

from csi_driver.drivers.errors import VolumeDirectoryAway

MARK = ".directory-id"
"""Name of the symbolic link; a person may make one with any text."""

# Every name of ours ends with the id of its volume or snapshot.
_OURS = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class DirectoryMark:
    """The mark of one directory; safe for threads.

    :param path: the directory.
    :param recorded: whether there are records of volumes in it; asked only when the
        directory itself does not tell.
    """

    def __init__(self, path: str, recorded: Callable[[], bool]) -> None:
        self._path = path
        self._recorded = recorded
        # Protects the two below; they are read without it, to find them unchanged.
        self._lock = threading.Lock()
        self._seen: tuple[int, int] | None = None
        self._id = ""

    def check(self) -> None:
        """See that the directory is the one it was; costs a ``stat`` if it is.

        :raises VolumeDirectoryAway: it is another, or not there.
        """
        now = self._now()
        if now is None or now != self._seen:
            self._recognise()

    def check_open(self, descriptor: int) -> None:
        """See that an open directory is the one that was checked last.

        :raises VolumeDirectoryAway: it is another.
        """
        info = os.fstat(descriptor)
        if (info.st_dev, info.st_ino) != self._seen:
            raise VolumeDirectoryAway(f"The volume directory {self._path} was replaced meanwhile")

    def check_before_start(self) -> None:
        """See that the directory may be used, and made if it is not there.

        :raises VolumeDirectoryAway: volumes in it are recorded, and it does not look like it.
        """
        if self._now() is None:
            self._refuse_if_recorded("not there")
        else:
            self._recognise()

    def mark(self) -> None:
        """Mark the directory, on disk, unless it is; needs the directory's lock."""
        if self._id:
            return
        # Again: from here on the open lock keeps the filesystem from being unmounted.
        self.check()
        with self._lock:
            found = self._read()
            if found is None:
                found = secrets.token_hex(16)
                self._write(found)
            self._id = found

    def mark_if_used(self) -> None:
        """Mark a directory that came into use before there were marks; needs its lock."""
        if not self._id and self._holds_volumes():
            self.mark()

    def _recognise(self) -> None:
        with self._lock:
            now = self._now()
            if now is None:
                raise VolumeDirectoryAway(f"The volume directory {self._path} is not there")
            found = self._read()
            if self._id:
                if found != self._id:
                    what = "not marked" if found is None else "marked as another"
                    raise VolumeDirectoryAway(
                        f"The volume directory {self._path} was replaced: it is {what}"
                    )
            elif found is None and not self._holds_volumes():
                self._refuse_if_recorded("empty")
            self._id = self._id or found or ""
            self._seen = now

    def _refuse_if_recorded(self, state: str) -> None:
        if self._recorded():
            raise VolumeDirectoryAway(
                f"The volume directory {self._path} is {state}, and volumes in it are recorded",
                advice="Mount the filesystem that holds the volumes; if they are lost, make the"
                f" directory and mark it: ln -s new {self._path}/{MARK}",
            )

    def _now(self) -> tuple[int, int] | None:
        try:
            info = os.stat(self._path)  # noqa: PTH116 - before every use: pathlib is slow
        except (FileNotFoundError, NotADirectoryError):
            return None
        return info.st_dev, info.st_ino

    def _read(self) -> str | None:
        try:
            return str(Path(self._path, MARK).readlink())
        except FileNotFoundError:
            return None

    def _write(self, known: str) -> None:
        Path(self._path, MARK).symlink_to(known)
        directory = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _holds_volumes(self) -> bool:
        with os.scandir(self._path) as entries:
            return any(
                _OURS.search(entry.name) and entry.is_file(follow_symlinks=False)
                for entry in entries
            )
