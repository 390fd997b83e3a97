"""What Volume, Snapshot and Connection have in common: a record, and how it is written.

The record is written before the driver is called, with the operation in progress, and
again afterwards: a process that dies in between leaves a record that says so.
"""

from __future__ import annotations

import datetime
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, TypeVar, cast

import msgspec

from csi_driver.base.errors import CinderCSIError
from csi_driver.cinderlib import session
from csi_driver.cinderlib.exceptions import NotFound
from csi_driver.cinderlib.failures import classify, message_of
from csi_driver.cinderlib.manager import VolumeManager
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    GroupRecord,
    GroupSnapshotRecord,
    Operation,
    Phase,
    SnapshotRecord,
    VolumeRecord,
)

LOG = logging.getLogger(__name__)

R = TypeVar("R", VolumeRecord, SnapshotRecord, ConnectionRecord, GroupRecord, GroupSnapshotRecord)
E = TypeVar("E", bound="Entity[Any]")


class Entity(Generic[R]):
    """An object with a record.

    Threads may share an object.  Every operation holds the lock of what it changes
    and plans on the stored record, so that a stale object cannot undo newer changes.
    """

    _RECORD: ClassVar[type[Any]]
    _NOT_FOUND: ClassVar[type[NotFound]] = NotFound

    def __init__(self, record: R) -> None:
        self._record: R = record
        self._gone = False

    @property
    def id(self) -> str:
        """The object's id, unique in its store."""
        return self._record.id

    @property
    def created_at(self) -> datetime.datetime:
        """When the object was made, in UTC."""
        return datetime.datetime.fromtimestamp(self._record.created_at, datetime.UTC)

    @property
    def stored(self) -> bool:
        """Whether the store has the object."""
        return self._record.version > 0 and not self._gone

    def refresh(self) -> None:
        """Read the record again.

        :raises NotFound: the store does not have it (any more).
        """
        found = session.current().store.get(self._RECORD, self.id)
        if found is None:
            raise self._NOT_FOUND(f"There is no {self._RECORD.KIND} {self.id!r}")
        self._record = cast(R, found)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    @classmethod
    def get_by_id(cls: type[E], object_id: str) -> E:
        """The object with this id.

        :raises NotFound: there is none.
        """
        found = session.current().store.get(cls._RECORD, object_id)
        if found is None:
            raise cls._NOT_FOUND(f"There is no {cls._RECORD.KIND} {object_id!r}")
        return cls._of_record(found)

    @classmethod
    def _of_record(cls: type[E], record: Any) -> E:
        made = cls.__new__(cls)
        Entity.__init__(made, record)
        return made

    @property
    def _manager(self) -> VolumeManager:
        from csi_driver.cinderlib.backend import Backend

        return Backend.named(self._record.backend).manager

    def _put(self, **changes: Any) -> None:
        changed = msgspec.structs.replace(self._record, **changes)
        self._record = session.current().store.put(changed)

    def _remove(self) -> None:
        session.current().store.delete(self._record)
        self._gone = True

    @contextmanager
    def _operation(
        self,
        kind: str,
        during: Phase,
        failed: Phase,
        refused: Phase | None = None,
        **intent: Any,
    ) -> Iterator[None]:
        """Write that an operation begins, and how it ended if it failed.

        The error passes through with ``resource``, the object.

        :param failed: the phase after a failure.
        :param refused: the phase after one that is known to have had no effect.
        :param intent: further fields of the recorded operation: what it leads to.
        """
        operation = Operation(
            kind=kind,
            step="backend",
            since=time.time(),
            owner=f"{session.current().settings.host}/{os.getpid()}",
            **intent,
        )
        self._put(phase=during, operation=operation)
        try:
            yield
        except Exception as error:
            after = failed
            if refused is not None and not classify(error).may_have_effect:
                after = refused
            self._note(operation, after, error)
            error.resource = self  # type: ignore[attr-defined]
            raise

    def _note(self, operation: Operation, phase: Phase, error: Exception) -> None:
        noted = msgspec.structs.replace(operation, last_error=message_of(error))
        try:
            self._put(phase=phase, operation=noted)
        except CinderCSIError as unstored:
            # The driver's error is the one that the caller has to see.
            LOG.warning("The failure of %r is not recorded: %s", self, unstored)
