"""Threads for the RPCs, as many as there are calls at a time.

Used by ``rpc.server``.  Python's own pool does the same, and every call pays for it: four
locks, a queue and a semaphore, and the thread that has been idle for longest comes next,
which the processor knows least about.  Here the last that became idle takes the next call.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from csi_driver.base.turns import Submitted

T = TypeVar("T")


class Threads(Executor):
    """An executor that makes a thread when none is idle, and then keeps it.

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
        self._waiting: deque[Submitted] = deque()
        self._closed = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run ``fn`` on a thread, as soon as there is one.

        :raises RuntimeError: after :meth:`shutdown`.
        """
        call = Submitted(fn, args, kwargs)
        with self._lock:
            if self._closed:
                raise RuntimeError(f"No thread {self._name!r} starts any more: it was shut down")
            if self._idle:
                self._idle.pop().take(call)
            elif len(self._threads) >= self._most or not self._start(call):
                self._waiting.append(call)
        return call.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end, each when its call has; see :meth:`Executor.shutdown`."""
        with self._lock:
            self._closed = True
            cancelled = deque(self._waiting if cancel_futures else ())
            if cancel_futures:
                self._waiting.clear()
            while self._idle:
                self._idle.pop().take(None)
            threads = list(self._threads)
        for call in cancelled:
            call.future.cancel()
        for thread in threads if wait else ():
            thread.join()

    def _start(self, call: Submitted) -> bool:
        """Make a thread for a call; False where the system allows no more than there are.

        gRPC's serving thread would end by an error here, and with it all calls.
        """
        name = f"{self._name}_{len(self._threads)}"
        thread = threading.Thread(target=self._run, args=(call,), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if not self._threads:
                raise
            return False
        self._threads.append(thread)
        return True

    def _run(self, call: Submitted | None) -> None:
        seat = _Seat()
        while call is not None:
            call.run()
            del call  # what it holds goes now, not when the next comes
            call = self._next(seat)

    def _next(self, seat: _Seat) -> Submitted | None:
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
        self._call: Submitted | None = None

    def take(self, call: Submitted | None) -> None:
        """Wake the thread with a call; None lets it end."""
        self._call = call
        self._taken.release()

    def wait(self) -> Submitted | None:
        """The call, once there is one."""
        self._taken.acquire()
        call, self._call = self._call, None
        return call
