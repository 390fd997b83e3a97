"""Calls a Cinder volume driver the way Cinder's own manager does.

Used by ``controller`` (one :class:`VolumeManager` per backend) and by
:class:`csi_driver.cinderlib.backend.Backend`.  Every method takes records, calls the
driver with versioned objects made from them, and returns records with everything
that the driver returned or saved.  Nothing is stored here: what is written before and
after a call, and under which lock, is the caller's business.

Thread safety: any number of threads may call any method.  No lock is held while the
driver runs; drivers lock for themselves, through Cinder's coordination.  Two
operations on one object at a time are for the caller to prevent.

What the driver raises passes through unchanged; ``failures.classify`` explains it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from csi_driver.cinderlib import connection_info
from csi_driver.cinderlib.exceptions import InvalidSize, InvalidVolume, OperationNotSupported
from csi_driver.cinderlib.failures import PARTLY_DONE, message_of
from csi_driver.cinderlib.lookup import Lookup
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    Phase,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.cinderlib.runtime import bootstrap, drivers, locks, ovo
from csi_driver.cinderlib.runtime.calls import Call
from csi_driver.cinderlib.runtime.directory import Member, directory
from csi_driver.cinderlib.runtime.removal import Kind, Removal, removal
from csi_driver.cinderlib.stats import BackendStats, PoolStats, normalised

LOG = logging.getLogger(__name__)

__all__ = ["BackendStats", "PoolStats", "VolumeManager"]


class VolumeManager:
    """One backend: its driver, set up, and what is done around each call of it.

    :param name: the backend's name, unique in the process.
    :param options: ``volume_driver`` and the driver's options, as in cinder.conf.
    :param lookup: finds the objects that are not part of a call.
    :param permit: called before every driver call that changes something, and before a
        failed connection is taken back: returns when that may be, raises when it never may
        again.  Of several controllers only one works on a backend.
    :raises NotSetUp: :func:`csi_driver.cinderlib.setup` was not called.
    :raises BackendExists: a backend of this name is loaded.
    :raises UnknownDriver, UnknownOption, InvalidOption: the configuration is wrong.
    :raises BackendSetupFailed: the driver's own setup failed.
    """

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any],
        lookup: Lookup,
        permit: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.driver: Any = None
        # Protects _stats: the figures and the moment at which they are replaced.
        self._lock = threading.Lock()
        self._stats: BackendStats | None = None
        settings = bootstrap.active()
        self._host = settings.host
        self._member = Member(
            backend=name,
            host=drivers.host_of(name),
            owner={"user_id": settings.user_id, "project_id": settings.project_id},
            lookup=lookup,
            pool=self._default_pool,
            permit=permit,
        )
        # Before the driver is made: some ask for their volumes while they set up.
        directory.join(self._member)
        try:
            is_empty = not lookup.volumes_of_backend(name)
            self.driver = drivers.load(name, options, is_empty=is_empty)
        except BaseException:
            directory.leave(name)
            raise

    def close(self) -> None:
        """Forget the backend: another of the same name may be loaded."""
        directory.leave(self.name)

    # -- what the backend is ---------------------------------------------------

    def stats(self, refresh: bool = False) -> BackendStats:
        """The backend's statistics.

        :param refresh: ask the driver to ask the array; else what was told last, at the
            latest when the driver was set up.
        """
        with self._lock:
            known = self._stats
        if known is not None and not refresh:
            return known
        made = normalised(self.name, self.driver.get_volume_stats(refresh=refresh))
        with self._lock:
            self._stats = made
        return made

    @property
    def multiattach(self) -> bool:
        """Whether the backend attaches a volume to several hosts, by its statistics."""
        return self.stats().multiattach

    @property
    def accessible_from_host(self) -> str | None:
        """The one host that reaches the backend's volumes; None when any may.

        Drivers of host-local storage say so by the class attribute
        ``accessible_from_host_only``.
        """
        local = getattr(self.driver, "accessible_from_host_only", False)
        return self._host if local else None

    def what_removal_proves(self, kind: Kind) -> Removal:
        """What it proves to delete an attempt of which only the Cinder id is known."""
        return removal(self.driver, kind)

    def option(self, name: str) -> Any:
        """The value of one of the backend's options; None for one it does not have."""
        return self.driver.configuration.safe_get(name)

    def call(self) -> Call:
        """The frame of a driver call, for the modules that make calls which are not here."""
        return Call(self._member)

    @contextmanager
    def supported(self, what: str, advice: str = "") -> Iterator[None]:
        """Around a driver call that base drivers refuse with NotImplementedError.

        :raises OperationNotSupported: instead of that.
        """
        try:
            yield
        except NotImplementedError as error:
            raise OperationNotSupported(
                f"The driver of backend {self.name!r} cannot {what}", advice=advice or None
            ) from error

    def capabilities(self, pool: str) -> dict[str, Any]:
        """What Cinder's scheduler knows of a pool: the backend's statistics and the pool's."""
        told = self.stats().reported
        common = {key: value for key, value in told.items() if key != "pools"}
        own: dict[str, Any] = next((p for p in told["pools"] if p.get("pool_name") == pool), {})
        return {**common, **own}

    def _default_pool(self) -> str:
        # A driver that asks for its volumes while it is set up has no pools to tell yet.
        pools = self.stats().pools if self.driver is not None else ()
        return pools[0].name if pools else ""

    # -- volumes ---------------------------------------------------------------

    def create_volume(
        self, volume: VolumeRecord, source: VolumeRecord | SnapshotRecord | None = None
    ) -> VolumeRecord:
        """Make a volume, empty or as a copy of ``source``.

        A driver has to give a copy the size that is asked; one that says, by the size
        it returns, that it did not is asked to extend it.

        :returns: the record with its pool and with all that the driver returned.
        :raises InvalidSize: the source is larger; nothing was called.
        """
        if source is not None and source.size_gib > volume.size_gib:
            raise InvalidSize(
                f"Volume {volume.id} of {volume.size_gib} GiB cannot be a copy of"
                f" {source.id}, which has {source.size_gib} GiB"
            )
        with Call(self._member) as call:
            new = call.volume(volume, connections=())
            if source is None:
                update = self.driver.create_volume(new.object)
            elif isinstance(source, SnapshotRecord):
                snapshot = call.snapshot(source).object
                update = self.driver.create_volume_from_snapshot(new.object, snapshot)
            else:
                original = call.volume(source).object
                update = self.driver.create_cloned_volume(new.object, original)
            ovo.take_over(new.object, update)
            if new.object.size < volume.size_gib:
                with _partly_done():
                    self._member.permit()
                    self.driver.extend_volume(new.object, volume.size_gib)
                ovo.take_over(new.object, {"size": volume.size_gib})
            return new.changed()

    def delete_volume(self, volume: VolumeRecord) -> None:
        """Delete a volume and the lock files of its name; drivers accept absence.

        Refusing a volume with snapshots or attachments is for the caller: drivers
        delete it, or leave it in their trash for ever.
        """
        with Call(self._member) as call:
            self.driver.delete_volume(call.volume(volume).object)
        locks.clean_volume(volume.cinder_id, self.driver)

    def extend_volume(self, volume: VolumeRecord, new_size_gib: int) -> VolumeRecord:
        """Make a volume larger.

        :raises InvalidSize: it would not grow; nothing was called.
        """
        if new_size_gib <= volume.size_gib:
            raise InvalidSize(
                f"Volume {volume.id} has {volume.size_gib} GiB and cannot be extended to"
                f" {new_size_gib} GiB"
            )
        with Call(self._member) as call:
            part = call.volume(volume)
            self.driver.extend_volume(part.object, new_size_gib)
            ovo.take_over(part.object, {"size": new_size_gib})
            return part.changed()

    def revert_to_snapshot(self, volume: VolumeRecord, snapshot: SnapshotRecord) -> VolumeRecord:
        """Put a volume back to what it was when the snapshot was made.

        :raises InvalidVolume: the volume was extended since; nothing was called.
        :raises OperationNotSupported: the driver cannot.
        """
        if volume.size_gib != snapshot.size_gib:
            raise InvalidVolume(
                f"Volume {volume.id} has {volume.size_gib} GiB, its snapshot {snapshot.id}"
                f" {snapshot.size_gib} GiB",
                advice="Make a new volume from the snapshot",
            )
        with Call(self._member) as call:
            part = call.volume(volume)
            cut = call.snapshot(snapshot, volume)
            with self.supported(
                "revert a volume to a snapshot", advice="Make a new volume from the snapshot"
            ):
                self.driver.revert_to_snapshot(call.context, part.object, cut.object)
            ovo.take_over(part.object, None)
            return part.changed()

    # -- snapshots -------------------------------------------------------------

    def create_snapshot(self, snapshot: SnapshotRecord, volume: VolumeRecord) -> SnapshotRecord:
        """Make a snapshot; returns the record with all that the driver returned."""
        with Call(self._member) as call:
            part = call.snapshot(snapshot, volume)
            call.volume(volume)
            update = self.driver.create_snapshot(part.object)
            ovo.take_over(part.object, update)
            return part.changed()

    def delete_snapshot(self, snapshot: SnapshotRecord, volume: VolumeRecord) -> None:
        """Delete a snapshot and the lock files of its name; drivers accept absence."""
        with Call(self._member) as call:
            part = call.snapshot(snapshot, volume)
            call.volume(volume)
            self.driver.delete_snapshot(part.object)
        locks.clean_snapshot(snapshot.cinder_id, self.driver)

    # -- connections -----------------------------------------------------------

    def connect(
        self,
        volume: VolumeRecord,
        connection: ConnectionRecord,
        others: Sequence[ConnectionRecord] = (),
    ) -> tuple[VolumeRecord, ConnectionRecord]:
        """Make a volume accessible to the host of ``connection.connector``.

        A failure is undone as far as this call went; an export that other
        connections use stays.

        :param others: the volume's other connections.
        :returns: both records; the connection with the completed connection info.
        """
        connector = connection.connector
        with Call(self._member) as call, _undo(self._member.permit) as undo:
            part = call.volume(volume, (*others, connection))
            self.driver.validate_connector(connector)
            if not others:
                undo.append(lambda: self.driver.remove_export(call.context, part.object))
            update = self.driver.create_export(call.context, part.object, connector)
            ovo.take_over(part.object, update)
            with _partly_done():
                self._member.permit()
                info = self.driver.initialize_connection(part.object, connector)
            undo.append(lambda: self.driver.terminate_connection(part.object, connector))
            ovo.take_over(part.object, None)
            changed = part.changed()
            completed = connection_info.completed(
                info,
                changed,
                connector,
                read_only=connection.attach_mode == "ro",
                option=self.option,
            )
            connected = msgspec.structs.replace(connection, connection_info=_plain(completed))
            return changed, connected

    def disconnect(
        self,
        volume: VolumeRecord,
        connection: ConnectionRecord,
        others: Sequence[ConnectionRecord] = (),
        *,
        force: bool = False,
    ) -> VolumeRecord:
        """End a host's access; the export is removed after the last connection.

        May be repeated: drivers accept a connection that is gone.

        :param force: tells the driver that the host may be dead.
        """
        attached = msgspec.structs.replace(connection, phase=Phase.ATTACHED)
        with Call(self._member) as call:
            part = call.volume(volume, (*others, attached))
            if connection.connector:
                self.driver.terminate_connection(part.object, connection.connector, force=force)
            if not others:
                self._member.permit()
                self.driver.remove_export(call.context, part.object)
            ovo.take_over(part.object, None)
            return part.changed()

    def ensure_export(self, volume: VolumeRecord) -> VolumeRecord:
        """Export a connected volume again: for the start, when targets may be lost."""
        with Call(self._member) as call:
            part = call.volume(volume)
            update = self.driver.ensure_export(call.context, part.object)
            ovo.take_over(part.object, update)
            return part.changed()


@contextmanager
def _partly_done() -> Iterator[None]:
    """Mark an error of a call that comes after one that had effect, for ``failures``."""
    try:
        yield
    except Exception as error:
        setattr(error, PARTLY_DONE, True)
        raise


@contextmanager
def _undo(permit: Callable[[], None]) -> Iterator[list[Callable[[], Any]]]:
    """Collect steps that take back what was done; they run, last first, on a failure.

    Their own failures are only logged: the error that led here is the one that matters.
    """
    steps: list[Callable[[], Any]] = []
    try:
        yield steps
    except Exception:
        permit()  # another controller may have connected the same host meanwhile
        for step in reversed(steps):
            try:
                step()
            except Exception as error:
                LOG.warning("Taking a failed connection back: %s", message_of(error))
        raise


def _plain(info: Mapping[str, Any]) -> dict[str, Any]:
    """Connection info of plain JSON types; drivers put lazy texts and tuples in."""
    from oslo_serialization import jsonutils

    plain: dict[str, Any] = jsonutils.to_primitive(info, convert_instances=True)
    return plain
