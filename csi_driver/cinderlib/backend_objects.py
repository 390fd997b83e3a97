"""The objects of a backend: its volumes, its view of the classes, its JSON.

Base class of :class:`csi_driver.cinderlib.backend.Backend`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from csi_driver.cinderlib import session
from csi_driver.cinderlib.persistence.records import (
    GroupRecord,
    GroupSnapshotRecord,
    VolumeRecord,
)
from csi_driver.cinderlib.serialization import FORMAT, Children, Serializable, load_as, load_backend
from csi_driver.cinderlib.tracking import LazyList

if TYPE_CHECKING:
    from csi_driver.cinderlib.backend import Backend
    from csi_driver.cinderlib.connection import Connection
    from csi_driver.cinderlib.entity import Entity
    from csi_driver.cinderlib.snapshot import Snapshot
    from csi_driver.cinderlib.volume import Volume

E = TypeVar("E", bound="Entity[Any]")


class OfBackend(Generic[E]):
    """A class as one backend sees it: ``backend.Volume.get_by_id(...)``."""

    def __init__(self, backend: BackendObjects, kind: type[E]) -> None:
        self._backend = backend
        self._kind = kind

    def get_by_id(self, object_id: str) -> E:
        """The backend's object with this id.

        :raises NotFound: there is none; another backend may have it.
        """
        found = self._kind.get_by_id(object_id)
        if found._record.backend != self._backend.id:
            raise self._kind._NOT_FOUND(
                f"There is no {self._kind._RECORD.KIND} {object_id!r} in {self._backend!r},"
                f" but in {found._record.backend!r}"
            )
        return found

    def get_by_name(self, name: str) -> list[E]:
        """The backend's objects with this name; connections have none."""
        kind: Any = self._kind
        found: list[E] = kind.get_by_name(name)
        return [one for one in found if one._record.backend == self._backend.id]


class BackendObjects(Serializable):
    """What a backend knows of its objects."""

    LAZY_PROPERTIES = ("volumes",)

    id: Any
    config: Any

    def _prepare(self) -> None:
        """Called when the backend has its name."""
        name = self.id
        # Of the document that was loaded last: for saving it.
        self._loaded_groups: list[Any] = []
        self._volumes = LazyList(VolumeRecord.KIND, name, lambda: _volumes_of(name))

    @property
    def volumes(self) -> list[Volume]:
        """The backend's volumes that the store has, in the order in which they were made.

        Read once, and again after :meth:`refresh` or a change by this process.
        """
        return self._volumes()

    def refresh(self) -> None:
        """Let :attr:`volumes` be read from the store again."""
        self._volumes.forget()

    @property
    def Volume(self) -> OfBackend[Volume]:
        """:class:`Volume` restricted to this backend."""
        from csi_driver.cinderlib.volume import Volume

        return OfBackend(self, Volume)

    @property
    def Snapshot(self) -> OfBackend[Snapshot]:
        """:class:`Snapshot` restricted to this backend."""
        from csi_driver.cinderlib.snapshot import Snapshot

        return OfBackend(self, Snapshot)

    @property
    def Connection(self) -> OfBackend[Connection]:
        """:class:`Connection` restricted to this backend."""
        from csi_driver.cinderlib.connection import Connection

        return OfBackend(self, Connection)

    @classmethod
    def load(cls, json_src: str | bytes | Mapping[str, Any], save: bool = False) -> Any:
        """The backend of a document, with the volumes in it; see :func:`serialization.load`."""
        return load_as(cls, "Backend", json_src, save)

    @staticmethod
    def load_backend(json_src: str | bytes | Mapping[str, Any]) -> Backend:
        """See :func:`csi_driver.cinderlib.serialization.load_backend`."""
        return load_backend(json_src)

    def document(self, children: Children) -> dict[str, Any]:
        """See :meth:`Serializable.document`; unless simplified all volumes are in it."""
        told = {"class": "Backend", "format": FORMAT, "backend": self.config}
        if children is not Children.NONE:
            told["volumes"] = [volume.document(children) for volume in self.volumes]
        if children is Children.ALL:
            told["groups"] = [group.document(Children.NONE) for group in _groups_of(self.id)]
        return told


def _groups_of(backend: str) -> list[Entity[Any]]:
    """The groups of a backend, then their snapshots."""
    from csi_driver.cinderlib.group import Group
    from csi_driver.cinderlib.group_snapshot import GroupSnapshot

    store, where = session.current().store, {"backend": backend}
    groups = [Group._of_record(record) for record in store.list(GroupRecord, where=where)]
    cuts = store.list(GroupSnapshotRecord, where=where)
    return [*groups, *(GroupSnapshot._of_record(record) for record in cuts)]


def _volumes_of(backend: str) -> list[Volume]:
    from csi_driver.cinderlib.volume import Volume

    records = session.current().store.list(VolumeRecord, where={"backend": backend})
    return [Volume._of_record(record) for record in records]
