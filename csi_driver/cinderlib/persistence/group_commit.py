"""Many threads' changes in few transactions, each caller with a result of its own.

Used by ``database``.  Flushing to disk costs the same however little is flushed, and a
database file has one writer at a time anyway.  So whoever comes while nobody writes
writes its change itself; what comes meanwhile gathers, and the first of those who wait
commits all of it.  No thread of its own: handing each change to one, and its outcome
back, costs more than the change does.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from csi_driver.cinderlib.persistence.store import StoreUnavailable

C = TypeVar("C")

LARGEST_BATCH = 256
"""So many changes at most wait for one flush; bounds what one failure takes along."""


class Submitted(Generic[C]):
    """A change that was submitted; see :meth:`GroupCommit.submit`."""

    def __init__(self, group: GroupCommit[C], change: C) -> None:
        self.change = change
        self._group = group
        # Set by whoever commits it.
        self.done = False
        self.outcome: Exception | None = None

    def result(self) -> None:
        """Return when the change is durable, by another's commit or by one of one's own.

        :raises Exception: what ``commit`` answered for this change, or raised for its batch.
        """
        self._group.settle(self)
        if self.outcome is not None:
            raise self.outcome


class GroupCommit(Generic[C]):
    """Commits changes in batches, in the order of their arrival, in the threads that wait.

    :param commit: makes a batch durable and answers for each change None or the
        error for its caller; when it raises, nothing of the batch was kept.  Called by one
        thread at a time.
    """

    def __init__(self, commit: Callable[[Sequence[C]], Sequence[Exception | None]]) -> None:
        self._commit = commit
        # Protects _waiting and _closed; held for moments only.
        self._lock = threading.Lock()
        self._closed = False
        self._waiting: deque[Submitted[C]] = deque()
        # Held by who commits; the others wait for it, and find their change done, mostly.
        self._writing = threading.Lock()

    def submit(self, change: C) -> Submitted[C]:
        """Queue ``change``; ask the answer for its ``result``.

        :raises StoreUnavailable: the store is closed.
        """
        submitted = Submitted(self, change)
        with self._lock:
            if self._closed:
                raise StoreUnavailable("The record store is closed")
            self._waiting.append(submitted)
        return submitted

    def settle(self, submitted: Submitted[C]) -> None:
        """Return when a change of this group is done, whoever commits it."""
        with self._writing:
            while not submitted.done:
                self._commit_batch()

    def close(self) -> None:
        """Commit what waits; may be called twice."""
        with self._lock:
            self._closed = True
        with self._writing:
            while self._waiting:
                self._commit_batch()

    def _commit_batch(self) -> None:
        batch: list[Submitted[C]] = []
        outcomes: Sequence[Exception | None] | None = None
        try:
            with self._lock:
                while self._waiting and len(batch) < LARGEST_BATCH:
                    batch.append(self._waiting.popleft())
            outcomes = self._commit([submitted.change for submitted in batch])
        except Exception as error:
            # Whatever it is, every caller learns it.
            outcomes = [error] * len(batch)
        finally:
            # Also when this thread is interrupted: none may wait for ever.
            for submitted, outcome in zip(batch, outcomes or _interrupted(batch), strict=True):
                submitted.outcome = outcome
                submitted.done = True


def _interrupted(batch: Sequence[object]) -> Sequence[Exception]:
    return [
        StoreUnavailable(
            "Writing to the record store was interrupted: whether the change is stored is not known"
        )
        for _ in batch
    ]
