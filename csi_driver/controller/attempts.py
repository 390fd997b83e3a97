"""Making something on a backend so that no outcome is ever lost.

Shared by the creation of volumes and of snapshots.  Every attempt has a Cinder id
of its own, recorded before the driver is called.  When an attempt fails and may
have had effect, it is undone at once; when the undo fails too, or the process
dies in between, the record keeps the id as a *suspect*, which the next attempt
removes before it makes anything.  A suspect is never adopted.  One that no answer of
the driver proves absent is reported (:mod:`~csi_driver.controller.orphans`).  One that
another process began is looked for again later (:mod:`~csi_driver.controller.late`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from csi_driver.base.errors import CinderCSIError
from csi_driver.base.inflight import Running
from csi_driver.cinderlib.failures import FailureKind
from csi_driver.cinderlib.persistence.records import Phase, SnapshotRecord, VolumeRecord
from csi_driver.controller import ids, late, orphans, pending
from csi_driver.controller.backends import DriverCallFailed, as_error, attempt
from csi_driver.controller.context import ControllerContext

M = TypeVar("M", VolumeRecord, SnapshotRecord)


def next_attempt(context: ControllerContext, record: M, kind: str) -> M:
    """Record a further attempt on an object whose last one has no known outcome."""
    late.expect(context, record)
    return context.write(
        record,
        kind,
        "backend",
        cinder_id=ids.new_cinder_id(),
        suspects=(*record.suspects, record.cinder_id),
    )


def make(
    context: ControllerContext,
    running: Running,
    record: M,
    kind: str,
    create: Callable[[M], M],
    remove: Callable[[M], object],
    complete: Callable[[M], M] | None = None,
) -> M:
    """Call the driver to make what ``record`` (stored, phase creating) says.

    :param kind: the operation, for its records.
    :param create: the driver call; answers the record with what the driver returned.
    :param remove: the driver call that removes one attempt; must accept absence.
    :param complete: adds to the record what is known only after the driver call; when it
        raises, what was made is removed.
    :returns: the stored record, phase available.
    :raises OutcomeUnknown: something may be left on the backend; retry.
    :raises CinderCSIError: the final error; nothing is left, no record either.
    """
    record = remove_suspects(context, running, record, remove)
    running.at("backend create")
    try:
        made = attempt(f"Creating {record.name!r} on {record.backend}", lambda: create(record))
    except DriverCallFailed as failed:
        running.at("undo after failure")
        _undo(context, record, kind, failed, remove)
        raise as_error(failed) from failed
    running.at("recording")
    if complete is not None:
        made = _complete(context, record, made, kind, complete, remove)
    return context.write(made, kind, "available", phase=Phase.AVAILABLE, suspects=())


def remove_suspects(
    context: ControllerContext, running: Running, record: M, remove: Callable[[M], object]
) -> M:
    """Remove what earlier attempts may have left, until it is proved absent or reported.

    :raises OutcomeUnknown: the backend would not remove one; the record keeps it.
    """
    for suspect in record.suspects:
        running.at(f"removing what attempt {suspect} may have left")
        lost = msgspec.structs.replace(record, cinder_id=suspect, provider={})
        try:
            orphans.remove_lost(context, lost, remove)
        except DriverCallFailed as failed:
            context.note(record, failed.failure.message)
            raise pending.unsettled(
                record,
                f"What an earlier attempt ({suspect}) to create {record.name!r} may have left on"
                f" {record.backend} could not be removed: {failed.failure.message}",
            ) from failed
    return record


def unmake(
    context: ControllerContext,
    running: Running,
    record: M,
    operation: str,
    remove: Callable[[M], object],
) -> None:
    """Delete an object from the backend and bury its record.

    :param operation: "delete" or "delete-snapshot", for its records.
    :raises CinderCSIError: the driver refused or failed; the record stays, and goes back
        to what it was when it is certain that the backend did nothing.
    """
    before = record.phase
    suspects: tuple[str, ...] = record.suspects
    if before is Phase.CREATING:
        late.expect(context, record)
        suspects = (*suspects, record.cinder_id)
    record = context.write(record, operation, "backend", phase=Phase.DELETING, suspects=suspects)
    record = remove_suspects(context, running, record, remove)
    running.at("backend delete")
    try:
        # What was never finished is a suspect, and dealt with.
        if record.cinder_id not in suspects:
            _remove(record, remove)
    except DriverCallFailed as failed:
        if failed.failure.may_have_effect or before is not Phase.AVAILABLE:
            context.note(record, failed.failure.message)
        else:
            context.write(record, operation, "undone", phase=before)
        raise as_error(failed) from failed
    running.at("recording")
    context.bury(operation, record)


def abandon(
    context: ControllerContext,
    running: Running,
    record: M,
    kind: str,
    remove: Callable[[M], object],
) -> None:
    """Give up a creation that nobody runs: remove all its attempts, then the record.

    :raises OutcomeUnknown: the backend would not remove one; the record keeps it.
    """
    left = next_attempt(context, record, kind)
    remove_suspects(context, running, left, remove)
    context.erase(left, kind, "undone")


def _undo(
    context: ControllerContext,
    record: M,
    kind: str,
    failed: DriverCallFailed,
    remove: Callable[[M], object],
) -> None:
    error = failed.failure.message
    if failed.failure.may_have_effect:
        with _noting(
            context, record, error, f"{failed.action} failed ({error}) and what it may have left"
        ):
            orphans.remove_lost(context, record, remove)
    context.erase(record, kind, "undone")


def _complete(
    context: ControllerContext,
    record: M,
    made: M,
    kind: str,
    complete: Callable[[M], M],
    remove: Callable[[M], object],
) -> M:
    try:
        return complete(made)
    except CinderCSIError as error:
        # Not in ``made``: what the driver said of this attempt is nothing to the next one.
        with _noting(context, record, error.message, f"{error.message}; what was made"):
            _remove(made, remove)
        context.erase(made, kind, "undone")
        raise


@contextmanager
def _noting(context: ControllerContext, record: M, error: str, what: str) -> Iterator[None]:
    """Keep the error of an attempt in its record when what it made cannot be removed inside.

    :param what: what could not be removed, and why it was to be.
    :raises OutcomeUnknown: it could not.
    """
    try:
        yield
    except DriverCallFailed as failed:
        context.note(record, error)
        raise pending.unsettled(
            record, f"{what} could not be removed yet: {failed.failure.message}"
        ) from failed


def _remove(record: M, remove: Callable[[M], object]) -> None:
    """Delete a finished object; what the driver knows to be gone was deleted before."""
    try:
        attempt(f"Deleting {record.KIND} {record.name!r}", lambda: remove(record))
    except DriverCallFailed as failed:
        if failed.failure.kind is not FailureKind.NOT_FOUND:
            raise
