"""A volume of the object layer."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from csi_driver.base.values import GIB
from csi_driver.cinderlib import session
from csi_driver.cinderlib.encryption import specs_of
from csi_driver.cinderlib.entity import LOG
from csi_driver.cinderlib.exceptions import InvalidSize, InvalidVolume, VolumeNotFound
from csi_driver.cinderlib.failures import FailureKind, classify, message_of
from csi_driver.cinderlib.fields import checked_id, texts
from csi_driver.cinderlib.managing import check_ours
from csi_driver.cinderlib.operations import VolumeOperations
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    Phase,
    SnapshotRecord,
    Source,
    VolumeRecord,
)
from csi_driver.cinderlib.tracking import LazyList

if TYPE_CHECKING:
    from csi_driver.cinderlib.backend import Backend
    from csi_driver.cinderlib.connection import Connection
    from csi_driver.cinderlib.snapshot import Snapshot

_FIELDS = frozenset(
    {
        "availability_zone",
        "bootable",
        "description",
        "encryption",
        "extra_specs",
        "metadata",
        "multiattach",
        "name",
        "qos_specs",
    }
)


class Volume(VolumeOperations):
    """A volume.

    :param backend: a Backend, its name, or a Volume whose backend is taken.
    :param pool_name: one of the backend's pools; by default its first.
    :param size: in GiB, a whole number.
    :param fields: id, name, description, metadata, extra_specs, qos_specs, multiattach,
        availability_zone, bootable; display_name and display_description too, and a host,
        ``HOST@BACKEND#POOL``, for its pool.
    :raises InvalidVolume: an unknown field or pool, or a value that does not fit.
    :raises InvalidSize: the size is not a whole number of GiB.
    :raises BackendNotFound: no backend of that name is loaded.
    """

    _RECORD = VolumeRecord
    _NOT_FOUND = VolumeNotFound
    LAZY_PROPERTIES = ("snapshots", "connections")

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
        fields = _normalised(fields)
        pool_name = pool_name or _pool_of(fields.pop("host", ""), home)
        unknown = sorted(set(fields) - _FIELDS)
        if unknown:
            raise InvalidVolume(
                f"A volume has no field {', '.join(unknown)} that can be given",
                advice=f"Fields: {', '.join(sorted(_FIELDS))}",
            )
        if pool_name and pool_name not in home.pool_names:
            raise InvalidVolume(
                f"Backend {home.id!r} has no pool {pool_name!r}",
                advice=f"Pools: {', '.join(home.pool_names)}",
            )
        super().__init__(
            VolumeRecord(
                id=checked_id(id),
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

    def _lazies(self) -> dict[str, Any]:
        return {
            "snapshots": LazyList(SnapshotRecord.KIND, self.id, self._read_snapshots),
            "connections": LazyList(ConnectionRecord.KIND, self.id, self._read_connections),
        }

    # -- what it is ------------------------------------------------------------

    @property
    def name_in_storage(self) -> str:
        """The name that drivers give the volume on the array."""
        from oslo_config import cfg

        name_id = self._record.provider.get("_name_id") or self._record.cinder_id
        return str(cfg.CONF.volume_name_template % name_id)

    @property
    def status(self) -> str:
        """Cinder's word for the volume's state."""
        if self._gone:
            return "deleted"
        if self._record.phase is Phase.AVAILABLE and self._is_connected():
            return "in-use"
        return str(self._record.phase.value)

    @property
    def attach_status(self) -> str:
        """'attached' while the volume is connected to a host, else 'detached'."""
        return "attached" if self._is_connected() else "detached"

    @property
    def snapshots(self) -> list[Snapshot]:
        """The volume's snapshots, in the order in which they were made.

        Read once, and again after :meth:`refresh` or a change by this process.
        """
        found: list[Snapshot] = self._lazy["snapshots"]()
        return found

    @property
    def connections(self) -> list[Connection]:
        """The volume's connections; read like :attr:`snapshots`."""
        found: list[Connection] = self._lazy["connections"]()
        return found

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
        with self._exclusively():
            self._reread()
            check_ours(self._record, repr(self))
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
        with self._exclusively():
            self._refresh_available()
            if self._record.encryption is not None and self.local_attach:
                raise InvalidVolume(
                    f"{self!r} is encrypted and attached to this host", advice="Detach it first"
                )
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
        with self._exclusively():
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

    def attach(
        self,
        use_multipath: bool | None = None,
        enforce_multipath: bool | None = None,
        *,
        key: bytes | str | None = None,
        raw: bool = False,
        **fields: Any,
    ) -> Connection:
        """Connect the volume to this host and attach it; ``path`` of the answer is its device.

        A connection whose attaching failed is taken back.

        :param use_multipath: use several paths; by default as the backend's option
            ``use_multipath_for_image_xfer`` says.
        :param enforce_multipath: refuse without multipathd instead of using one path; by
            default as the backend's ``enforce_multipath_for_image_xfer`` says.
        :param key: as for :meth:`Connection.attach`, and so is ``raw``.
        :param fields: as for :meth:`Connection.connect`.
        """
        multipath, enforce = use_multipath, enforce_multipath
        if multipath is None:
            multipath = bool(self._manager.option("use_multipath_for_image_xfer"))
        if enforce is None:
            enforce = bool(self._manager.option("enforce_multipath_for_image_xfer"))
        attacher = session.current().attacher(multipath=multipath, enforce_multipath=enforce)
        connection = self.connect(
            {**attacher.connector_properties(), "enforce_multipath": enforce}, **fields
        )
        try:
            connection.attach(key, raw=raw)
        except Exception:
            try:
                connection.disconnect()
            except Exception as again:
                # It stays recorded, to be disconnected; the first error is the one to see.
                LOG.warning("Taking %r back: %s", connection, message_of(again))
            raise
        return connection

    def cleanup(self) -> None:
        """Delete the volume with all that hangs on it: connections first, then snapshots.

        Hosts lose the volume; only what is attached to this one is detached.
        """
        self.refresh()
        for connection in self.connections:
            if connection.attached_here:
                connection.detach()
            connection.disconnect()
        for snapshot in self.snapshots:
            snapshot.delete()
        self.delete()

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
        with self._exclusively():
            if self.stored or self._only_loaded:
                self._reread()
                self._require_unmade()
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
        if given.get("encryption") is not None:
            raise InvalidVolume("A copy is encrypted as its source is")
        pool = given.pop("pool_name", self.pool_name) or None
        new = Volume(self, pool, size=size or record.size_gib, **{**inherited, **given})
        if new.size < record.size_gib:
            raise InvalidSize(f"A copy of {record.id} has at least {record.size_gib} GiB")
        new._record = msgspec.structs.replace(
            new._record,
            source=source,
            formatting=record.formatting,
            encryption=record.encryption,
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
        self._reread()
        if self._record.phase not in self._usable:
            raise InvalidVolume(f"{self!r} is {self._record.phase.value}, not available")

    def _refuse_in_use(self) -> None:
        snapshots = [f"{snapshot.name} ({snapshot.id})" for snapshot in self._read_snapshots()]
        if snapshots:
            raise InvalidVolume(
                f"{self!r} has snapshots: {', '.join(snapshots)}", advice="Delete them first"
            )
        connections = [record.id for record in self._connection_records()]
        if connections:
            raise InvalidVolume(
                f"{self!r} has connections: {', '.join(connections)}", advice="Disconnect it first"
            )

    def _is_connected(self) -> bool:
        return (self.stored or self._only_loaded) and bool(self.connections)

    def _read_snapshots(self) -> list[Snapshot]:
        from csi_driver.cinderlib.snapshot import Snapshot

        store = session.current().store
        records = store.list(SnapshotRecord, where={"volume_id": self.id})
        return [Snapshot._of_volume(self, record) for record in records]

    def _read_connections(self) -> list[Connection]:
        from csi_driver.cinderlib.connection import Connection

        return [Connection._of_volume(self, record) for record in self._connection_records()]

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


def _normalised(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields by our names; dictionaries are proved and copied."""
    fields = {name.removeprefix("display_"): value for name, value in given.items()}
    for name in ("metadata", "extra_specs", "qos_specs"):
        if fields.get(name) is None:
            fields.pop(name, None)
        else:
            fields[name] = texts(name, fields[name])
    if fields.get("encryption") is not None:
        multiattach = bool(fields.get("multiattach"))
        fields["encryption"] = specs_of(fields["encryption"], multiattach=multiattach)
    return fields


def _pool_of(host: str | None, backend: Backend) -> str | None:
    """The pool of a ``HOST@BACKEND#POOL``, which has to be of this backend."""
    if not host:
        return None
    place, _, pool = host.partition("#")
    if place.partition("@")[2] not in ("", backend.id):
        raise InvalidVolume(f"The host {host!r} is not one of backend {backend.id!r}")
    return pool or None


def _backend_of(backend: Backend | str | Volume) -> Backend:
    from csi_driver.cinderlib.backend import Backend

    if isinstance(backend, Volume):
        return backend.backend
    return Backend.named(backend) if isinstance(backend, str) else backend
