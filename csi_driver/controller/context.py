"""What every use case of the controller works with, and the steps they share."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from csi_driver.base import faults
from csi_driver.base.errors import OperationInProgress
from csi_driver.base.faults import RECORDED, WRITE
from csi_driver.base.inflight import InFlight
from csi_driver.base.sealing import KeyRing
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    Operation,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.cinderlib.persistence.store import RecordConflict, RecordStore, StoreUnavailable
from csi_driver.controller import errors, names, restoring
from csi_driver.controller.backends import Backends
from csi_driver.controller.operations import AnyRecord, Recovery, step_of
from csi_driver.controller.ports import NodeDirectory

M = TypeVar("M", VolumeRecord, SnapshotRecord)
W = TypeVar("W", VolumeRecord, SnapshotRecord, ConnectionRecord)

OWNER = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
"""Who runs an operation, as records tell it: host and process.

In a container every process has the same number: the last part tells them apart.
"""


_TARGETS = ("target_gib", "snapshot_id")
"""Changes that :meth:`ControllerContext.write` keeps in the operation, not in the record."""


class KeyedLocks:
    """A mutex per key, kept only while somebody has it or waits for it.

    ``_guard`` protects the table and is held for a dictionary access only.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, tuple[threading.Lock, int]] = {}

    @contextmanager
    def holding(self, key: str) -> Iterator[None]:
        """Hold the mutex of ``key``."""
        with self._guard:
            lock, users = self._locks.get(key, (threading.Lock(), 0))
            self._locks[key] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._guard:
                lock, users = self._locks[key]
                if users == 1:
                    del self._locks[key]
                else:
                    self._locks[key] = (lock, users - 1)


@dataclass(frozen=True)
class ControllerContext:
    """The parts that the use cases share.

    ``inflight`` keeps one operation on an object at a time; ``attachments`` locks
    a volume while its connections are planned and changed, so that connections of
    one volume to several nodes take turns; ``naming`` locks a name while a new object
    takes it.  ``may_begin`` says whether this process may begin work of its own accord
    now: not while it is unsure whether it leads.

    ``grace_seconds``: how long a backend call that another process began may still run;
    what it may have made is looked for again then.  ``attach_grace_seconds`` is the same of
    attaches and detaches, which take less.  0 where the other is dead for certain, because
    it held the lock of the store.  ``owner`` is this process, as records tell it.
    """

    store: RecordStore
    backends: Backends
    nodes: NodeDirectory
    keys: Callable[[], KeyRing]
    driver_name: str
    topology_key: str
    inflight: InFlight = field(default_factory=InFlight)
    attachments: KeyedLocks = field(default_factory=KeyedLocks)
    naming: KeyedLocks = field(default_factory=KeyedLocks)
    clock: Callable[[], float] = time.time
    may_begin: Callable[[], bool] = lambda: True
    grace_seconds: float = 0.0
    attach_grace_seconds: float = 0.0
    owner: str = OWNER

    # -- records, step by step -------------------------------------------------

    def write(self, record: W, kind: str, step: str, **changes: Any) -> W:
        """Store a record at a step of an operation, with ``changes`` to its fields.

        The first step of a further attempt counts it; the last step ends the
        operation.  The fault points of :mod:`~csi_driver.controller.operations` are here.

        :raises StoreUnavailable: nothing was stored.
        :raises RecordConflict: somebody else changed the record.
        """
        target = {name: changes.pop(name) for name in _TARGETS if name in changes}
        operation = self._operation(record, kind, step, target)
        changed = msgspec.structs.replace(record, operation=operation, **changes)
        faults.reach(f"{kind}/{step}/{WRITE}", StoreUnavailable)
        stored = self.store.put(changed)
        faults.reach(f"{kind}/{step}/{RECORDED}")
        return stored

    def erase(self, record: W, kind: str, step: str) -> None:
        """Remove a record as the last step of an operation.

        :raises StoreUnavailable: it was not removed.
        """
        faults.reach(f"{kind}/{step}/{WRITE}", StoreUnavailable)
        self.store.delete(record)
        faults.reach(f"{kind}/{step}/{RECORDED}")

    def update(self, volume: VolumeRecord, kind: str, step: str) -> VolumeRecord:
        """Store a volume as the driver changed it at a step of an operation on a connection.

        :raises StoreUnavailable: nothing was stored.
        :raises RecordConflict: somebody else changed the volume.
        """
        point = f"{kind}/{step_of(kind, step).name}"
        faults.reach(f"{point}/{WRITE}", StoreUnavailable)
        stored = self.store.put(volume)
        faults.reach(f"{point}/{RECORDED}")
        return stored

    def note(self, record: AnyRecord, error: str) -> None:
        """Keep the error in the record's operation, for people and for the repair loop."""
        if record.operation is not None:
            noted = msgspec.structs.replace(record.operation, last_error=error)
            self.store.put(msgspec.structs.replace(record, operation=noted))

    def _operation(
        self, record: AnyRecord, kind: str, step: str, target: dict[str, Any]
    ) -> Operation | None:
        if step_of(kind, step).recovery is Recovery.FINAL:
            return None
        before = record.operation
        again = before is not None and before.kind == kind
        return Operation(
            kind=kind,
            step=step,
            since=self.clock(),
            owner=self.owner,
            attempts=before.attempts + 1 if before and again else 1,
            last_error=before.last_error if before and again else "",
            size_gib=target.get("target_gib", 0),
            snapshot_id=target.get("snapshot_id", ""),
        )

    def identify(self, kind: str, name: str) -> tuple[str, int]:
        """The id and incarnation that a name has now."""
        return names.identify(self.store, kind, name)

    def begin(self, record: M, kind: str) -> M:
        """Store the record of a new object as the first step of an operation.

        :raises OperationInProgress: the name has another id than when the call began:
            an object of that name was made or deleted meanwhile.
        """
        with self.naming.holding(f"{record.KIND}/{record.name}"):
            if self.identify(record.KIND, record.name)[0] != record.id:
                raise OperationInProgress(
                    f"Another call made or deleted the {record.KIND} {record.name!r} meanwhile",
                    advice="Retry; the call plans again",
                )
            return self.write(record, kind, "backend")

    def bury(self, operation: str, record: M) -> None:
        """Remove the record of a deleted object; its name's next use is a new incarnation.

        The record goes last: a crash before leaves one whose deletion is done again, so
        that what nodes confirmed is not left behind.

        :raises StoreUnavailable: it was not removed.
        """
        if isinstance(record, VolumeRecord):
            self.nodes.forget(record.id)
        faults.reach(f"{operation}/gone/{WRITE}", StoreUnavailable)
        names.bury(self.store, record, self.clock())
        faults.reach(f"{operation}/gone/{RECORDED}")

    def volume(self, volume_id: str) -> VolumeRecord:
        """The record of a volume.

        :raises VolumeNotFound: there is none.
        """
        record = self.store.get(VolumeRecord, volume_id)
        if record is None:
            raise errors.VolumeNotFound(f"There is no volume {volume_id!r}")
        return record

    def connections(self, volume_id: str) -> list[ConnectionRecord]:
        """The connections of a volume, by node."""
        return self.store.list(ConnectionRecord, where={"volume_id": volume_id})

    def with_confirmation(self, volume: VolumeRecord) -> VolumeRecord:
        """The volume with what nodes proved about it; stored when it is news."""
        news = restoring.confirmed(volume, self.nodes.confirmation(volume.id))
        if news == volume:
            return volume
        try:
            return self.store.put(news)
        except RecordConflict:
            # Another copy of the volume is being made and took the news over first.
            return self.with_confirmation(self.volume(volume.id))
