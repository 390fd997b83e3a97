"""What is unfinished, in words: for ABORTED messages and for ``cinder-csi orphans``.

Pure functions over records.  A caller who is told that an object is busy wants to know
what runs, since when, in which process and at which step, also when that process is
dead; an administrator wants the same of everything that is pending, and what to do.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable

import msgspec

from csi_driver.base.errors import OperationInProgress
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    LateAttemptRecord,
    Operation,
    OrphanRecord,
    Phase,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.controller import errors
from csi_driver.controller.operations import AnyRecord, Recovery, recovery_of, retry_at

_STATES = {
    Phase.CREATING: "is being created",
    Phase.DELETING: "is being deleted",
    Phase.REVERTING: "is being reverted",
    Phase.ATTACHING: "is being attached",
    Phase.DETACHING: "is being detached",
}

_BY_ITSELF = {
    Recovery.SUSPECT: "removes what it may have left, and gives it up or makes it again",
    Recovery.REDO: "does it again",
    Recovery.UNDO: "undoes it",
}

_WHEN_ENDED = {
    "publish": "removes the connection again, and lets the volume be published,",
    "unpublish": "lets the volume be published again",
    "extend": "lets the volume get another size",
    "revert": "reverts it again",
}
"""What is done when the call of another process has ended; else it is removed again."""


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """An operation that is not finished.  Times are UTC, as ISO 8601."""

    kind: str
    id: str
    name: str
    backend: str
    operation: str
    step: str
    since: str
    owner: str
    attempts: int
    last_error: str
    what_to_do: str


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """Something that may be on a backend with this Cinder id: a suspect, or an orphan."""

    cinder_id: str
    kind: str
    backend: str
    name: str
    csi_id: str
    since: str
    why: str
    what_to_do: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All that is unfinished or left in a record store."""

    orphans: list[Left]
    suspects: list[Left]
    pending: list[Pending]


def describe(operation: Operation) -> str:
    """One clause: what runs, since when, in which process, at which step, and its last error."""
    text = _progress(operation)
    return f"{text}, last error: {operation.last_error}" if operation.last_error else text


def _progress(operation: Operation) -> str:
    return (
        f"{operation.kind} since {utc(operation.since)} in process {operation.owner},"
        f" at step {operation.step!r}, attempt {operation.attempts}"
    )


def busy(record: AnyRecord, advice: str | None = None) -> OperationInProgress:
    """The error for an object in a phase that allows no other operation.

    :param advice: what to do, if not to retry.
    """
    state = _STATES.get(record.phase, f"is {record.phase}")
    text = f"{record.KIND.capitalize()} {record.id} {state}"
    if record.operation is not None:
        text = f"{text}: {describe(record.operation)}"
    return OperationInProgress(text, advice=advice)


def unsettled(record: AnyRecord, text: str, advice: str | None = None) -> errors.OutcomeUnknown:
    """The error for an operation whose last attempt has no known outcome.

    :param text: what failed.
    """
    if record.operation is not None:
        text = f"{text} ({_progress(record.operation)})"
    return errors.OutcomeUnknown(text, advice=advice)


def report(
    volumes: Iterable[VolumeRecord],
    snapshots: Iterable[SnapshotRecord],
    connections: Iterable[ConnectionRecord],
    orphans: Iterable[OrphanRecord],
    late: Iterable[LateAttemptRecord] = (),
) -> Report:
    """What is unfinished or left, of all records of a store."""
    made: list[VolumeRecord | SnapshotRecord] = [*volumes, *snapshots]
    everything: list[AnyRecord] = [*made, *connections]
    left = [_orphan(orphan) for orphan in orphans]
    known = {orphan.cinder_id for orphan in left}
    suspects = [suspect for record in made for suspect in _suspects(record)]
    known_suspects = {suspect.cinder_id for suspect in suspects}
    suspects += [_late(each) for each in late if each.id not in known_suspects]
    pending = [_pending(record) for record in everything if record.operation]
    return Report(
        orphans=sorted(left, key=lambda orphan: orphan.since),
        suspects=[suspect for suspect in suspects if suspect.cinder_id not in known],
        pending=sorted(pending, key=lambda entry: entry.since),
    )


def _suspects(record: VolumeRecord | SnapshotRecord) -> list[Left]:
    ids = list(record.suspects)
    if record.phase is Phase.CREATING and record.cinder_id not in ids:
        ids.append(record.cinder_id)
    operation = record.operation
    return [
        Left(
            cinder_id=cinder_id,
            kind=record.KIND,
            backend=record.backend,
            name=record.name,
            csi_id=record.id,
            since=utc(operation.since if operation else record.created_at),
            why="an attempt to make it has no known outcome",
            what_to_do="Nothing: the controller removes it before it tries again",
        )
        for cinder_id in ids
    ]


def _late(expected: LateAttemptRecord) -> Left:
    error = f"; last error: {expected.last_error}" if expected.last_error else ""
    return Left(
        cinder_id=expected.id,
        kind=expected.kind,
        backend=expected.backend,
        name=expected.name,
        csi_id=expected.csi_id,
        since=utc(expected.since),
        why=f"process {expected.owner} began its {expected.call}, a call that may still run{error}",
        what_to_do=f"Nothing: the controller {_WHEN_ENDED.get(expected.call, 'removes it again')}"
        f" at {utc(expected.look_at)}",
    )


def _orphan(orphan: OrphanRecord) -> Left:
    return Left(
        cinder_id=orphan.id,
        kind=orphan.kind,
        backend=orphan.backend,
        name=orphan.name,
        csi_id=orphan.csi_id,
        since=utc(orphan.since),
        why=orphan.reason,
        what_to_do=f"Look for a {orphan.kind} with this Cinder id on the backend, delete it if"
        f" it is there, then: cinder-csi orphans --forget {orphan.id}",
    )


def _pending(record: AnyRecord) -> Pending:
    operation = record.operation
    if operation is None:
        raise ValueError(f"{record.KIND} {record.id} has no operation")
    return Pending(
        kind=record.KIND,
        id=record.id,
        name=getattr(record, "name", ""),
        backend=record.backend,
        operation=operation.kind,
        step=operation.step,
        since=utc(operation.since),
        owner=operation.owner,
        attempts=operation.attempts,
        last_error=operation.last_error,
        what_to_do=_what_to_do(record, operation),
    )


def _what_to_do(record: AnyRecord, operation: Operation) -> str:
    recovery = recovery_of(record)
    if recovery is Recovery.FINAL:
        return "Run the release that began it: this one does not know the operation"
    action = _BY_ITSELF[recovery]
    if operation.last_error:
        return (
            f"Mend what the last error names; the controller {action} by itself, next at"
            f" {utc(retry_at(operation))}"
        )
    return f"Nothing while process {operation.owner} runs; after its end a controller {action}"


def utc(seconds: float) -> str:
    """A moment (seconds since the epoch) as ISO 8601, in UTC."""
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
