"""What cannot be proved absent from a backend is reported, never deleted by guess.

Called by :mod:`~csi_driver.controller.attempts`, after a driver was asked to delete an
attempt of which only the Cinder id is known.  What its answer proves depends on the
driver (:mod:`csi_driver.cinderlib.runtime.removal`).  An attempt that no answer proves
absent becomes an :class:`OrphanRecord`, and the operation goes on: a retry for ever
would prove nothing either.  ``cinder-csi orphans`` lists them for the administrator.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

from csi_driver.base import faults
from csi_driver.base.faults import RECORDED, WRITE
from csi_driver.cinderlib.failures import Failure, FailureKind
from csi_driver.cinderlib.persistence.records import OrphanRecord, SnapshotRecord, VolumeRecord
from csi_driver.cinderlib.persistence.store import RecordExists, RecordStore, StoreUnavailable
from csi_driver.cinderlib.runtime.removal import Proof, Removal
from csi_driver.controller.backends import DriverCallFailed, attempt
from csi_driver.controller.context import ControllerContext

M = TypeVar("M", VolumeRecord, SnapshotRecord)

LOG = logging.getLogger("csi_driver.controller")

TRIES = 3
"""How often an error is answered with another try before it counts as no proof."""

_PASSING = frozenset({FailureKind.UNAVAILABLE, FailureKind.TIMEOUT, FailureKind.BUSY})
"""Failures that say that the backend could not even be asked, or not now."""


class Verdict(StrEnum):
    """What is known of an attempt after the driver was asked to delete it."""

    GONE = "gone"
    AGAIN = "again"
    ORPHAN = "orphan"


def verdict(proof: Proof, failure: Failure | None, tries: int) -> Verdict:
    """What the outcome of a deletion says about an attempt.  Pure.

    :param failure: None: the driver answered OK.
    :param tries: how many attempts the operation has had, this one included.
    """
    if failure is None or failure.kind is FailureKind.NOT_FOUND:
        return Verdict.ORPHAN if proof is Proof.NOTHING else Verdict.GONE
    if proof is Proof.ANSWER or failure.kind in _PASSING or tries < TRIES:
        return Verdict.AGAIN
    return Verdict.ORPHAN


def remove_lost(context: ControllerContext, lost: M, remove: Callable[[M], object]) -> None:
    """Remove an attempt of which only the Cinder id is known; report it if that proves nothing.

    :raises DriverCallFailed: it may be there, and another try may tell.
    :raises StoreUnavailable: it is not reported.
    """
    backend = context.backends.of_record(lost.backend)
    removal = backend.manager.what_removal_proves("volume" if lost.KIND == "volume" else "snapshot")
    failed: DriverCallFailed | None = None
    try:
        attempt(f"Removing {lost.cinder_id} from {lost.backend}", lambda: remove(lost))
    except DriverCallFailed as error:
        failed = error
    failure = failed.failure if failed else None
    tries = lost.operation.attempts if lost.operation else 1
    outcome = verdict(removal.proof, failure, tries)
    if outcome is Verdict.ORPHAN:
        record(context.store, lost, removal, failure, context.clock())
    elif failed is not None and outcome is Verdict.AGAIN:
        raise failed


def record(
    store: RecordStore,
    lost: VolumeRecord | SnapshotRecord,
    removal: Removal,
    failure: Failure | None,
    now: float,
) -> None:
    """Record an orphan, once, and warn of it.

    :param lost: the record of the attempt: its ``cinder_id`` is the orphan's.
    :param now: seconds since the epoch.
    :raises StoreUnavailable: nothing was recorded.
    """
    answer = "OK" if failure is None else failure.message
    orphan = OrphanRecord(
        id=lost.cinder_id,
        kind=lost.KIND,
        backend=lost.backend,
        name=lost.name,
        csi_id=lost.id,
        since=now,
        reason=f"asked to delete it, the driver answered {answer!r}, which proves nothing:"
        f" {removal.why}",
    )
    faults.reach(f"orphan/recorded/{WRITE}", StoreUnavailable)
    try:
        store.put(orphan)
    except RecordExists:
        return
    faults.reach(f"orphan/recorded/{RECORDED}")
    LOG.warning(
        "An attempt to make %s %r may be left on backend %s with Cinder id %s: %s. Look for it"
        " there, delete it, then: cinder-csi orphans --forget %s",
        *(orphan.kind, orphan.name, orphan.backend, orphan.id, orphan.reason, orphan.id),
    )


def warn_of_all(store: RecordStore) -> None:
    """Say at start how many orphans are recorded.

    :raises StoreUnavailable: the store cannot be read.
    """
    orphans = store.list(OrphanRecord)
    if orphans:
        LOG.warning(
            "%d orphans may be left on %s: cinder-csi orphans lists them",
            len(orphans),
            ", ".join(sorted({orphan.backend for orphan in orphans})),
        )
