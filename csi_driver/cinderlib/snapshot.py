"""A snapshot of the object layer."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

import msgspec

from csi_driver.cinderlib import session
from csi_driver.cinderlib.exceptions import InvalidVolume, SnapshotNotFound
from csi_driver.cinderlib.failures import FailureKind, classify
from csi_driver.cinderlib.fields import checked_id, texts
from csi_driver.cinderlib.managing import check_ours
from csi_driver.cinderlib.operations import SnapshotOperations
from csi_driver.cinderlib.persistence.records import (
    Phase,
    SnapshotRecord,
    Source,
    VolumeRecord,
)
from csi_driver.cinderlib.tracking import LazyOne

if TYPE_CHECKING:
    from csi_driver.cinderlib.volume import Volume


class Snapshot(SnapshotOperations):
    """A snapshot of a volume.

    :param volume: the volume.
    :param metadata: metadata of the snapshot.
    """

    _RECORD = SnapshotRecord
    _NOT_FOUND = SnapshotNotFound
    _PARENT = "volume_id"
    LAZY_PROPERTIES = ("volume",)

    def __init__(
        self,
        volume: Volume,
        *,
        name: str = "",
        description: str = "",
        metadata: dict[str, str] | None = None,
        id: str | None = None,
        display_name: str = "",
        display_description: str = "",
    ) -> None:
        super().__init__(
            SnapshotRecord(
                id=checked_id(id),
                name=name or display_name,
                description=description or display_description,
                volume_id=volume.id,
                backend=volume._record.backend,
                phase=Phase.CREATING,
                size_gib=volume.size,
                cinder_id=str(uuid.uuid4()),
                created_at=time.time(),
                metadata=texts("metadata", metadata or {}),
            )
        )
        self._lazy["volume"].fill(volume)

    def _lazies(self) -> dict[str, Any]:
        return {"volume": LazyOne(self._read_volume)}

    @property
    def _locked_by(self) -> str:
        return self.volume_id

    @property
    def volume(self) -> Volume:
        """The volume, read once and again after :meth:`refresh`; a deleted one as it was last.

        :raises VolumeNotFound: it is not known.
        """
        found: Volume = self._lazy["volume"]()
        return found

    @property
    def name_in_storage(self) -> str:
        """The name that drivers give the snapshot on the array."""
        from oslo_config import cfg

        return str(cfg.CONF.snapshot_name_template % self._record.cinder_id)

    @property
    def status(self) -> str:
        """Cinder's word for the snapshot's state."""
        return "deleted" if self._gone else str(self._record.phase.value)

    @classmethod
    def get_by_name(cls, name: str) -> list[Snapshot]:
        """The snapshots with this name."""
        records = session.current().store.list(SnapshotRecord, where={"name": name})
        return [cls._of_record(record) for record in records]

    def create(self) -> None:
        """Make the snapshot on its backend; see :meth:`Volume.create` for failures.

        :raises InvalidVolume: it exists, or its volume is not available.
        """
        with self._exclusively():
            volume = self.volume
            volume._refresh_available()
            if self.stored or self._only_loaded:
                self._reread()
                self._require_unmade()
                self._put(
                    suspects=(*self._record.suspects, self._record.cinder_id),
                    cinder_id=str(uuid.uuid4()),
                )
            self._record = msgspec.structs.replace(
                self._record,
                size_gib=volume.size,
                formatting=volume._record.formatting,
                encryption=volume._record.encryption,
            )
            with self._operation("create", Phase.CREATING, Phase.ERROR):
                for cinder_id in self._record.suspects:
                    self._remove_attempt(volume, cinder_id)
                self._record = self._manager.create_snapshot(self._record, volume._record)
            self._put(phase=Phase.AVAILABLE, operation=None, suspects=())

    def delete(self) -> None:
        """Delete the snapshot."""
        with self._exclusively():
            self._reread()
            check_ours(self._record, repr(self))
            volume = self.volume
            volume._reread()
            with self._operation("delete", Phase.DELETING, Phase.ERROR):
                for cinder_id in (*self._record.suspects, self._record.cinder_id):
                    self._remove_attempt(volume, cinder_id)
            self._remove()

    def create_volume(self, size: int | None = None, **fields: Any) -> Volume:
        """Make a volume with the snapshot's content.

        :param size: in GiB; by default the snapshot's.
        :param fields: as for :class:`Volume`.
        """
        with self._exclusively():
            self._refresh_available()
            source = Source(kind="snapshot", id=self.id)
            self.volume._reread()
            return self.volume._copy(source, self._record, size, fields)

    def _read_volume(self) -> Volume:
        from csi_driver.cinderlib.volume import Volume

        return Volume._known_by_id(self.volume_id)

    def _type_record(self) -> VolumeRecord:
        return self.volume._record

    @classmethod
    def _of_volume(cls, volume: Volume, record: SnapshotRecord) -> Snapshot:
        made = cls._of_record(record)
        made._lazy["volume"].fill(volume)
        return made

    def _remove_attempt(self, volume: Volume, cinder_id: str) -> None:
        attempt = self._record
        if cinder_id != attempt.cinder_id:
            attempt = msgspec.structs.replace(attempt, cinder_id=cinder_id, provider={})
        try:
            self._manager.delete_snapshot(attempt, volume._record)
        except Exception as error:
            if classify(error).kind is not FailureKind.NOT_FOUND:
                raise

    def _refresh_available(self) -> None:
        self._reread()
        if self._record.phase is not Phase.AVAILABLE:
            raise InvalidVolume(f"{self!r} is {self._record.phase.value}, not available")
