"""What Cinder's Kaminario driver and its ``krest`` do wrong, put right.

Laid over the driver by :mod:`csi_driver.cinderlib.runtime.quirks`.  The facts, as read in
``cinder/volume/drivers/kaminario`` and in krest 1.3.7:

- krest repeats a request whose answer was lost, or was a server error, every 20 seconds for
  ten minutes, and the driver holds its one lock meanwhile: the whole backend stands still,
  and what was done is done again.  Requests have no timeout either.  Here the failure goes
  to the caller at once, who removes what the attempt may have left.
- A volume from a snapshot, and a clone, is a copy that the driver makes itself: it attaches
  the source and the new volume to the host that it runs on and copies with ``dd``.  Without
  iSCSI on that host it would begin, fail and clean up.  Here it is refused before it begins.
- A copy that was interrupted leaves a view of the snapshot, and the source or the new volume
  mapped to this host, so that they can be neither deleted nor copied again.  The deletion of
  the unfinished volume takes these back.
- A host is made on the array and then gets its initiator.  Interrupted in between, it keeps
  none, and volumes that are mapped to it later cannot be seen.
- A volume that is gone is told as one more failure; to unmap it from a host fails.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import krest
from cinder import context, coordination, exception, objects
from cinder.volume import volume_utils
from cinder.volume.drivers.kaminario import kaminario_common, kaminario_iscsi
from os_brick import initiator
from os_brick.initiator import connector as connectors
from os_brick.initiator.connectors import iscsi
from oslo_utils import importutils

from csi_driver.cinderlib.exceptions import OperationNotSupported

TIMEOUT_SECONDS = 120.0
"""How long an answer of the array is waited for."""


class KaminarioCorrections(kaminario_iscsi.KaminarioISCSIDriver):  # type: ignore[misc]
    """Methods in place of the driver's own.

    ``_guard`` protects the table of sources that are being cloned; it is held while a
    source is unmapped, so that no clone of it begins meanwhile.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _fail_at_once()
        self._guard = threading.Lock()
        self._cloning: Counter[str] = Counter()

    # -- copies -------------------------------------------------------------------

    def create_volume_from_snapshot(self, volume: Any, snapshot: Any) -> None:
        """Make a volume from a snapshot, if this host can attach both.

        :raises OperationNotSupported: it cannot; nothing was done.
        """
        self._require_attachable()
        super().create_volume_from_snapshot(volume, snapshot)

    def create_cloned_volume(self, volume: Any, src_vref: Any) -> None:
        """Make a volume from a volume, if this host can attach both.

        :raises OperationNotSupported: it cannot; nothing was done.
        """
        self._require_attachable()
        with self._guard:
            self._cloning[src_vref.id] += 1
        try:
            super().create_cloned_volume(volume, src_vref)
        finally:
            with self._guard:
                self._cloning[src_vref.id] -= 1
                self._cloning += Counter()  # drops what is zero

    def delete_volume(self, volume: Any) -> None:
        """Delete a volume, and what an interrupted copy into it left."""
        if volume.snapshot_id or volume.source_volid:
            self._take_back_copy(volume)
        super().delete_volume(volume)

    def _take_back_copy(self, volume: Any) -> None:
        for view in self._search("snapshots", short_name=self.get_view_name(volume.id)):
            for mapping in self._search("mappings", volume=view):
                mapping.delete()
            view.delete()
        here = self._properties()
        if here.get("initiator"):
            self._unmap_from_here(volume, here)
            if volume.source_volid:
                self._unmap_source(volume.source_volid, here)
            self._forget_unused_host(self.get_initiator_host_name(here))

    def _unmap_source(self, source_id: str, here: Mapping[str, Any]) -> None:
        admin = context.get_admin_context()
        with contextlib.suppress(exception.NotFound), self._guard:
            source = objects.Volume.get_by_id(admin, source_id)
            if not self._cloning[source_id]:
                self._unmap_from_here(source, here)

    def _unmap_from_here(self, volume: Any, here: Mapping[str, Any]) -> None:
        """Unmap a volume from this host, unless a recorded connection needs that."""
        attached = [attachment.connector or {} for attachment in volume.volume_attachment]
        if here["initiator"] in [connector.get("initiator") for connector in attached]:
            return
        for host in self._search("hosts", name=self.get_initiator_host_name(here)):
            for target in self._search("volumes", name=self.get_volume_name(volume.id)):
                for mapping in self._search("mappings", volume=target, host=host):
                    mapping.delete()

    @coordination.synchronized("{self.k2_lock_name}")  # type: ignore[untyped-decorator]
    def _forget_unused_host(self, name: str) -> None:
        # Under the lock of the driver: a connect makes the host, and then its mapping.
        for host in self._search("hosts", name=name):
            if not self._search("mappings", host=host):
                host.delete()

    def _require_attachable(self) -> None:
        missing = _missing_for_iscsi(self._properties())
        if missing:
            raise OperationNotSupported(
                "Kaminario volumes are copied by the host that this process runs on, and it has"
                f" no {missing}",
                advice="Run the controller where iSCSI works (open-iscsi with an initiator name"
                " of its own, host network), or make empty volumes only on this backend",
            )

    def _properties(self) -> Mapping[str, Any]:
        options = self.configuration
        found: Mapping[str, Any] = volume_utils.brick_get_connector_properties(
            options.use_multipath_for_image_xfer, options.enforce_multipath_for_image_xfer
        )
        return found

    # -- what is gone ----------------------------------------------------------------

    def extend_volume(self, volume: Any, new_size: int) -> None:
        """Extend a volume; says so when it is gone."""
        with self._telling_what_is_gone(volume):
            super().extend_volume(volume, new_size)

    def initialize_connection(self, volume: Any, connector: Mapping[str, Any]) -> Any:
        """Map a volume, or a view; says so when a volume is gone."""
        with self._telling_what_is_gone(volume):
            return super().initialize_connection(volume, connector)

    def terminate_connection(
        self, volume: Any, connector: Mapping[str, Any] | None, **kwargs: Any
    ) -> None:
        """Unmap a volume, or a view; nothing is to be done for a volume that is gone."""
        if not self._is_gone(volume):
            super().terminate_connection(volume, connector, **kwargs)

    def _get_host_object(self, connector: Mapping[str, Any]) -> Any:
        """The host on the array, with the initiator that an interrupted connect did not add."""
        host, found, name = super()._get_host_object(connector)
        if found.total and not self._search("host_iqns", host=host):
            self.client.new("host_iqns", iqn=connector["initiator"], host=host).save()
        return host, found, name

    @contextlib.contextmanager
    def _telling_what_is_gone(self, volume: Any) -> Iterator[None]:
        try:
            yield
        except kaminario_common.KaminarioCinderDriverException as error:
            if self._is_gone(volume):
                raise exception.VolumeNotFound(volume_id=volume.id) from error
            raise

    def _is_gone(self, volume: Any) -> bool:
        if not isinstance(volume, objects.Volume):
            return False  # an object of the array itself
        return not self._search("volumes", name=self.get_volume_name(volume.id))

    def _search(self, kind: str, **query: Any) -> list[Any]:
        found: list[Any] = self.client.search(kind, **query).hits
        return found


def _missing_for_iscsi(properties: Mapping[str, Any]) -> str:
    """What a host lacks to attach by iSCSI; '' for nothing."""
    if not properties.get("initiator"):
        return "iSCSI initiator name (/etc/iscsi/initiatorname.iscsi)"
    connector = importutils.import_class(connectors.get_connector_mapping()[initiator.ISCSI])
    if issubclass(connector, iscsi.ISCSIConnector) and not shutil.which("iscsiadm"):
        return "iscsiadm"
    return ""


def _fail_at_once() -> None:
    """Let krest give up after one try; the library is there for this driver alone."""
    krest.EndPoint.ReqCfg.timeout = TIMEOUT_SECONDS
    krest.EndPoint.RetryCfg.on_connect_errors = False
    krest.EndPoint.RetryCfg.on_5xx_errors = False
