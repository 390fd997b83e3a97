"""A volume of the object layer."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from csi_driver.base.values import GIB
from csi_driver.cinderlib import session
from csi_driver.cinderlib.entity import Entity
from csi_driver.cinderlib.exceptions import InvalidSize, InvalidVolume, VolumeNotFound
from csi_driver.cinderlib.failures import FailureKind, classify
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    Phase,
    SnapshotRecord,
    Source,
    VolumeRecord,
)

if TYPE_CHECKING:
    from csi_driver.cinderlib.backend import Backend
    from csi_driver.cinderlib.connection import Connection
    from csi_driver.cinderlib.snapshot import Snapshot

_FIELDS = frozenset(
    {
        "availability_zone",
        "bootable",
        "description",
        "extra_specs",
        "metadata",
        "multiattach",
        "name",
        "qos_specs",
    }
)


class Volume(Entity[VolumeRecord]):
    """A volume.

    :param backend: a Backend, its name, or a Volume whose backend is taken.
    :param pool_name: one of the backend's pools; by default its first.
    :param size: in GiB, a whole number.
    :param fields: id, name, description, metadata, extra_specs, qos_specs, multiattach,
        availability_zone, bootable.
    :raises InvalidVolume: an unknown field or pool.
    :raises InvalidSize: the size is not a whole number of GiB.
    :raises BackendNotFound: no backend of that name is loaded.
    """

    _RECORD = VolumeRecord
    _NOT_FOUND = VolumeNotFound

    def __init__(
        self,
        backend: Backend | str | Volume,
        pool_name: str | None = None,
        *,
        size: int,
        id: str | None = None,
        **fields: Any,
    ) -> None:
        home = _backend_of(backend)
        unknown = sorted(set(fields) - _FIELDS)
        if unknown:
            raise InvalidVolume(f"A volume has no field {', '.join(unknown)}")
        if pool_name and pool_name not in home.pool_names:
            raise InvalidVolume(
                f"Backend {home.id!r} has no pool {pool_name!r}",
                advice=f"Pools: {', '.join(home.pool_names)}",
            )
        identity = id or str(uuid.uuid4())
        super().__init__(
            VolumeRecord(
                id=identity,
                name=fields.pop("name", "") or "",
                backend=home.id,
                pool=pool_name or "",
                phase=Phase.CREATING,
                size_gib=whole_gib(size),
                cinder_id=str(uuid.uuid4()),
                created_at=time.time(),
                **fields,
            )
        )

    # -- what it is ------------------------------------------------------------

    @property
    def backend(self) -> Backend:
        """The backend that has the volume."""
        from csi_driver.cinderlib.backend import Backend

        return Backend.named(self._record.backend)

    @property
    def name(self) -> str:
        """The name given to the volume."""
        return self._record.name

    @property
    def description(self) -> str:
        """The description given to the volume."""
        return self._record.description

    @property
    def name_in_storage(self) -> str:
        """The name that drivers give the volume on the array."""
        from oslo_config import cfg

        name_id = self._record.provider.get("_name_id") or self._record.cinder_id
        return str(cfg.CONF.volume_name_template % name_id)

    @property
    def size(self) -> int:
        """Size in GiB."""
        return self._record.size_gib

    @property
    def pool_name(self) -> str:
        """The pool; '' until the volume is made."""
        return self._record.pool

    @property
    def status(self) -> str:
        """Cinder's word for the volume's state."""
        if self._gone:
            return "deleted"
        if self._record.phase is Phase.AVAILABLE and self.stored and self.connections:
            return "in-use"
        return str(self._record.phase.value)

    @property
    def metadata(self) -> dict[str, str]:
        """A copy of the metadata."""
        return dict(self._record.metadata)

    @property
    def provider_location(self) -> str | None:
        """What the driver remembers of the volume's place."""
        return self._record.provider.get("provider_location")

    @property
    def provider_id(self) -> str | None:
        """The array's own id of the volume."""
        return self._record.provider.get("provider_id")

    @property
    def snapshots(self) -> list[Snapshot]:
        """The volume's snapshots."""
        from csi_driver.cinderlib.snapshot import Snapshot

        return [
            Snapshot._of_record(record)
            for record in session.current().store.list(SnapshotRecord, where={"volume_id": self.id})
        ]

    @property
    def connections(self) -> list[Connection]:
        """The volume's connections."""
        from csi_driver.cinderlib.connection import Connection

        return [Connection._of_record(record) for record in self._connection_records()]

    @property
    def local_attach(self) -> Connection | None:
        """The connection by which the volume is attached to this host, if it is."""
        return next((found for found in self.connections if found.attached_here), None)

    @classmethod
    def get_by_name(cls, name: str) -> list[Volume]:
        """The volumes with this name."""
        records = session.current().store.list(VolumeRecord, where={"name": name})
        return [cls._of_record(record) for record in records]

    # -- its life --------------------------------------------------------------

    def create(self) -> None:
        """Make the volume on its backend.

        After a failure it may be called again, which first removes what the failed
        attempt may have left, or :meth:`delete`.

        :raises InvalidVolume: it exists.
        """
        self._create(None)

    def delete(self) -> None:
        """Delete the volume.

        :raises InvalidVolume: it has snapshots or connections, which are named.
        """
        with session.current().exclusive(self.id):
            self.refresh()
            self._refuse_in_use()
            with self._operation("delete", Phase.DELETING, Phase.ERROR):
                for cinder_id in (*self._record.suspects, self._record.cinder_id):
                    self._remove_attempt(cinder_id)
            self._remove()

    def extend(self, size: int) -> int:
        """Make the volume larger; answers its size in bytes, as this host sees it.

        :param size: in GiB.
        :raises InvalidSize: not a whole number, or not larger.
        """
        wanted = whole_gib(size)
        with session.current().exclusive(self.id):
            self._refresh_available()
            if wanted <= self.size:
                raise InvalidSize(f"{self!r} has {self.size} GiB, {wanted} GiB is not more")
            with self._operation("extend", Phase.AVAILABLE, Phase.AVAILABLE):
                grown = self._manager.extend_volume(self._record, wanted)
            self._finish(grown)
            local = self.local_attach
            return local.extend() if local else wanted * GIB

    def clone(self, size: int | None = None, **fields: Any) -> Volume:
        """Make a volume with this one's content.

        :param size: in GiB; by default this one's.
        :param fields: as for :class:`Volume`; specs and pool are this one's unless given.
        """
        with session.current().exclusive(self.id):
            self._refresh_available()
            return self._copy(Source(kind="volume", id=self.id), self._record, size, fields)

    def create_snapshot(self, name: str = "", description: str = "", **fields: Any) -> Snapshot:
        """Make a snapshot; see :class:`Snapshot` for the fields."""
        from csi_driver.cinderlib.snapshot import Snapshot

        snapshot = Snapshot(self, name=name, description=description, **fields)
        snapshot.create()
        return snapshot

    # -- hosts -----------------------------------------------------------------

    def connect(self, connector: Mapping[str, Any], **fields: Any) -> Connection:
        """Make the volume accessible to a host; see :meth:`Connection.connect`."""
        from csi_driver.cinderlib.connection import Connection

        return Connection.connect(self, connector, **fields)

    def disconnect(self, connection: Connection, force: bool = False) -> None:
        """End a host's access; see :meth:`Connection.disconnect`."""
        connection.disconnect(force=force)

    def attach(self) -> Connection:
        """Connect the volume to this host and attach it; ``path`` of the answer is its device.

        A connection whose attaching failed is taken back.
        """
        multipath = bool(self._manager.option("use_multipath_for_image_xfer"))
        enforce = bool(self._manager.option("enforce_multipath_for_image_xfer"))
        attacher = session.current().attacher(multipath=multipath, enforce_multipath=enforce)
        connection = self.connect(attacher.connector_properties())
        try:
            connection.attach()
        except Exception:
            connection.disconnect()
            raise
        return connection

    def detach(self, force: bool = False, ignore_errors: bool = False) -> None:
        """Undo :meth:`attach`.

        :raises InvalidVolume: the volume is not attached to this host.
        """
        local = self.local_attach
        if local is None:
            raise InvalidVolume(f"{self!r} is not attached to this host")
        local.detach(force=force, ignore_errors=ignore_errors)
        local.disconnect(force=force)

    # -- helpers ---------------------------------------------------------------

    def _create(self, source: VolumeRecord | SnapshotRecord | None) -> None:
        with session.current().exclusive(self.id):
            if self.stored:
                self.refresh()
                if self._record.phase not in (Phase.CREATING, Phase.ERROR):
                    raise InvalidVolume(f"{self!r} exists")
                source = source or self._source()
                # An attempt whose outcome is not known is never adopted: a new id.
                self._put(
                    suspects=(*self._record.suspects, self._record.cinder_id),
                    cinder_id=str(uuid.uuid4()),
                )
            with self._operation("create", Phase.CREATING, Phase.ERROR):
                for cinder_id in self._record.suspects:
                    self._remove_attempt(cinder_id)
                made = self._manager.create_volume(self._record, source)
            self._finish(msgspec.structs.replace(made, suspects=()))

    def _copy(
        self,
        source: Source,
        record: VolumeRecord | SnapshotRecord,
        size: int | None,
        fields: Mapping[str, Any],
    ) -> Volume:
        inherited = {
            name: getattr(self._record, name)
            for name in ("extra_specs", "qos_specs", "multiattach", "availability_zone", "bootable")
        }
        given = dict(fields)
        pool = given.pop("pool_name", self.pool_name) or None
        new = Volume(self, pool, size=size or record.size_gib, **{**inherited, **given})
        if new.size < record.size_gib:
            raise InvalidSize(f"A copy of {record.id} has at least {record.size_gib} GiB")
        new._record = msgspec.structs.replace(
            new._record, source=source, formatting=record.formatting
        )
        new._create(record)
        return new

    def _source(self) -> VolumeRecord | SnapshotRecord | None:
        source, store = self._record.source, session.current().store
        if source is None:
            return None
        found: VolumeRecord | SnapshotRecord | None
        if source.kind == "volume":
            found = store.get(VolumeRecord, source.id)
        else:
            found = store.get(SnapshotRecord, source.id)
        if found is None:
            raise InvalidVolume(f"The source of {self!r}, {source.kind} {source.id}, is gone")
        return found

    def _remove_attempt(self, cinder_id: str) -> None:
        attempt = self._record
        if cinder_id != attempt.cinder_id:
            attempt = msgspec.structs.replace(attempt, cinder_id=cinder_id, provider={})
        try:
            self._manager.delete_volume(attempt)
        except Exception as error:
            if classify(error).kind is not FailureKind.NOT_FOUND:
                raise

    def _finish(self, record: VolumeRecord) -> None:
        self._record = record
        self._put(phase=Phase.AVAILABLE, operation=None)

    def _refresh_available(self) -> None:
        self.refresh()
        if self._record.phase is not Phase.AVAILABLE:
            raise InvalidVolume(f"{self!r} is {self._record.phase.value}, not available")

    def _refuse_in_use(self) -> None:
        snapshots = [f"{snapshot.name} ({snapshot.id})" for snapshot in self.snapshots]
        if snapshots:
            raise InvalidVolume(
                f"{self!r} has snapshots: {', '.join(snapshots)}", advice="Delete them first"
            )
        connections = [connection.id for connection in self.connections]
        if connections:
            raise InvalidVolume(
                f"{self!r} has connections: {', '.join(connections)}", advice="Disconnect it first"
            )

    def _connection_records(self) -> list[ConnectionRecord]:
        store = session.current().store
        return store.list(ConnectionRecord, where={"volume_id": self.id})


def whole_gib(size: Any) -> int:
    """The size, proved to be a whole positive number of GiB.

    :raises InvalidSize: it is not.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InvalidSize(f"The size {size!r} is not a whole number of GiB")
    return size


def _backend_of(backend: Backend | str | Volume) -> Backend:
    from csi_driver.cinderlib.backend import Backend

    if isinstance(backend, Volume):
        return backend.backend
    return Backend.named(backend) if isinstance(backend, str) else backend
