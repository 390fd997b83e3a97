"""Drives what nobody runs any more to a final phase, at start and in a loop.

A record with an operation in it whose process died, or whose last attempt left an
unknown outcome, is *pending*.  What it needs stands in the table of
:mod:`~csi_driver.controller.operations`; when it is due is decided by
:func:`due`, purely; this module starts it through the same use cases that
callers use, so that a caller's retry and the loop never work on one object at once.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any

from csi_driver.base.errors import CinderCSIError, OperationInProgress, ShuttingDown
from csi_driver.base.inflight import Running
from csi_driver.base.values import GIB
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    LateAttemptRecord,
    Phase,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.cinderlib.persistence.store import RecordConflict
from csi_driver.controller import attempts, late
from csi_driver.controller.attachments import Attachments
from csi_driver.controller.context import ControllerContext
from csi_driver.controller.operations import AnyRecord, Recovery, recovery_of, retry_at
from csi_driver.controller.reverts import Reverts
from csi_driver.controller.snapshots import Snapshots
from csi_driver.controller.values import ExpandVolume
from csi_driver.controller.volumes import Volumes

LOG = logging.getLogger("csi_driver.controller")

INTERVAL_SECONDS = 5.0
"""How often the loop looks for pending records."""


def due(records: Iterable[AnyRecord], now: float) -> list[AnyRecord]:
    """The records to repair now.  Pure.

    :param now: seconds since the epoch; infinity takes all, as at start.
    """
    return [
        record
        for record in records
        if recovery_of(record) is not Recovery.FINAL
        and record.operation is not None
        # Since a moment to come: the clock was set back.
        and (retry_at(record.operation) <= now or record.operation.since > now)
    ]


class Repair:
    """The loop.  Its thread reads records and starts work; backends' pools do the work."""

    def __init__(
        self,
        context: ControllerContext,
        volumes: Volumes,
        snapshots: Snapshots,
        attachments: Attachments,
        reverts: Reverts,
    ) -> None:
        self._context = context
        self._volumes = volumes
        self._snapshots = snapshots
        self._attachments = attachments
        self._reverts = reverts
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="repair", daemon=True)

    def start(self) -> None:
        """Begin the loop: first everything that is pending, then what is due."""
        self._thread.start()

    def stop(self) -> None:
        """End the loop; work that it started goes on."""
        self._stopping.set()

    def _loop(self) -> None:
        now = float("inf")
        while not self._stopping.is_set():
            try:
                self.round(now)
            except CinderCSIError as error:
                LOG.warning("Pending operations could not be read: %s", error)
            except Exception:  # a defect; one record must not end the repair of all others
                LOG.exception("Pending operations could not be repaired")
            self._stopping.wait(INTERVAL_SECONDS)
            now = self._context.clock()

    def round(self, now: float) -> list[Future[Any]]:
        """Start the repair of every record that is due; the futures of what was started.

        Nothing while this process may not begin anything: a repair may start with a driver
        call that its record allows already, without a write that would wait.

        :raises StoreUnavailable: the records cannot be read.
        """
        if not self._context.may_begin():
            return []
        store = self._context.store
        pending: list[AnyRecord] = []
        for kind in (ConnectionRecord, SnapshotRecord, VolumeRecord):
            pending += store.list(kind, where={"pending": "yes"})
        futures: list[Future[Any]] = []
        # First: a volume cannot be deleted on which a late call left a connection.
        for expected in late.due(self._context):
            futures += self._look_for(expected)
        for record in due(pending, now):
            futures += self._begin(record)
        return futures

    def _look_for(self, expected: LateAttemptRecord) -> list[Future[Any]]:
        """Start the removal of what a call of another process may have made since."""
        context = self._context
        what = late.describe(expected)
        try:
            if expected.kind == ConnectionRecord.KIND:
                return [_logged(what, self._attachments.settle(expected))]
            backend = context.backends.of_record(expected.backend)
            future = context.inflight.start(
                expected.id,
                "removal of a late attempt",
                None,
                lambda running: late.look(context, expected.id),
                backend.work,
            )
        except CinderCSIError as error:
            LOG.debug("%s is not looked for now: %s", what, error)
            return []
        return [_logged(what, future)]

    def _begin(self, record: AnyRecord) -> list[Future[Any]]:
        try:
            futures = self._repair(record)
        except (OperationInProgress, ShuttingDown) as error:
            LOG.debug("%s is not repaired now: %s", _name(record), error)
            return []
        except CinderCSIError as error:
            self._say_why_not(record, str(error))
            return []
        for future in futures:
            future.add_done_callback(lambda done: _log_outcome(record, done))
        return futures

    def _say_why_not(self, record: AnyRecord, why: str) -> None:
        """Keep in the record why it cannot be repaired (its backend is gone), and log it once."""
        if record.operation is None or record.operation.last_error == why:
            return
        LOG.warning("%s cannot be repaired: %s", _name(record), why)
        with contextlib.suppress(RecordConflict):  # somebody works on it after all
            self._context.note(record, why)

    def _repair(self, record: AnyRecord) -> list[Future[Any]]:
        """Start what the table says; raises what the use case raises."""
        if isinstance(record, ConnectionRecord):
            # UNDO of a publish and REDO of an unpublish are the same call.
            return [self._attachments.resume(record)]
        if recovery_of(record) is Recovery.SUSPECT:
            return [self._abandon(record)]
        if isinstance(record, SnapshotRecord):
            return [self._snapshots.delete(record.id)]
        if record.phase is Phase.DELETING:
            return [self._volumes.delete(record.id)]
        operation = record.operation
        if operation is not None and operation.kind == "revert":
            return [self._reverts.resume(record.id, operation.snapshot_id)]
        target = operation.size_gib if operation is not None else record.size_gib
        wish = ExpandVolume(volume_id=record.id, required_bytes=target * GIB)
        return [self._volumes.expand(wish)]

    def _abandon(self, record: VolumeRecord | SnapshotRecord) -> Future[None]:
        context = self._context
        backend = context.backends.of_record(record.backend)
        holding = (record.volume_id,) if isinstance(record, SnapshotRecord) else ()

        def work(running: Running) -> None:
            found = context.store.get(type(record), record.id)
            if found is None or found.phase is not Phase.CREATING or found.operation is None:
                return
            kind = found.operation.kind
            if isinstance(found, SnapshotRecord):
                volume = context.volume(found.volume_id)

                def remove(snapshot: SnapshotRecord) -> None:
                    backend.manager.delete_snapshot(snapshot, volume)

                attempts.abandon(context, running, found, kind, remove)
            else:
                attempts.abandon(context, running, found, kind, backend.manager.delete_volume)

        return context.inflight.start(
            record.id, "removal of an unfinished creation", None, work, backend.work, holding
        )


def _name(record: AnyRecord) -> str:
    what = record.operation.kind if record.operation else "operation"
    return f"The {what} of {record.KIND} {record.id}"


def _logged(what: str, future: Future[Any]) -> Future[Any]:
    def log(done: Future[Any]) -> None:
        error = done.exception()
        if error is None:
            LOG.info("%s has ended, and nothing is left of it", what)
        else:
            LOG.warning("%s: whether something is left of it is not known yet: %s", what, error)

    future.add_done_callback(log)
    return future


def _log_outcome(record: AnyRecord, future: Future[Any]) -> None:
    error = future.exception()
    if error is None:
        LOG.info("%s, left by an earlier process or attempt, is finished", _name(record))
    elif isinstance(error, OperationInProgress):
        LOG.debug("%s waits: %s", _name(record), error)
    else:
        LOG.warning("%s is pending: %s", _name(record), error)
