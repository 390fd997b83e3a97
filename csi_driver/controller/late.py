"""What a call may still make that another process began, and nobody waits for any more.

A controller that is cut off, or ended while a backend works, leaves its attempts to the
next controller, which removes them as suspects until they are proved absent.  The old call
may still run then, and make its volume a moment later, with nobody to know of it.  So an
attempt that another process began is expected: it is recorded before its object is worked
on, and removed again when ``grace_seconds`` of the context have passed.  The record is
independent of its object, which may be deleted meanwhile, and of this process.

:func:`expect` is called by ``attempts``, the rest by ``repair``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from csi_driver.cinderlib.persistence.records import (
    LateAttemptRecord,
    Operation,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.cinderlib.persistence.store import RecordExists
from csi_driver.controller import orphans
from csi_driver.controller.backends import DriverCallFailed
from csi_driver.controller.context import ControllerContext
from csi_driver.controller.operations import retry_at

M = TypeVar("M", VolumeRecord, SnapshotRecord)


def expect(context: ControllerContext, record: VolumeRecord | SnapshotRecord) -> None:
    """Let the last attempt of an unfinished object be looked for again, if it is another's.

    To be called before the record tells of another attempt.  Of an attempt that is expected
    already nothing changes.

    :raises StoreUnavailable: nothing was recorded; the object must not be worked on.
    """
    operation = record.operation
    if context.grace_seconds <= 0 or operation is None or operation.owner == context.owner:
        return
    now = context.clock()
    needed: list[VolumeRecord | SnapshotRecord] = [record]
    if isinstance(record, SnapshotRecord):
        needed.append(context.volume(record.volume_id))
    with contextlib.suppress(RecordExists):
        context.store.put(
            LateAttemptRecord(
                id=record.cinder_id,
                kind=record.KIND,
                backend=record.backend,
                name=record.name,
                csi_id=record.id,
                owner=operation.owner,
                since=now,
                look_at=now + context.grace_seconds,
                objects={each.KIND: msgspec.to_builtins(each) for each in needed},
            )
        )


def due(expected: Iterable[LateAttemptRecord], now: float) -> list[LateAttemptRecord]:
    """The attempts to look for now.  Pure.

    :param now: seconds since the epoch.
    """
    return [each for each in expected if each.look_at <= now]


def look(context: ControllerContext, cinder_id: str) -> None:
    """Remove an attempt again; its record goes with the proof, or becomes an orphan's.

    :raises DriverCallFailed: the backend did not answer; the next look is recorded.
    :raises StoreUnavailable: what was learned is not recorded; the look is made again.
    """
    expected = context.store.get(LateAttemptRecord, cinder_id)
    if expected is None:
        return
    manager = context.backends.of_record(expected.backend).manager
    volume = msgspec.convert(expected.objects["volume"], VolumeRecord)
    try:
        if expected.kind == SnapshotRecord.KIND:
            snapshot = msgspec.convert(expected.objects["snapshot"], SnapshotRecord)
            orphans.remove_lost(
                context,
                _lost(context, snapshot, expected),
                lambda lost: manager.delete_snapshot(lost, volume),
            )
        else:
            orphans.remove_lost(context, _lost(context, volume, expected), manager.delete_volume)
    except DriverCallFailed as failed:
        _look_later(context, expected, failed.failure.message)
        raise
    context.store.delete(expected)


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


def _look_later(context: ControllerContext, expected: LateAttemptRecord, error: str) -> None:
    tried = msgspec.structs.replace(_tries(context, expected), since=context.clock())
    context.store.put(
        msgspec.structs.replace(
            expected, tries=expected.tries + 1, last_error=error, look_at=retry_at(tried)
        )
    )
