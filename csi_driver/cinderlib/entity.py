"""What Volume, Snapshot and Connection have in common: a record, and how it is written.

The record is written before the driver is called, with the operation in progress, and
again afterwards: a process that dies in between leaves a record that says so.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

import msgspec

from csi_driver.base.errors import CinderCSIError
from csi_driver.cinderlib import session
from csi_driver.cinderlib.exceptions import InvalidVolume, NotFound
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
from csi_driver.cinderlib.serialization import (
    Children,
    Serializable,
    entity_document,
    load_as,
    plain,
)
from csi_driver.cinderlib.tracking import Known, KnownObjects, changes

if TYPE_CHECKING:
    from csi_driver.cinderlib.backend import Backend

LOG = logging.getLogger(__name__)

R = TypeVar("R", VolumeRecord, SnapshotRecord, ConnectionRecord, GroupRecord, GroupSnapshotRecord)
E = TypeVar("E", bound="Entity[Any]")


class Entity(Serializable, Generic[R]):
    """An object with a record.

    Threads may share an object.  Every operation holds the lock of what it changes
    and plans on the stored record, so that a stale object cannot undo newer changes.
    Objects of one class and id are equal, however many instances there are.
    """

    _RECORD: ClassVar[type[Any]]
    _NOT_FOUND: ClassVar[type[NotFound]] = NotFound
    _PARENT: ClassVar[str] = "backend"
    """The field of the record that names whose child the object is."""

    FIELDS: ClassVar[tuple[str, ...]] = ()
    """The names of the fields that :meth:`to_dict` tells."""

    objects: ClassVar[KnownObjects[Any]]
    """All objects of the class that this process knows; see :class:`KnownObjects`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A program's own subclass shares what its base knows.
        if "_RECORD" in cls.__dict__:
            cls.objects = KnownObjects(cls._of_known)

    def __init__(self, record: R) -> None:
        self._record: R = record
        self._edits: dict[str, Any] = {}
        self._gone = False
        self._deleted_at: datetime.datetime | None = None
        self._previous_status: str | None = None
        self._only_loaded = False
        self._lazy = self._lazies()

    def _lazies(self) -> dict[str, Any]:
        """What holds the children and the parent, by :attr:`LAZY_PROPERTIES`; for subclasses."""
        return {}

    @property
    def id(self) -> str:
        """The object's id, unique in its store."""
        return self._record.id

    @property
    def created_at(self) -> datetime.datetime:
        """When the object was made, in UTC."""
        return _utc(self._record.created_at)

    @property
    def backend(self) -> Backend:
        """The backend that has the object.

        Its name, when it is not loaded and setup's ``fail_on_missing_backend`` is off.

        :raises BackendNotFound: it is not loaded.
        """
        from csi_driver.cinderlib.backend import Backend

        name = self._record.backend
        if name not in Backend.backends and not session.current().options.fail_on_missing_backend:
            return name  # type: ignore[return-value] # as in cinderlib, asked for by the option
        return Backend.named(name)

    @property
    def stored(self) -> bool:
        """Whether the store has the object."""
        return self._record.version > 0 and not self._gone

    @property
    def only_loaded(self) -> bool:
        """Whether the object came from JSON and the store does not have it yet."""
        return self._only_loaded

    def refresh(self) -> None:
        """Read the object again, and its children at their next use; unsaved fields go.

        An object that was only loaded from JSON has nothing to be read from, and stays.

        :raises NotFound: the store does not have it (any more).
        """
        if self._only_loaded and self._stored_record() is None:
            return
        self._read()
        self._edits = {}
        self._forget()

    def save(self) -> None:
        """Store the fields that were assigned, or an object that was loaded from JSON.

        :raises NotFound: the store does not have it any more.
        """
        with self._exclusively():
            if self._gone:
                raise self._missing()
            if self._record.version or self._only_loaded:
                self._reread()
            self._put(**self._edits)
            self._edits = {}

    @staticmethod
    def new_uuid() -> str:
        """A new id."""
        return str(uuid.uuid4())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Entity):
            return NotImplemented
        return self._RECORD is other._RECORD and self.id == other.id

    def __hash__(self) -> int:
        return hash((self._RECORD, self.id))

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
    def _known_by_id(cls: type[E], object_id: str) -> E:
        """The object with this id; a deleted one as this process knew it last.

        :raises NotFound: there is none.
        """
        found = session.current().store.get(cls._RECORD, object_id)
        known: E | None = cls.objects.get(object_id) if found is None else None
        return known if known is not None else cls.get_by_id(object_id)

    @classmethod
    def _of_record(cls: type[E], record: Any) -> E:
        made = cls.__new__(cls)
        Entity.__init__(made, record)
        made._note_known()
        return made

    @classmethod
    def _of_known(cls: type[E], known: Known) -> E:
        made = cls.__new__(cls)
        Entity.__init__(made, known.record)
        if known.deleted_at is not None:
            made._gone, made._deleted_at = True, _utc(known.deleted_at)
        return made

    @property
    def _manager(self) -> VolumeManager:
        from csi_driver.cinderlib.backend import Backend

        return Backend.named(self._record.backend).manager

    # -- JSON ------------------------------------------------------------------

    @classmethod
    def load(cls: type[E], json_src: str | bytes | Mapping[str, Any], save: bool = False) -> E:
        """The object of a document; see :func:`csi_driver.cinderlib.serialization.load`."""
        made: E = load_as(cls, cls._class_name(), json_src, save)
        return made

    def document(self, children: Children) -> dict[str, Any]:
        """See :meth:`Serializable.document`."""
        found = {}
        for part, lazy in self._lazy.items():
            if children is Children.ALL or (children is Children.LOADED and lazy.loaded):
                # The volume of a connection that another host was sent is not known there.
                with contextlib.suppress(NotFound):
                    found[part] = lazy()
        return entity_document(self, self._class_name(), found)

    def to_dict(self) -> dict[str, Any]:
        """The fields of :attr:`FIELDS` by their names, as plain JSON types."""
        return {name: plain(getattr(self, name)) for name in self.FIELDS}

    @classmethod
    def _of_document(cls: type[E], record: Any, deleted_at: float | None) -> E:
        made = cls.__new__(cls)
        Entity.__init__(made, record)
        if deleted_at is not None:
            made._gone, made._deleted_at = True, _utc(deleted_at)
        made._only_loaded = not made._gone
        made._note_known()
        return made

    @classmethod
    def _class_name(cls) -> str:
        # Of the library's class, also for a subclass that a program makes.
        return str(cls._RECORD.KIND.title().replace("_", ""))

    # -- the record ------------------------------------------------------------

    @property
    def _locked_by(self) -> str:
        """The id under which one thread at a time works on the object."""
        return self.id

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """One thread at a time works on the object; errors tell it as ``resource``."""
        with session.current().exclusive(self._locked_by):
            try:
                yield
            except Exception as error:
                if getattr(error, "resource", None) is None:
                    error.resource = self  # type: ignore[attr-defined]
                raise

    def _reread(self) -> None:
        """Plan on the stored record; what was only loaded from JSON is stored first.

        :raises NotFound: the store does not have it.
        """
        if self._only_loaded and self._stored_record() is None:
            self._put()
        else:
            self._read()

    def _read(self) -> None:
        found = self._stored_record()
        if found is None:
            raise self._missing()
        self._record = cast(R, found)
        self._only_loaded = False
        self._note_known()

    def _stored_record(self) -> Any:
        return session.current().store.get(self._RECORD, self.id)

    def _require_unmade(self) -> None:
        """Let only what was never made be made again: the attempt before is removed first.

        :raises InvalidVolume: it was made, whatever failed since.
        """
        record = self._record
        if record.operation is None:
            unmade = record.phase is Phase.CREATING
        else:
            failed = record.phase in (Phase.CREATING, Phase.ERROR)
            unmade = failed and record.operation.kind == "create"
        if not unmade:
            raise InvalidVolume(f"{self!r} exists, and is {record.phase.value}")

    def _missing(self) -> NotFound:
        return self._NOT_FOUND(f"There is no {self._RECORD.KIND} {self.id!r}")

    def _forget(self) -> None:
        for lazy in self._lazy.values():
            lazy.forget()

    def _value(self, field: str) -> Any:
        return self._edits.get(field, getattr(self._record, field))

    def _assign(self, field: str, value: Any) -> None:
        if self.stored or self._only_loaded:
            self._edits[field] = value
        else:
            self._record = msgspec.structs.replace(self._record, **{field: value})

    def _put(self, **changes: Any) -> None:
        self._keep(msgspec.structs.replace(self._record, **changes))

    def _keep(self, record: R) -> None:
        """Store the record, and let everybody in the process know."""
        before = self._record.phase
        self._record = session.current().store.put(record)
        self._only_loaded = False
        if record.phase is not before:
            self._previous_status = str(before.value)
        self._note_known()
        changes.add(self._RECORD.KIND, getattr(self._record, self._PARENT))

    def _remove(self) -> None:
        session.current().store.delete(self._record)
        self._gone, self._deleted_at = True, _utc(time.time())
        self._note_known()
        changes.add(self._RECORD.KIND, getattr(self._record, self._PARENT))

    def _note_known(self) -> None:
        store = session.current().store
        deleted = self._deleted_at.timestamp() if self._deleted_at else None
        # By the store behind: another one, moved to, counts versions of its own.
        self.objects.note(self._record, id(getattr(store, "inner", store)), deleted)

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


def _utc(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
