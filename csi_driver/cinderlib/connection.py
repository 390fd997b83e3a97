"""A connection of the object layer: a volume made accessible to one host."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from csi_driver.attach.attacher import Attacher
from csi_driver.base.errors import CinderCSIError
from csi_driver.cinderlib import session
from csi_driver.cinderlib.entity import LOG, Entity
from csi_driver.cinderlib.exceptions import ConnectionNotFound, InvalidVolume, NotLocal
from csi_driver.cinderlib.failures import classify, message_of
from csi_driver.cinderlib.persistence.records import ConnectionRecord, Phase, VolumeRecord

if TYPE_CHECKING:
    from csi_driver.cinderlib.volume import Volume


class Connection(Entity[ConnectionRecord]):
    """Made by :meth:`connect` or :meth:`Volume.connect`, not by its constructor."""

    _RECORD = ConnectionRecord
    _NOT_FOUND = ConnectionNotFound

    # -- what it is ------------------------------------------------------------

    @property
    def volume(self) -> Volume:
        """The volume, read anew."""
        from csi_driver.cinderlib.volume import Volume

        return Volume.get_by_id(self._record.volume_id)

    @property
    def connector_info(self) -> dict[str, Any]:
        """What is known of the host: its connector properties."""
        return dict(self._record.connector)

    @property
    def conn_info(self) -> dict[str, Any]:
        """Cinder's connection info, completed; it may hold credentials."""
        return dict(self._record.connection_info)

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
    def path(self) -> str | None:
        """The block device, None while the volume is not attached."""
        return self._record.attach_info.get("path")

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
    ) -> Connection:
        """Make a volume accessible to a host.

        A failure is taken back; when that fails too, the connection stays recorded as
        an error, for :meth:`disconnect`.

        :param connector: the host's connector properties.
        :raises InvalidVolume: the volume is not available.
        """
        with session.current().exclusive(volume.id):
            volume._refresh_available()
            others = volume._connection_records()
            made = cls(
                ConnectionRecord(
                    id=str(uuid.uuid4()),
                    volume_id=volume.id,
                    backend=volume.backend.id,
                    phase=Phase.ATTACHING,
                    cinder_id=str(uuid.uuid4()),
                    created_at=time.time(),
                    connector=dict(connector),
                    attach_mode=attach_mode,
                    attached_host=attached_host,
                    mountpoint=mountpoint,
                    instance_uuid=instance_uuid,
                )
            )
            try:
                with made._operation("connect", Phase.ATTACHING, Phase.ERROR):
                    changed, connected = made._manager.connect(volume._record, made._record, others)
            except Exception as error:
                made._take_back(volume._record, others, error)
                raise
            volume._record = session.current().store.put(changed)
            made._record = connected
            made._put(phase=Phase.ATTACHED, operation=None)
            return made

    def disconnect(self, force: bool = False) -> None:
        """End the host's access.

        :param force: tell the driver that the host may be dead.
        :raises InvalidVolume: the volume is still attached to this host.
        """
        with session.current().exclusive(self._record.volume_id):
            self.refresh()
            if self.attached_here and not force:
                raise InvalidVolume(f"{self!r} is attached to this host", advice="Detach it first")
            volume = self.volume
            others = [r for r in volume._connection_records() if r.id != self.id]
            with self._operation("disconnect", Phase.DETACHING, Phase.ERROR):
                changed = self._manager.disconnect(
                    volume._record, self._record, others, force=force
                )
            session.current().store.put(changed)
            self._remove()

    # -- this host -------------------------------------------------------------

    def attach(self) -> None:
        """Make the volume a block device of this host, at :attr:`path`.

        :raises InvalidVolume: it is attached already, or not connected.
        :raises AttachFailed: it did not become a device; nothing is left of it.
        """
        with session.current().exclusive(self._record.volume_id):
            self.refresh()
            if not self.connected or self.attached:
                state = "attached already" if self.attached else "not connected"
                raise InvalidVolume(f"{self!r} is {state}")
            with self._operation("attach", Phase.ATTACHED, Phase.ATTACHED):
                device = self._attacher().connect(self._record.connection_info)
            self._put(
                attach_info=msgspec.to_builtins(
                    {"path": device.path, "device_info": device.device_info}
                ),
                attached_host=session.current().settings.host,
                operation=None,
            )

    def detach(self, force: bool = False, ignore_errors: bool = False) -> None:
        """Take the device away from this host; nothing happens when there is none.

        :param force: detach even if cached data cannot be written out.
        :param ignore_errors: go on, and forget the device, when it cannot be removed.
        :raises NotLocal: the volume is attached to another host.
        """
        with session.current().exclusive(self._record.volume_id):
            self.refresh()
            if not self.attached:
                return
            self._require_here()
            device_info = self._record.attach_info["device_info"]
            with self._operation("detach", Phase.ATTACHED, Phase.ATTACHED):
                try:
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
            multipath=bool(connector.get("multipath")),
            enforce_multipath=bool(connector.get("enforce_multipath")),
        )
