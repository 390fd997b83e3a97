"""Calls in flight: equal calls join, different calls on a busy object are refused.

Used by ``controller`` (work on a backend) and ``node`` (work on a volume).
CSI allows the same call to arrive twice at once and asks for ABORTED while
another operation is pending on an object.  One table holds, for each object key,
the running call: an equal one gets the same future, so the work is done once and
outlives the RPC that started it.
"""

from __future__ import annotations

import datetime
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from csi_driver.base.errors import OperationInProgress, ShuttingDown

T = TypeVar("T")


@dataclass
class Running:
    """One call in flight.  ``step`` is told by the work itself as it proceeds."""

    kind: str
    fingerprint: Hashable
    since: float
    holding: tuple[str, ...] = ()
    future: Future[Any] = field(default_factory=Future)
    step: str = "queued"

    def at(self, step: str) -> None:
        """Say which step the work has reached, for people who wait for it."""
        self.step = step

    def describe(self, now: float) -> str:
        """One sentence: what runs, since when, in which process, at which step."""
        started = datetime.datetime.fromtimestamp(self.since, datetime.UTC)
        return (
            f"{self.kind} runs since {started:%Y-%m-%dT%H:%M:%SZ} ({now - self.since:.1f} s)"
            f" in process {os.getpid()}, at step {self.step!r}"
        )


class InFlight:
    """The table of running calls, by object key.

    A call may also hold other objects that must stay as they are meanwhile (the
    source of a clone): any number of calls may hold one, none may start on it.

    ``_lock`` protects every attribute below it and is never held while work runs
    or a future is completed.

    :param clock: seconds since the epoch; injected so that tests need not wait.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._none_runs = threading.Condition(self._lock)
        self._running: dict[str, Running] = {}
        self._held: Counter[str] = Counter()
        self._closed = False

    def start(
        self,
        key: str,
        kind: str,
        fingerprint: Hashable,
        work: Callable[[Running], T],
        executor: Executor,
        holding: Sequence[str] = (),
    ) -> Future[T]:
        """Run ``work`` on ``executor``, or join the equal call that runs already.

        :param key: the object; one call at a time works on it.
        :param fingerprint: calls with the same kind and fingerprint are equal.
        :param holding: other objects on which nothing may start until this ends.
        :raises OperationInProgress: a different call runs on one of the objects.
        :raises ShuttingDown: the table is closed and no equal call runs.
        """
        with self._lock:
            current = self._running.get(key)
            if current and (current.kind, current.fingerprint) == (kind, fingerprint):
                return current.future
            if self._closed:
                raise ShuttingDown(f"{kind} of {key} was not started")
            self._refuse_if_busy(key, holding)
            running = Running(kind, fingerprint, self._clock(), holding=tuple(holding))
            # A caller that gives up must not cancel the work that others wait for.
            running.future.set_running_or_notify_cancel()
            self._running[key] = running
            if holding:
                self._held.update(holding)
        try:
            submitted = executor.submit(self._run, key, running, work)
        except BaseException as error:
            self._never_ran(key, running, error)
            return running.future
        if not running.future.done():
            submitted.add_done_callback(lambda done: self._look_whether_it_ran(key, running, done))
        return running.future

    def _look_whether_it_ran(self, key: str, running: Running, submitted: Future[None]) -> None:
        # What ran has no error here: every outcome went to those who wait.
        if submitted.cancelled():
            self._never_ran(key, running, ShuttingDown(f"{running.kind} of {key} was not started"))
        elif (error := submitted.exception()) is not None:
            self._never_ran(key, running, error)

    def _never_ran(self, key: str, running: Running, error: BaseException) -> None:
        self._finish(key, running)
        running.future.set_exception(error)

    def _refuse_if_busy(self, key: str, holding: Sequence[str]) -> None:
        now = self._clock()
        for name in (key, *holding):
            current = self._running.get(name)
            if current is not None:
                raise OperationInProgress(f"{name} is busy: {current.describe(now)}")
        if self._held.get(key):
            holder = next(r for r in self._running.values() if key in r.holding)
            raise OperationInProgress(f"{key} is needed by another call: {holder.describe(now)}")

    def _run(self, key: str, running: Running, work: Callable[[Running], Any]) -> None:
        running.at("started")
        try:
            result = work(running)
        except BaseException as error:  # every outcome belongs to the callers who wait
            self._finish(key, running)
            running.future.set_exception(error)
        else:
            self._finish(key, running)
            running.future.set_result(result)

    def _finish(self, key: str, running: Running) -> None:
        with self._lock:
            if self._running.get(key) is running:
                del self._running[key]
                if running.holding:
                    self._held -= Counter(running.holding)
            if self._closed and not self._running:
                self._none_runs.notify_all()

    def busy(self) -> list[str]:
        """The objects on which a call runs."""
        with self._lock:
            return list(self._running)

    def refuse_other(self, key: str, kind: str) -> None:
        """Refuse when a call of another kind runs on the object, or waits for its thread.

        :raises OperationInProgress: one does.
        """
        with self._lock:
            current = self._running.get(key)
            if current is not None and current.kind != kind:
                raise OperationInProgress(f"{key} is busy: {current.describe(self._clock())}")

    def describe(self) -> list[str]:
        """One sentence per running call, for logs and for the drain."""
        now = self._clock()
        with self._lock:
            return [f"{key}: {running.describe(now)}" for key, running in self._running.items()]

    def close(self, timeout: float | None = None) -> bool:
        """Refuse new work and wait for the running; False when some still runs.

        :param timeout: seconds to wait; None waits for ever.
        """
        with self._lock:
            self._closed = True
            return self._none_runs.wait_for(lambda: not self._running, timeout)
