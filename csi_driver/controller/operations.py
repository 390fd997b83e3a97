"""The operations, their recorded steps, and what is done with what a dead process left.

The one table of crash safety.  An operation writes a record at each step: before
the driver is called, and after.  A process can die after any of these writes, or
lose the answer of the driver; whoever finds the record then looks up here whether
the step is done again, undone, or leaves a suspect.  The crash tests are generated
from this table, so that no step is forgotten.

=========  =====================================================================
recovery   meaning
=========  =====================================================================
SUSPECT    something may exist under this attempt's Cinder id: it is removed until
           proved absent, never adopted; if another process began it, whose call may
           still run, it is removed once more after a grace period (``late``)
REDO       the driver call is made again: drivers accept that it was done already
UNDO       the opposite driver call is made: nobody was told that it succeeded
FINAL      nothing is left to do
=========  =====================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from csi_driver.base.faults import RECORDED, WRITE
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    Operation,
    SnapshotRecord,
    VolumeRecord,
)


class Recovery(StrEnum):
    """What is done with an object whose operation stopped at a step."""

    SUSPECT = "suspect"
    REDO = "redo"
    UNDO = "undo"
    FINAL = "final"


@dataclass(frozen=True)
class Step:
    """A recorded step: its name, and what recovers an object left there.

    ``after_failure``: it is reached only when the driver call failed.  ``on_change``:
    only when the driver changed the volume in a call on its connection; it is then the
    volume that is stored, while the connection's record stays at the step before.
    """

    name: str
    recovery: Recovery
    after_failure: bool = False
    on_change: bool = False


_UNDONE = Step("undone", Recovery.FINAL, after_failure=True)

_MAKE = (
    Step("backend", Recovery.SUSPECT),
    Step("available", Recovery.FINAL),
    _UNDONE,
)
_REMOVE = (
    Step("backend", Recovery.REDO),
    Step("gone", Recovery.FINAL),
    _UNDONE,
)

OPERATIONS: dict[str, tuple[Step, ...]] = {
    "create": _MAKE,
    "restore": _MAKE,
    "clone": _MAKE,
    "snapshot": _MAKE,
    "delete": _REMOVE,
    "delete-snapshot": _REMOVE,
    "extend": (Step("backend", Recovery.REDO), Step("available", Recovery.FINAL), _UNDONE),
    "revert": (Step("backend", Recovery.REDO), Step("available", Recovery.FINAL), _UNDONE),
    "publish": (
        Step("backend", Recovery.UNDO),
        Step("exported", Recovery.UNDO, on_change=True),
        Step("attached", Recovery.FINAL),
        _UNDONE,
    ),
    "unpublish": (
        Step("backend", Recovery.REDO),
        Step("unexported", Recovery.REDO, on_change=True),
        Step("gone", Recovery.FINAL),
    ),
    # Amid the removal of an attempt; the operation that the attempt was for goes on.
    "orphan": (Step("recorded", Recovery.FINAL, after_failure=True),),
    # Before an operation of another process is taken up, and when its call has ended.
    "late": (
        Step("expected", Recovery.FINAL),
        Step("postponed", Recovery.FINAL, after_failure=True),
        Step("gone", Recovery.FINAL),
    ),
}
"""Operation -> its steps in order.  A step's record is written before its effect."""

FIRST_RETRY_SECONDS = 2.0
LONGEST_RETRY_SECONDS = 300.0

AnyRecord = VolumeRecord | SnapshotRecord | ConnectionRecord


def is_making(kind: str) -> bool:
    """Whether attempts of the operation make something, with a name of their own each."""
    return kind in OPERATIONS and OPERATIONS[kind][0].recovery is Recovery.SUSPECT


def step_of(kind: str, name: str) -> Step:
    """The step of an operation.

    :raises KeyError: the table does not know it: a defect of the caller.
    """
    for step in OPERATIONS[kind]:
        if step.name == name:
            return step
    raise KeyError(f"{kind}/{name}")


@dataclass(frozen=True)
class FaultPoint:
    """A place at which the crash tests break the controller."""

    operation: str
    step: Step
    moment: str

    def __str__(self) -> str:
        """Its name for :func:`csi_driver.base.faults.reach`."""
        return f"{self.operation}/{self.step.name}/{self.moment}"


def fault_points() -> list[FaultPoint]:
    """Every fault point of the controller, in the order of the table."""
    return [
        FaultPoint(operation, step, moment)
        for operation, steps in OPERATIONS.items()
        for step in steps
        for moment in (WRITE, RECORDED)
    ]


def recovery_of(record: AnyRecord) -> Recovery:
    """What an object needs whose operation nobody runs any more.  Pure.

    An operation that this release does not know is left to the one that began it.
    """
    if record.operation is None or record.operation.kind not in OPERATIONS:
        return Recovery.FINAL
    return step_of(record.operation.kind, record.operation.step).recovery


def retry_at(operation: Operation) -> float:
    """When the repair loop tries again, in seconds since the epoch: doubled each time."""
    wait = FIRST_RETRY_SECONDS * 2.0 ** min(operation.attempts - 1, 16)
    return operation.since + min(wait, LONGEST_RETRY_SECONDS)
