"""Many threads' changes in few transactions, each caller with a result of its own.

Used by ``database``.  Flushing to disk costs the same however little is flushed, and a
database file has one writer at a time anyway.  So whoever comes while nobody writes
writes its change itself.  What comes meanwhile gathers, and the one that waits longest
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
    """A change that was submitted; see :meth:`GroupCommit.submit`.

    :param change: None marks the end: what was submitted before it is done when it is.
    """

    def __init__(self, group: GroupCommit[C], change: C | None) -> None:
        self.change = change
        # Set by whoever commits it, once the outcome is there and before it lets the turn go.
        self.done = False
        self.outcome: Exception | None = None
        # Who waits for it is done, or is the next to commit.
        self.turn = threading.Lock()
        self.turn.acquire()
        self._group = group

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
        # Protects what follows; held for moments only.
        self._lock = threading.Lock()
        self._closed = False
        self._queue: deque[Submitted[C]] = deque()
        # Whose thread commits, or was told to; and those that wait for their turn.
        self._leader: Submitted[C] | None = None
        self._parked: deque[Submitted[C]] = deque()

    def submit(self, change: C) -> Submitted[C]:
        """Queue ``change``; ask the answer for its ``result``.

        :raises StoreUnavailable: the store is closed.
        """
        submitted = Submitted(self, change)
        with self._lock:
            if self._closed:
                raise StoreUnavailable("The record store is closed")
            self._queue.append(submitted)
        return submitted

    def settle(self, submitted: Submitted[C]) -> None:
        """Return when a change of this group is done, whoever commits it."""
        # A signal may interrupt the thread anywhere in here: others do not wait for it then.
        try:
            if self._leads(submitted):
                while not submitted.done:
                    self._commit_batch()
        except BaseException:
            with self._lock:
                if submitted in self._parked:
                    self._parked.remove(submitted)
            raise
        finally:
            if self._leader is submitted:
                self._hand_on()

    def close(self) -> None:
        """Commit what waits; may be called twice."""
        end: Submitted[C] = Submitted(self, None)
        with self._lock:
            self._closed = True
            self._queue.append(end)
        end.result()

    def _leads(self, submitted: Submitted[C]) -> bool:
        """Wait until ``submitted`` is done (False), or until this thread is to commit it."""
        with self._lock:
            if submitted.done:
                return False
            if self._leader is None:
                self._leader = submitted
                return True
            self._parked.append(submitted)
        submitted.turn.acquire()
        return not submitted.done

    def _hand_on(self) -> None:
        """Let the next one commit, and those go whose changes are done."""
        with self._lock:
            done = [each for each in self._parked if each.done]
            left = deque(each for each in self._parked if not each.done)
            following = left.popleft() if left else None
            self._parked, self._leader = left, following
        if following is not None:
            following.turn.release()
        for each in done:
            each.turn.release()

    def _commit_batch(self) -> None:
        batch: list[Submitted[C]] = []
        try:
            with self._lock:
                while self._queue and len(batch) < LARGEST_BATCH:
                    batch.append(self._queue[0])
                    self._queue.popleft()
            # One that is done was left in the queue by a thread that was interrupted above.
            self._commit_changes([each for each in batch if not (each.done or each.change is None)])
        finally:
            # Also when this thread is interrupted: none may wait for ever, or take for stored
            # what perhaps is not.
            for each in batch:
                if not each.done:
                    each.outcome = None if each.change is None else _interrupted()
                    each.done = True

    def _commit_changes(self, batch: Sequence[Submitted[C]]) -> None:
        changes = [each.change for each in batch if each.change is not None]
        try:
            outcomes = self._commit(changes) if changes else ()
            for each, outcome in zip(batch, outcomes, strict=True):
                each.outcome = outcome
        except Exception as error:  # every caller learns it
            for each in batch:
                each.outcome = error
        for each in batch:
            each.done = True


def _interrupted() -> StoreUnavailable:
    return StoreUnavailable(
        "Writing to the record store was interrupted: whether the change is stored is not known"
    )
