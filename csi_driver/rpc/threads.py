"""Threads for the RPCs, as many as there are calls at a time.

Used by ``rpc.server``.  Python's own pool does the same, and every call pays for it: four
locks, a queue, a semaphore and a future, and the thread that has been idle for longest comes
next, which the processor knows least about.  Here the last that became idle takes the next
call.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

LOG = logging.getLogger("csi_driver.rpc")

Call = Callable[[], None]


class Threads:
    """Makes a thread when none is idle, and then keeps it.

    ``_lock`` protects everything below it and is never held while a call runs.

    :param most: so many threads at most; further calls wait for one.
    :param name: of the threads.  They are daemons: a process that ends for another reason
        than :meth:`shutdown` is not held up by idle ones.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._idle: list[_Seat] = []
        self._waiting: deque[Call] = deque()
        self._closed = False

    def run(self, call: Call) -> None:
        """Run a call on a thread, as soon as there is one; its errors are logged.

        :raises RuntimeError: after :meth:`shutdown`, or the system allows not even one thread.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError(f"No thread {self._name!r} starts any more: it was shut down")
            if self._idle:
                self._idle.pop().take(call)
            elif len(self._threads) >= self._most or not self._start(call):
                self._waiting.append(call)

    def shutdown(self) -> None:
        """Let each thread end when it is idle: calls that wait are still run."""
        with self._lock:
            self._closed = True
            while self._idle:
                self._idle.pop().take(None)

    def _start(self, call: Call) -> bool:
        """Make a thread for a call; False where the system allows no more than there are."""
        name = f"{self._name}_{len(self._threads)}"
        # In a list, out of which it is taken: a thread keeps its arguments as long as it lives.
        thread = threading.Thread(target=self._work, args=([call],), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if not self._threads:
                raise
            return False
        self._threads.append(thread)
        return True

    def _work(self, first: list[Call]) -> None:
        seat = _Seat()
        call: Call | None = first.pop()
        while call is not None:
            try:
                call()
            except Exception:  # one call must not end the thread of the next
                LOG.exception("A call failed and nobody caught it")
            del call  # what it holds goes now, not when the next comes
            call = self._next(seat)

    def _next(self, seat: _Seat) -> Call | None:
        """The call that waits for longest, or the next that comes; None: the thread ends."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            if self._closed:
                return None
            self._idle.append(seat)
        return seat.wait()


class _Seat:
    """Where an idle thread waits for its next call."""

    def __init__(self) -> None:
        self._taken = threading.Lock()
        self._taken.acquire()
        self._call: Call | None = None

    def take(self, call: Call | None) -> None:
        """Wake the thread with a call; None lets it end."""
        self._call = call
        self._taken.release()

    def wait(self) -> Call | None:
        """The call, once there is one."""
        self._taken.acquire()
        call, self._call = self._call, None
        return call
