"""Changes of many callers in one commit, and an answer for each."""

from __future__ import annotations

import contextlib
import dis
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest

from csi_driver.cinderlib.persistence import group_commit
from csi_driver.cinderlib.persistence.group_commit import LARGEST_BATCH, GroupCommit
from csi_driver.cinderlib.persistence.store import RecordConflict, StoreUnavailable


class Disk:
    """Takes batches; the first one waits until the test lets it go on."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.started = threading.Event()
        self.go_on = threading.Event()

    def commit(self, changes: Sequence[str]) -> list[Exception | None]:
        self.started.set()
        self.go_on.wait()
        if "full disk" in changes:
            raise StoreUnavailable("The disk is full")
        self.batches.append(list(changes))
        return [RecordConflict(change) if "conflict" in change else None for change in changes]


@pytest.fixture
def disk():
    return Disk()


@pytest.fixture
def group(disk):
    group = GroupCommit(disk.commit)
    yield group
    disk.go_on.set()
    group.close()


@pytest.fixture
def first(group, disk) -> Iterator[Future[None]]:
    """A caller that is in the middle of its commit; its result."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(group.submit("first").result)
        disk.go_on.set()


def test_what_gathers_during_a_flush_is_committed_at_once_and_in_order(group, disk, first):
    disk.started.wait()
    waiting = [group.submit(name) for name in "abcdef"]
    disk.go_on.set()
    for submitted in waiting:
        submitted.result()
    assert disk.batches == [["first"], list("abcdef")]


def test_nobody_is_answered_before_the_commit_returned(disk, first):
    disk.started.wait()
    assert not first.done()
    disk.go_on.set()
    first.result()


def test_who_waits_is_answered_by_the_commit_of_another(group, disk, first):
    disk.started.wait()
    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(group.submit(str(number)).result) for number in range(8)]
        disk.go_on.set()
        for result in results:
            result.result()
    assert [sorted(batch) for batch in disk.batches] == [["first"], list("01234567")]


def test_a_conflict_concerns_its_own_caller_only(group, disk, first):
    disk.started.wait()
    good, bad, other = (group.submit(name) for name in ("good", "conflict", "other"))
    disk.go_on.set()
    good.result()
    other.result()
    with pytest.raises(RecordConflict):
        bad.result()


def test_a_failed_commit_fails_its_whole_batch_and_not_the_next(group, disk, first):
    disk.started.wait()
    failing = [group.submit(name) for name in ("a", "full disk", "b")]
    disk.go_on.set()
    for submitted in failing:
        with pytest.raises(StoreUnavailable, match="disk is full"):
            submitted.result()
    group.submit("later").result()
    assert disk.batches == [["first"], ["later"]]


def test_a_commit_that_is_interrupted_lets_nobody_wait(group, disk):
    def interrupted(changes: Sequence[str]) -> list[Exception | None]:
        raise KeyboardInterrupt

    one, other = group.submit("one"), group.submit("other")
    group._commit = interrupted
    with pytest.raises(KeyboardInterrupt):
        one.result()
    with pytest.raises(StoreUnavailable, match="not known"):
        other.result()


class InterruptedTurn:
    """A turn whose wait is interrupted, after ``meanwhile``."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self._meanwhile = meanwhile
        self.let_go = False

    def acquire(self) -> None:
        self._meanwhile()
        raise KeyboardInterrupt

    def release(self) -> None:
        self.let_go = True


@pytest.mark.parametrize("told_to_commit", [False, True])
def test_who_is_interrupted_while_it_waits_keeps_nobody_from_committing(
    group, disk, first, told_to_commit
):
    def commit_of_the_first() -> None:
        disk.go_on.set()
        first.result()

    disk.started.wait()
    submitted = group.submit("interrupted")
    submitted.turn = InterruptedTurn(commit_of_the_first if told_to_commit else lambda: None)
    with pytest.raises(KeyboardInterrupt):
        submitted.result()
    assert submitted.turn.let_go is told_to_commit
    disk.go_on.set()
    group.submit("later").result()
    assert disk.batches == [["first"], ["interrupted", "later"]]


class InterruptAt:
    """Interrupts this thread after one of the module's calls, where Python heeds signals.

    Not in what hands on after an interruption: a second one is not reckoned with.
    """

    def __init__(self, step: int) -> None:
        self._left = step
        self._called: set[FrameType] = set()
        self._before = sys.gettrace()

    def __enter__(self) -> InterruptAt:
        # Python 3.12 looks here whether anybody wants to see single steps.
        sys._getframe().f_trace_opcodes = True
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    @property
    def over(self) -> bool:
        """There were fewer steps."""
        return self._left > 0

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        code = frame.f_code
        if code.co_filename != group_commit.__file__ or code.co_name == "_hand_on":
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            after_call = frame in self._called
            self._called.discard(frame)
            if dis.opname[code.co_code[frame.f_lasti]] in ("CALL", "RESUME"):
                self._called.add(frame)
            if after_call and self._left > 0:
                self._left -= 1
                if not self._left:
                    raise KeyboardInterrupt
        return self._trace


def _interrupted_at(step: int) -> bool:
    """Whether there was such a step; who came meanwhile is answered, and truly."""
    made: list[str] = []

    def commit(changes: Sequence[str]) -> list[Exception | None]:
        made.extend(changes)
        return [None] * len(changes)

    group = GroupCommit(commit)
    mine, other = group.submit("mine"), group.submit("other")
    with InterruptAt(step) as interrupt, contextlib.suppress(KeyboardInterrupt):
        mine.result()
    answers: list[Exception | None] = []

    def wait() -> None:
        try:
            other.result()
            answers.append(None)
        except StoreUnavailable as error:
            answers.append(error)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    waiting.join(30)
    assert answers, f"after an interruption at step {step} a caller waits for ever"
    assert answers[0] is not None or "other" in made, f"step {step}: told, but not made"
    group.submit("later").result()
    assert made[-1] == "later"
    assert len(set(made)) == len(made)
    return not interrupt.over


def test_an_interruption_anywhere_lets_nobody_wait_nor_take_for_stored_what_is_not():
    steps = 1
    while _interrupted_at(steps):
        steps += 1
    assert steps > 10


def test_a_batch_has_a_largest_size(group, disk, first):
    disk.started.wait()
    waiting = [group.submit(str(number)) for number in range(LARGEST_BATCH + 1)]
    disk.go_on.set()
    for submitted in waiting:
        submitted.result()
    assert [len(batch) for batch in disk.batches] == [1, LARGEST_BATCH, 1]


def test_closing_commits_what_waits_and_refuses_what_comes(group, disk, first):
    disk.started.wait()
    waiting = group.submit("waiting")
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(group.close)
        disk.go_on.set()
        closing.result()
    assert disk.batches == [["first"], ["waiting"]]
    waiting.result()
    with pytest.raises(StoreUnavailable, match="closed"):
        group.submit("late")
