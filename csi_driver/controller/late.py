"""Backend calls of another process that may still run, with nobody to wait for them.

A controller that is cut off, or ended while a backend works, leaves its operations to the
next controller, which undoes them or does them again.  The old call may still run then, and
have its effect a moment later.  So whoever meets an operation of another process expects its
call: it is recorded before the object is worked on, independent of the object, which may be
deleted meanwhile, and of this process.  For ``grace_seconds`` of the context (attaches and
detaches: ``attach_grace_seconds``) the call is reckoned with:

===================  ==============================  ===================================
call                 until then                      then
===================  ==============================  ===================================
create, clone, ...   nothing: another attempt has    what it may have made is removed
                     another name on the backend     again
publish, unpublish   the volume is not published     a connection that it may have made
                                                     is removed again
extend               no other size: it would become  nothing
                     this one again
revert               the volume stays as it is:      it is reverted again
                     nothing may be written
delete               nothing: what it names is       nothing
                     never used again
===================  ==============================  ===================================

Called by the use cases, each for its own; ``repair`` makes the looks when they are due.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from csi_driver.base import faults
from csi_driver.base.errors import OperationInProgress
from csi_driver.base.faults import RECORDED, WRITE
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    LateAttemptRecord,
    Operation,
    Phase,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.cinderlib.persistence.store import StoreUnavailable
from csi_driver.controller import orphans, pending
from csi_driver.controller.backends import DriverCallFailed
from csi_driver.controller.context import ControllerContext
from csi_driver.controller.operations import LONGEST_RETRY_SECONDS, AnyRecord, is_making, retry_at

M = TypeVar("M", VolumeRecord, SnapshotRecord)

LOG = logging.getLogger("csi_driver.controller")

_KINDS: dict[str, type[AnyRecord]] = {
    kind.KIND: kind for kind in (VolumeRecord, SnapshotRecord, ConnectionRecord)
}


def expect(context: ControllerContext, record: AnyRecord) -> LateAttemptRecord | None:
    """Reckon with the call of an unfinished operation, if it is another process's.

    To be called before the record tells of another attempt.  Of a call that is expected
    already nothing changes.

    :returns: None when it is this process's own, or no operation is in progress.
    :raises StoreUnavailable: nothing was recorded; the object must not be worked on.
    """
    operation = record.operation
    grace = _grace(context, record.KIND)
    if grace <= 0 or operation is None or operation.owner == context.owner:
        return None
    known = context.store.get(LateAttemptRecord, record.cinder_id)
    if known is not None and (known.owner, known.call) == (operation.owner, operation.kind):
        return known
    needed: list[AnyRecord] = [record]
    if not isinstance(record, VolumeRecord):
        needed.append(context.volume(record.volume_id))
    of = needed[0] if isinstance(record, SnapshotRecord) else needed[-1]
    now = context.clock()
    expected = LateAttemptRecord(
        id=record.cinder_id,
        version=known.version if known else 0,
        kind=record.KIND,
        call=operation.kind,
        backend=record.backend,
        name=getattr(of, "name", ""),
        csi_id=of.id,
        owner=operation.owner,
        since=now,
        look_at=now + grace,
        size_gib=operation.size_gib,
        objects={each.KIND: msgspec.to_builtins(each) for each in needed},
    )
    LOG.info("%s is reckoned with until %s", describe(expected), pending.utc(expected.look_at))
    return _store(context, expected, "expected")


def _grace(context: ControllerContext, kind: str) -> float:
    attaching = kind == ConnectionRecord.KIND
    return context.attach_grace_seconds if attaching else context.grace_seconds


def describe(expected: LateAttemptRecord) -> str:
    """The call in words."""
    return f"The {expected.call} of {expected.name!r} that process {expected.owner} began"


def due(context: ControllerContext) -> list[LateAttemptRecord]:
    """The calls that have ended by now, for whatever is to be done then.

    Not those of operations that nobody has taken up yet: who does will ask for them.

    :raises StoreUnavailable: the records cannot be read.
    """
    now = context.clock()
    return [
        each
        for each in context.store.list(LateAttemptRecord)
        if _look_at(context, each, now) <= now and not _is_untouched(context, each)
    ]


def _look_at(context: ControllerContext, expected: LateAttemptRecord, now: float) -> float:
    """When the look is due; corrected where it was recorded with a clock that went ahead."""
    longest = LONGEST_RETRY_SECONDS if expected.tries else _grace(context, expected.kind)
    if expected.look_at > now + longest:
        corrected = msgspec.structs.replace(expected, look_at=now + longest)
        LOG.warning("%s ends at %s", describe(expected), pending.utc(corrected.look_at))
        _store(context, corrected, "expected")
        return corrected.look_at
    return expected.look_at


def _is_untouched(context: ControllerContext, expected: LateAttemptRecord) -> bool:
    kind = _KINDS[expected.kind]
    record = context.store.get(kind, expected.objects[expected.kind]["id"])
    operation = record.operation if record is not None else None
    if operation is None:
        return False
    return (operation.owner, operation.kind) == (expected.owner, expected.call)


# -- what is not begun meanwhile --------------------------------------------------


def refuse_while_reverting(context: ControllerContext, volume: VolumeRecord) -> None:
    """Leave a volume alone that another process may still be reverting.

    Its call would overwrite what is written after the revert was done again.

    :raises OperationInProgress: until when it may run.
    """
    if volume.operation is not None and volume.operation.kind == "revert":
        _refuse(context, expect(context, volume), f"Volume {volume.id} is not reverted again yet")


def refuse_publish(
    context: ControllerContext, volume: VolumeRecord, connections: Iterable[ConnectionRecord]
) -> None:
    """Publish no volume that another process may still be attaching or detaching.

    Its call could end the new connection, or change the export under it.

    :param connections: all that the volume has.
    :raises OperationInProgress: until when it may run.
    """
    if context.attach_grace_seconds <= 0:
        return
    for connection in connections:
        expect(context, connection)
    for expected in context.store.list(LateAttemptRecord):
        if expected.kind == ConnectionRecord.KIND and expected.csi_id == volume.id:
            _refuse(context, expected, f"Volume {volume.id} is not published yet")


def refuse_other_size(context: ControllerContext, volume: VolumeRecord, size_gib: int) -> None:
    """Give a volume no size but the one that another process may still be giving it.

    Some drivers make a volume smaller when they are asked to extend it to less.

    :raises OperationInProgress: until when it may run.
    """
    if context.grace_seconds <= 0:
        return
    if volume.operation is not None and volume.operation.kind == "extend":
        expect(context, volume)
    expected = context.store.get(LateAttemptRecord, volume.cinder_id)
    if expected is not None and expected.call == "extend" and expected.size_gib != size_gib:
        _refuse(context, expected, f"Volume {volume.id} is not extended to {size_gib} GiB yet")


def _refuse(context: ControllerContext, expected: LateAttemptRecord | None, what: str) -> None:
    # Once it was looked for, the call counts as ended: ``look_at`` is of another look.
    if expected is not None and not expected.tries and context.clock() < expected.look_at:
        call = describe(expected)
        raise OperationInProgress(
            f"{what}: {call[0].lower()}{call[1:]} may still run on backend {expected.backend},"
            f" until {pending.utc(expected.look_at)}",
            advice="Nothing: the call is repeated and succeeds then",
        )


# -- when the call has ended --------------------------------------------------------


def look(context: ControllerContext, cinder_id: str) -> None:
    """Remove an attempt again; its record goes with the proof, or becomes an orphan's.

    :raises DriverCallFailed: the backend did not answer; the next look is recorded.
    :raises StoreUnavailable: what was learned is not recorded; the look is made again.
    """
    expected = context.store.get(LateAttemptRecord, cinder_id)
    if expected is None:
        return
    try:
        _remove(context, expected)
    except DriverCallFailed as failed:
        look_later(context, expected, failed.failure.message)
        raise
    forget(context, expected)


def _remove(context: ControllerContext, expected: LateAttemptRecord) -> None:
    living = context.store.list(VolumeRecord, where={"cinder_id": expected.id})
    if not is_making(expected.call) or any(v.phase is not Phase.CREATING for v in living):
        return  # nothing was to be made: the id is that of a volume in use
    manager = context.backends.of_record(expected.backend).manager
    volume = msgspec.convert(expected.objects["volume"], VolumeRecord)
    if expected.kind == SnapshotRecord.KIND:
        snapshot = msgspec.convert(expected.objects["snapshot"], SnapshotRecord)
        orphans.remove_lost(
            context,
            _lost(context, snapshot, expected),
            lambda lost: manager.delete_snapshot(lost, volume),
        )
    else:
        orphans.remove_lost(context, _lost(context, volume, expected), manager.delete_volume)


def _lost(context: ControllerContext, record: M, expected: LateAttemptRecord) -> M:
    return msgspec.structs.replace(record, provider={}, operation=_tries(context, expected))


def _tries(context: ControllerContext, expected: LateAttemptRecord) -> Operation:
    return Operation(
        kind="late attempt",
        step="removal",
        since=expected.look_at,
        owner=context.owner,
        attempts=expected.tries + 1,
    )


def look_later(context: ControllerContext, expected: LateAttemptRecord, error: str) -> None:
    """Record that a look failed, and when the next is due."""
    tried = msgspec.structs.replace(_tries(context, expected), since=context.clock())
    again = msgspec.structs.replace(
        expected, tries=expected.tries + 1, last_error=error, look_at=retry_at(tried)
    )
    _store(context, again, "postponed")


def forget(context: ControllerContext, expected: LateAttemptRecord) -> None:
    """Remove the record of a call: it has ended, and nothing of it is left.

    :raises StoreUnavailable: it is not removed.
    """
    faults.reach(f"late/gone/{WRITE}", StoreUnavailable)
    context.store.delete(expected)
    faults.reach(f"late/gone/{RECORDED}")


def _store(context: ControllerContext, expected: LateAttemptRecord, step: str) -> LateAttemptRecord:
    faults.reach(f"late/{step}/{WRITE}", StoreUnavailable)
    stored = context.store.put(expected)
    faults.reach(f"late/{step}/{RECORDED}")
    return stored
