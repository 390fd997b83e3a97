"""Many threads' changes in few transactions, each caller with a result of its own.

Used by ``database``.  Flushing to disk costs milliseconds however little is
flushed, and a database file has one writer at a time anyway.  So one thread
writes: it takes whatever has gathered while the last transaction was flushed,
and answers the callers once all of it is on disk.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from csi_driver.cinderlib.persistence.store import StoreUnavailable

C = TypeVar("C")

LARGEST_BATCH = 256
"""So many changes at most wait for one flush; bounds what one failure takes along."""


class GroupCommit(Generic[C]):
    """A thread that commits changes in batches, in the order of their arrival.

    :param commit: makes a batch durable and answers for each change None or the
        error for its caller; when it raises, nothing of the batch was kept.
    """

    def __init__(self, commit: Callable[[Sequence[C]], Sequence[Exception | None]]) -> None:
        self._commit = commit
        self._lock = threading.Lock()  # nothing is queued behind the end mark
        self._closed = False
        self._waiting: queue.SimpleQueue[tuple[C, Future[None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="record-store-writer", daemon=True)
        self._thread.start()

    def submit(self, change: C) -> Future[None]:
        """Queue ``change``; the future is done when it is durable.

        The future raises what ``commit`` answered for this change, or raised for
        its whole batch.

        :raises StoreUnavailable: the store is closed.
        """
        done: Future[None] = Future()
        with self._lock:
            if self._closed:
                raise StoreUnavailable("The record store is closed")
            self._waiting.put((change, done))
        return done

    def close(self) -> None:
        """Commit what waits and end the thread; may be called twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        last = False
        while not last:
            batch, last = self._next_batch()
            if batch:
                self._commit_batch(batch)

    def _next_batch(self) -> tuple[list[tuple[C, Future[None]]], bool]:
        """What waits now, at least one change; and whether it is the last batch."""
        batch: list[tuple[C, Future[None]]] = []
        entry = self._waiting.get()
        while entry is not None:
            batch.append(entry)
            if len(batch) == LARGEST_BATCH:
                return batch, False
            try:
                entry = self._waiting.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _commit_batch(self, batch: list[tuple[C, Future[None]]]) -> None:
        try:
            outcomes = self._commit([change for change, _ in batch])
        except Exception as error:
            # Whatever it is, every caller learns it: none may wait for ever.
            outcomes = [error] * len(batch)
        for (_, done), outcome in zip(batch, outcomes, strict=True):
            if outcome is None:
                done.set_result(None)
            else:
                done.set_exception(outcome)
