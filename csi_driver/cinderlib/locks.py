"""The locks of the object layer: one thread at a time works on an object.

Used by ``session``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ObjectLocks:
    """A lock for each name that is in use, and a way to wait until none is held.

    ``_guard`` protects everything here and is held for a dictionary access only.
    """

    def __init__(self) -> None:
        self._guard = threading.Condition()
        self._locks: dict[str, tuple[threading.RLock, int]] = {}
        self._inside = 0
        self._closed = False
        self._mine = threading.local()

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Hold the lock of ``name``, which its thread may hold already."""
        depth = self._depth()
        with self._guard:
            # Who is inside must be able to finish, so only the outermost waits.
            if depth == 0:
                self._guard.wait_for(lambda: not self._closed)
                self._inside += 1
            lock, users = self._locks.get(name, (threading.RLock(), 0))
            self._locks[name] = (lock, users + 1)
        self._mine.depth = depth + 1
        try:
            with lock:
                yield
        finally:
            self._mine.depth = depth
            with self._guard:
                lock, users = self._locks[name]
                if users > 1:
                    self._locks[name] = (lock, users - 1)
                else:
                    del self._locks[name]
                if depth == 0:
                    self._inside -= 1
                    self._guard.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no thread holds a lock, and let none take one in the block.

        :raises RuntimeError: this thread holds one itself, and would wait for ever.
        """
        if self._depth():
            raise RuntimeError("This thread works on an object")
        with self._guard:
            self._guard.wait_for(lambda: not self._closed)
            self._closed = True
            self._guard.wait_for(lambda: self._inside == 0)
        try:
            yield
        finally:
            with self._guard:
                self._closed = False
                self._guard.notify_all()

    def _depth(self) -> int:
        return getattr(self._mine, "depth", 0)
