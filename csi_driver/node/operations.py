"""The operations of a node, their steps, and where each step is recorded.

The node's table of crash safety.  A volume's state file is written before each
effect, so that whatever step a process died at, the next call finds what to undo:

===================  =============================================================
operation            what the next call does with what a dead process left
===================  =============================================================
stage, unstage       a stage or unstage undoes everything that the state file tells
publish, unpublish   both look at the target path and in the state file first, and
                     do what is missing; an unstage forgets targets that are gone
expand               the device and the filesystem are asked for their size again
===================  =============================================================

Steps that the kernel itself records (mountinfo, sysfs) write nothing.  Whoever makes
a step says so to :class:`Progress`; the crash tests are generated from this table, so
that no step is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import ParamSpec, TypeVar

from csi_driver.base import faults
from csi_driver.base.errors import CinderCSIError, StateDirectoryError
from csi_driver.base.faults import RECORDED, WRITE
from csi_driver.node.ports import LedgerUnavailable

P = ParamSpec("P")
T = TypeVar("T")


class Record(StrEnum):
    """Where a step is written down before its effect."""

    STATE = "state"
    LEDGER = "ledger"
    KERNEL = "kernel"


@dataclass(frozen=True)
class Step:
    """A step of an operation; ``undoing``: only of one that failed, or was left by the dead."""

    name: str
    record: Record = Record.STATE
    undoing: bool = False


OPERATIONS: dict[str, tuple[Step, ...]] = {
    "stage": (
        Step("attaching"),
        Step("checking"),
        Step("formatting"),
        Step("mounting"),
        Step("confirming"),
        Step("confirmed", Record.LEDGER),
        Step("staged"),
        Step("unmounting", Record.KERNEL, undoing=True),
        Step("detaching", Record.KERNEL, undoing=True),
        Step("gone", undoing=True),
    ),
    "unstage": (
        Step("unstaging"),
        Step("unmounting", Record.KERNEL),
        Step("detaching", Record.KERNEL),
        Step("gone"),
        Step("set-aside", undoing=True),
    ),
    "publish": (
        Step("unmounting", Record.KERNEL, undoing=True),
        Step("binding"),
        Step("bound", Record.KERNEL),
        Step("undone", undoing=True),
    ),
    "unpublish": (
        Step("unmounting", Record.KERNEL),
        Step("unmounted", Record.KERNEL),
        Step("gone"),
    ),
    "expand": (
        Step("refreshing", Record.KERNEL),
        Step("growing", Record.KERNEL),
        Step("grown", Record.KERNEL),
    ),
}
"""Operation -> its steps in order."""

REACHED = "reached"
"""The one fault point of a step that writes nothing; the effect of the step before is done."""

_FAILURES: dict[Record, type[CinderCSIError]] = {
    Record.STATE: StateDirectoryError,
    Record.LEDGER: LedgerUnavailable,
}


def step_of(operation: str, name: str) -> Step:
    """The step of an operation.

    :raises KeyError: the table does not know it: a defect of the caller.
    """
    for step in OPERATIONS[operation]:
        if step.name == name:
            return step
    raise KeyError(f"{operation}/{name}")


@dataclass(frozen=True)
class FaultPoint:
    """A place at which the crash tests break the node."""

    operation: str
    step: Step
    moment: str

    def __str__(self) -> str:
        """Its name for :func:`csi_driver.base.faults.reach`."""
        return f"node/{self.operation}/{self.step.name}/{self.moment}"


def fault_points() -> list[FaultPoint]:
    """Every fault point of the node, in the order of the table."""
    return [
        FaultPoint(operation, step, moment)
        for operation, steps in OPERATIONS.items()
        for step in steps
        for moment in ((REACHED,) if step.record is Record.KERNEL else (WRITE, RECORDED))
    ]


@dataclass(frozen=True)
class Progress:
    """How far a call has come; every record that it writes, it writes through here.

    :param tell: told each step, for those who wait for the call.
    """

    operation: str
    tell: Callable[[str], None]

    def at(self, name: str) -> None:
        """Begin a step that writes nothing.

        :raises KeyError: the table does not know the step.
        """
        point = FaultPoint(self.operation, step_of(self.operation, name), REACHED)
        faults.reach(str(point))
        self.tell(name)

    def record(self, name: str, write: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Begin a step by its record: ``write`` called with the arguments.

        :raises KeyError: the table does not know the step.
        :raises CinderCSIError: what ``write`` raises.
        """
        step = step_of(self.operation, name)
        faults.reach(str(FaultPoint(self.operation, step, WRITE)), _FAILURES[step.record])
        written = write(*args, **kwargs)
        faults.reach(str(FaultPoint(self.operation, step, RECORDED)))
        self.tell(name)
        return written
