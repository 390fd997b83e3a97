"""What a directory holds, read anew only when it has changed.

Used where every call looks into a directory that hardly ever changes: lock files by
``cinderlib.runtime.locks``, registrations of nodes by ``cli.shared_directory``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

_SETTLED_NS = 2_000_000_000


class WhileUnchanged(Generic[T]):
    """What ``read`` made of a directory, as long as no name was added, replaced or removed there.

    Safe for threads: whichever of them keeps what it read last, it is true of the moment that
    is kept beside it.

    :param read: makes it from the directory; what it gives is shared by those who ask.
    """

    def __init__(self, read: Callable[[Path], T]) -> None:
        self._read = read
        # The directory, when it was last changed (ns since the epoch), and what was read then.
        self._known: tuple[Path, int, T] | None = None

    def of(self, directory: Path) -> T:
        """What the directory holds.

        :raises OSError: it cannot be looked at; and what ``read`` raises.
        """
        known = self._known
        changed = directory.stat().st_mtime_ns
        if known is not None and known[:2] == (directory, changed):
            return known[2]
        looked = time.time_ns()
        found = self._read(directory)
        # A directory may change twice within one tick of the filesystem's clock.
        if looked - changed > _SETTLED_NS:
            self._known = directory, changed, found
        return found
