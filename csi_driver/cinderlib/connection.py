"""A connection of the object layer: a volume made accessible to one host."""

from __future__ import annotations

import contextlib
import datetime
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from csi_driver.attach.attacher import DEVICE_SCAN_ATTEMPTS, Attacher
from csi_driver.base.errors import CinderCSIError
from csi_driver.cinderlib import encryption, session
from csi_driver.cinderlib.connection_info import Connector, has_several_paths
from csi_driver.cinderlib.entity import LOG, Entity
from csi_driver.cinderlib.exceptions import (
    ConnectionNotFound,
    InvalidVolume,
    NotLocal,
    VolumeNotFound,
)
from csi_driver.cinderlib.failures import classify, message_of
from csi_driver.cinderlib.persistence.records import ConnectionRecord, Phase, VolumeRecord
from csi_driver.cinderlib.persistence.store import RecordConflict
from csi_driver.cinderlib.tracking import LazyOne

if TYPE_CHECKING:
    from csi_driver.cinderlib.volume import Volume


class Connection(Entity[ConnectionRecord]):
    """Made by :meth:`connect` or :meth:`Volume.connect`, not by its constructor."""

    _RECORD = ConnectionRecord
    _NOT_FOUND = ConnectionNotFound
    _PARENT = "volume_id"
    LAZY_PROPERTIES = ("volume",)
    FIELDS = (
        "id",
        "volume_id",
        "status",
        "connected",
        "attached",
        "attached_host",
        "attach_mode",
        "mountpoint",
        "instance_uuid",
        "protocol",
        "path",
        "use_multipath",
        "scan_attempts",
        "connection_info",
        "created_at",
        "deleted",
        "deleted_at",
    )

    def _lazies(self) -> dict[str, Any]:
        return {"volume": LazyOne(self._read_volume)}

    # -- what it is ------------------------------------------------------------

    @property
    def volume(self) -> Volume:
        """The volume, read once and again after :meth:`refresh`; a deleted one as it was last.

        :raises VolumeNotFound: it is not known, as on a host that only attaches.
        """
        found: Volume = self._lazy["volume"]()
        return found

    @property
    def volume_id(self) -> str:
        """The id of the volume."""
        return self._record.volume_id

    @property
    def status(self) -> str:
        """'attaching', 'attached', 'detaching', 'error', or 'detached' when it has ended.

        'attached' is Cinder's word for a host that may use the volume.
        """
        return "detached" if self._gone else str(self._record.phase.value)

    @property
    def deleted(self) -> bool:
        """Whether the connection was ended."""
        return self._gone

    @property
    def deleted_at(self) -> datetime.datetime | None:
        """When it was ended, in UTC."""
        return self._deleted_at

    @property
    def connector(self) -> Connector:
        """The properties of the host by name, and os-brick's connector object behind them."""
        return Connector(self._record.connector, self._brick)

    @property
    def connector_info(self) -> dict[str, Any]:
        """A copy of the host's properties: its name, address, initiators, ..."""
        return dict(self._record.connector)

    @property
    def conn_info(self) -> dict[str, Any]:
        """What the host needs to attach: ``driver_volume_type`` and ``data``, with credentials."""
        return dict(self._record.connection_info)

    @property
    def device(self) -> dict[str, Any] | None:
        """What os-brick told of the device; None while the volume is not attached."""
        info = self._record.attach_info
        return {**info["device_info"], "path": info["path"]} if info else None

    @property
    def attach_info(self) -> dict[str, Any]:
        """Device and connector of an attachment, for a host that attaches by itself too."""
        return {"device": self.device, "connector": self.connector_info} if self.attached else {}

    @property
    def connection_info(self) -> dict[str, Any]:
        """All of it: :attr:`conn_info`, :attr:`connector_info` and :attr:`device`."""
        return {"conn": self.conn_info, "connector": self.connector_info, "device": self.device}

    @property
    def protocol(self) -> str:
        """The transport, as os-brick calls it."""
        return str(self._record.connection_info.get("driver_volume_type", ""))

    @property
    def connected(self) -> bool:
        """Whether the host may use the volume."""
        return not self._gone and self._record.phase is Phase.ATTACHED

    @property
    def attached(self) -> bool:
        """Whether the volume is a device of the host."""
        return not self._gone and bool(self._record.attach_info)

    @property
    def attached_here(self) -> bool:
        """Whether the volume is a device of this host."""
        return self.attached and self._record.attached_host == session.current().settings.host

    @property
    def attached_host(self) -> str:
        """The host that the volume is attached to, '' if it is not."""
        return self._record.attached_host

    @property
    def attach_mode(self) -> str:
        """'rw' or 'ro'."""
        return self._record.attach_mode

    @property
    def mountpoint(self) -> str:
        """Where the caller said that it mounts the volume."""
        return self._record.mountpoint

    @property
    def instance_uuid(self) -> str:
        """The virtual machine that the caller said uses the volume."""
        return self._record.instance_uuid

    @property
    def path(self) -> str | None:
        """The block device, None while the volume is not attached."""
        return self._record.attach_info.get("path")

    @property
    def use_multipath(self) -> bool:
        """Whether an attach uses several paths.

        As :meth:`connect` was told; else as the host's properties say; else whether the
        array names several.
        """
        asked = self._record.request.get("use_multipath")
        if asked is None:
            asked = self._record.connector.get("multipath")
        return has_several_paths(self._record.connection_info) if asked is None else bool(asked)

    @property
    def scan_attempts(self) -> int:
        """How often os-brick looks for the device."""
        return int(self._record.request.get("device_scan_attempts", DEVICE_SCAN_ATTEMPTS))

    # -- its life --------------------------------------------------------------

    @classmethod
    def connect(
        cls,
        volume: Volume,
        connector: Mapping[str, Any],
        *,
        attach_mode: str = "rw",
        attached_host: str = "",
        mountpoint: str = "",
        instance_uuid: str = "",
        use_multipath: bool | None = None,
        device_scan_attempts: int | None = None,
    ) -> Connection:
        """Make a volume accessible to a host.

        A failure is taken back; when that fails too, the connection stays recorded as
        an error, for :meth:`disconnect`.

        :param connector: the host's connector properties; see
            :func:`csi_driver.cinderlib.get_connector_properties`.
        :param attach_mode: 'rw' or 'ro'.
        :param use_multipath: overrules the host's ``multipath`` when attaching.
        :param device_scan_attempts: how often os-brick looks for the device.
        :raises InvalidVolume: the volume is not available.
        """
        if attach_mode not in ("rw", "ro"):
            raise InvalidVolume(f"The attach mode {attach_mode!r} is neither rw nor ro")
        asked = {"use_multipath": use_multipath, "device_scan_attempts": device_scan_attempts}
        with volume._exclusively():
            volume._refresh_available()
            others = volume._connection_records()
            made = cls(
                ConnectionRecord(
                    id=str(uuid.uuid4()),
                    volume_id=volume.id,
                    backend=volume._record.backend,
                    phase=Phase.ATTACHING,
                    cinder_id=str(uuid.uuid4()),
                    created_at=time.time(),
                    connector=dict(connector),
                    attach_mode=attach_mode,
                    attached_host=attached_host,
                    mountpoint=mountpoint,
                    instance_uuid=instance_uuid,
                    request={name: value for name, value in asked.items() if value is not None},
                )
            )
            made._lazy["volume"].fill(volume)
            try:
                with made._operation("connect", Phase.ATTACHING, Phase.ERROR):
                    changed, connected = made._manager.connect(volume._record, made._record, others)
            except Exception as error:
                made._take_back(volume._record, others, error)
                raise
            volume._keep(changed)
            made._record = connected
            made._put(phase=Phase.ATTACHED, operation=None)
            return made

    def disconnect(self, force: bool = False) -> None:
        """End the host's access.

        :param force: tell the driver that the host may be dead.
        :raises InvalidVolume: the volume is still attached to this host.
        :raises LoopDeviceBusy, EncryptionFailed: what an attach left that died is in use.
        """
        with self._exclusively():
            self._reread()
            if self.attached_here and not force:
                raise InvalidVolume(f"{self!r} is attached to this host", advice="Detach it first")
            try:
                self._remove_remains()
            except CinderCSIError as error:
                if not force:
                    raise
                LOG.warning("Disconnecting %r: %s", self, error)
            volume = self.volume
            volume._reread()
            others = [r for r in volume._connection_records() if r.id != self.id]
            with self._operation("disconnect", Phase.DETACHING, Phase.ERROR):
                changed = self._manager.disconnect(
                    volume._record, self._record, others, force=force
                )
            volume._keep(changed)
            self._remove()

    # -- this host -------------------------------------------------------------

    def attach(self, key: bytes | str | None = None, *, raw: bool = False) -> None:
        """Make the volume a block device of this host, at :attr:`path`.

        :param key: of a volume with encryption specs; see ``docs/encryption.md``.
        :param raw: attach the encrypted bytes of such a volume as they are.
        :raises InvalidVolume: it is attached already, or not connected, or needs a key.
        :raises AttachFailed: it did not become a device; nothing is left of it.
        :raises WrongKey, NotEncrypted, EncryptionFailed: it cannot be opened; likewise.
        """
        with self._exclusively():
            self._reread()
            self._require_unattached()
            self._remove_all_remains()
            opener = None if raw else encryption.opener_of(self)
            checked = encryption.checked_key(key) if opener else None
            with self._operation("attach", Phase.ATTACHED, Phase.ATTACHED):
                attacher = self._attacher()
                device = attacher.connect(
                    self._record.connection_info, owner=_attempt(self._record)
                )
                path = device.path
                if opener and checked:
                    try:
                        path = encryption.open_device(self, opener, path, checked)
                    except Exception:
                        attacher.disconnect(self._record.connection_info, device.device_info)
                        raise
            try:
                self._put_device(path, device.device_info)
            except RecordConflict:
                # Another process took this attach for dead, perhaps before it made a device.
                with contextlib.suppress(CinderCSIError):
                    attacher.remove_remains(_attempt(self._record))
                raise

    def device_attached(self, device: Mapping[str, Any]) -> None:
        """Note that the caller attached the volume to this host by os-brick itself.

        :meth:`detach` takes it away then, as after :meth:`attach`.

        :param device: what os-brick's ``connect_volume`` answered.
        :raises InvalidVolume: it is attached already or not connected, or ``device`` names
            no path.
        """
        if not isinstance(device.get("path"), str):
            raise InvalidVolume("The device has no path", advice="Give what os-brick answered")
        with self._exclusively():
            self._reread()
            self._require_unattached()
            self._remove_all_remains()
            self._put_device(device["path"], dict(device))

    def detach(self, force: bool = False, ignore_errors: bool = False) -> None:
        """Take the device away from this host; nothing happens when there is none.

        :param force: detach even if cached data cannot be written out.
        :param ignore_errors: go on, and forget the device, when it cannot be removed.
        :raises NotLocal: the volume is attached to another host.
        """
        with self._exclusively():
            self._reread()
            if not self.attached:
                return
            self._require_here()
            device_info = self._record.attach_info["device_info"]
            with self._operation("detach", Phase.ATTACHED, Phase.ATTACHED):
                try:
                    if opener := encryption.opener_of(self):
                        opener.close()
                    self._attacher().disconnect(
                        self._record.connection_info, device_info, force=force
                    )
                except CinderCSIError as error:
                    if not ignore_errors:
                        raise
                    LOG.warning("Detaching %r: %s", self, error)
            self._put(attach_info={}, attached_host="", operation=None)

    def extend(self) -> int:
        """Let this host see a new size of the volume; answers it in bytes.

        :raises NotLocal: the volume is not attached to this host.
        """
        self._require_here()
        device_info = self._record.attach_info["device_info"]
        return self._attacher().extend(self._record.connection_info, device_info)

    # -- helpers ---------------------------------------------------------------

    def _require_unattached(self) -> None:
        if not self.connected or self.attached:
            state = "attached already" if self.attached else "not connected"
            raise InvalidVolume(f"{self!r} is {state}")

    def _remove_all_remains(self) -> None:
        """Remove what attaches of this volume left that died before they were recorded."""
        self._remove_remains()
        store = session.current().store
        for record in store.list(ConnectionRecord, where={"volume_id": self.volume_id}):
            if record.id != self.id:
                Connection._of_record(record)._remove_remains()

    def _remove_remains(self) -> None:
        """Remove what the last attach left if it died before it was recorded; no other device.

        The volume's lock is held, so no thread of this process is at it. Should the attach be
        alive in another process that shares the store, it fails when it is recorded, since
        the record is another version before anything is removed.

        :raises LoopDeviceBusy, EncryptionFailed: it is in use.
        """
        operation = self._record.operation
        if operation is None or operation.kind != "attach" or self.attached:
            return
        if operation.owner.rpartition("/")[0] != session.current().settings.host:
            return  # nothing of it is here, and it may be alive
        self._put()
        # Where the volume is not known it was never opened, only attached raw.
        with contextlib.suppress(VolumeNotFound):
            if opener := encryption.opener_of(self):
                opener.close()
        self._attacher().remove_remains(_attempt(self._record))
        self._put(operation=None)

    def _put_device(self, path: str, device_info: Mapping[str, Any]) -> None:
        self._put(
            attach_info=msgspec.to_builtins({"path": path, "device_info": dict(device_info)}),
            attached_host=session.current().settings.host,
            operation=None,
        )

    def _read_volume(self) -> Volume:
        from csi_driver.cinderlib.volume import Volume

        return Volume._known_by_id(self.volume_id)

    @property
    def _locked_by(self) -> str:
        return self.volume_id

    @classmethod
    def _of_volume(cls, volume: Volume, record: ConnectionRecord) -> Connection:
        made = cls._of_record(record)
        made._lazy["volume"].fill(volume)
        return made

    def _brick(self) -> Any:
        return self._attacher().brick_connector(self._record.connection_info)

    def _take_back(
        self, volume: VolumeRecord, others: list[ConnectionRecord], error: Exception
    ) -> None:
        if classify(error).may_have_effect:
            try:
                self._manager.disconnect(volume, self._record, others)
            except Exception as again:
                LOG.warning("Taking %r back: %s", self, message_of(again))
                return
        self._remove()

    def _require_here(self) -> None:
        if not self.attached_here:
            raise NotLocal(f"{self!r} is not attached to this host")

    def _attacher(self) -> Attacher:
        connector = self._record.connector
        return session.current().attacher(
            multipath=self.use_multipath,
            device_scan_attempts=self.scan_attempts,
            enforce_multipath=bool(connector.get("enforce_multipath")),
        )


def _attempt(record: ConnectionRecord) -> str:
    """The name of the attach in progress; no other has it, nor one of the same connection."""
    assert record.operation is not None
    return f"{record.id} {record.operation.since!r}"
