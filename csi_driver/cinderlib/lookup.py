"""How drivers find objects that are not part of the call they are in.

Used by :mod:`csi_driver.cinderlib.runtime` when a driver asks its "database" for
another volume, for the volumes of its host, or for data of an initiator.
:class:`StoreLookup` answers from a record store; whoever runs a
:class:`~csi_driver.cinderlib.manager.VolumeManager` hands it one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    GroupRecord,
    GroupSnapshotRecord,
    KeyValueRecord,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.cinderlib.persistence.store import RecordConflict, RecordStore

INITIATOR_DATA = "initiator-data/"
"""What the keys of drivers' data begin with, among those of programs."""


Savable = VolumeRecord | SnapshotRecord | GroupRecord | GroupSnapshotRecord
"""What drivers may change without being called about it."""


class Lookup(Protocol):
    """Finds records, by our ids or by the ids that drivers see."""

    def volume(self, record_id: str) -> VolumeRecord | None:
        """The volume with this record id."""

    def snapshot(self, record_id: str) -> SnapshotRecord | None:
        """The snapshot with this record id."""

    def volume_by_cinder_id(self, cinder_id: str) -> VolumeRecord | None:
        """The volume that a driver knows by this id."""

    def snapshot_by_cinder_id(self, cinder_id: str) -> SnapshotRecord | None:
        """The snapshot that a driver knows by this id."""

    def volumes_of_backend(self, backend: str) -> Sequence[VolumeRecord]:
        """Every volume of a backend."""

    def snapshots_of_volume(self, volume_id: str) -> Sequence[SnapshotRecord]:
        """Every snapshot of the volume with this record id."""

    def connections_of_volume(self, volume_id: str) -> Sequence[ConnectionRecord]:
        """Every connection of the volume with this record id."""

    def group(self, record_id: str) -> GroupRecord | None:
        """The group with this record id."""

    def group_snapshot(self, record_id: str) -> GroupSnapshotRecord | None:
        """The group snapshot with this record id."""

    def group_by_cinder_id(self, cinder_id: str) -> GroupRecord | None:
        """The group that a driver knows by this id."""

    def group_snapshot_by_cinder_id(self, cinder_id: str) -> GroupSnapshotRecord | None:
        """The group snapshot that a driver knows by this id."""

    def volumes_of_group(self, group: GroupRecord) -> Sequence[VolumeRecord]:
        """Every volume of a group."""

    def group_snapshots_of_group(self, group_id: str) -> Sequence[GroupSnapshotRecord]:
        """Every snapshot of the group with this record id."""

    def snapshots_of_group_snapshot(self, cut: GroupSnapshotRecord) -> Sequence[SnapshotRecord]:
        """The snapshots that a group snapshot consists of."""

    def initiator_data(self, initiator: str, namespace: str) -> dict[str, str]:
        """What drivers keep for an initiator (secrets of CHAP, mostly)."""

    def add_initiator_data(self, initiator: str, namespace: str, key: str, value: str) -> bool:
        """Keep one value; False when the key has one already, which stays."""

    def save(self, changed: Savable) -> None:
        """Keep what a driver changed on an object that the call is not about.

        Some save the source of a clone, or the volume of a snapshot.  Only what drivers
        may change is taken over: provider fields and metadata.
        """


class StoreLookup:
    """Answers from a record store.  As thread-safe as the store."""

    def __init__(self, store: RecordStore) -> None:
        self._store = store

    def volume(self, record_id: str) -> VolumeRecord | None:
        """See :meth:`Lookup.volume`."""
        return self._store.get(VolumeRecord, record_id)

    def snapshot(self, record_id: str) -> SnapshotRecord | None:
        """See :meth:`Lookup.snapshot`."""
        return self._store.get(SnapshotRecord, record_id)

    def volume_by_cinder_id(self, cinder_id: str) -> VolumeRecord | None:
        """See :meth:`Lookup.volume_by_cinder_id`."""
        found = self._store.list(VolumeRecord, where={"cinder_id": cinder_id}, limit=1)
        return found[0] if found else None

    def snapshot_by_cinder_id(self, cinder_id: str) -> SnapshotRecord | None:
        """See :meth:`Lookup.snapshot_by_cinder_id`."""
        found = self._store.list(SnapshotRecord, where={"cinder_id": cinder_id}, limit=1)
        return found[0] if found else None

    def volumes_of_backend(self, backend: str) -> Sequence[VolumeRecord]:
        """See :meth:`Lookup.volumes_of_backend`."""
        return self._store.list(VolumeRecord, where={"backend": backend})

    def snapshots_of_volume(self, volume_id: str) -> Sequence[SnapshotRecord]:
        """See :meth:`Lookup.snapshots_of_volume`."""
        return self._store.list(SnapshotRecord, where={"volume_id": volume_id})

    def connections_of_volume(self, volume_id: str) -> Sequence[ConnectionRecord]:
        """See :meth:`Lookup.connections_of_volume`."""
        return self._store.list(ConnectionRecord, where={"volume_id": volume_id})

    def group(self, record_id: str) -> GroupRecord | None:
        """See :meth:`Lookup.group`."""
        return self._store.get(GroupRecord, record_id)

    def group_snapshot(self, record_id: str) -> GroupSnapshotRecord | None:
        """See :meth:`Lookup.group_snapshot`."""
        return self._store.get(GroupSnapshotRecord, record_id)

    def group_by_cinder_id(self, cinder_id: str) -> GroupRecord | None:
        """See :meth:`Lookup.group_by_cinder_id`."""
        found = self._store.list(GroupRecord, where={"cinder_id": cinder_id}, limit=1)
        return found[0] if found else None

    def group_snapshot_by_cinder_id(self, cinder_id: str) -> GroupSnapshotRecord | None:
        """See :meth:`Lookup.group_snapshot_by_cinder_id`."""
        found = self._store.list(GroupSnapshotRecord, where={"cinder_id": cinder_id}, limit=1)
        return found[0] if found else None

    def volumes_of_group(self, group: GroupRecord) -> Sequence[VolumeRecord]:
        """See :meth:`Lookup.volumes_of_group`."""
        # Not by an index of its own: groups are few, and tables of old have no such column.
        found = self._store.list(VolumeRecord, where={"backend": group.backend})
        return [record for record in found if record.group_id == group.id]

    def group_snapshots_of_group(self, group_id: str) -> Sequence[GroupSnapshotRecord]:
        """See :meth:`Lookup.group_snapshots_of_group`."""
        return self._store.list(GroupSnapshotRecord, where={"group_id": group_id})

    def snapshots_of_group_snapshot(self, cut: GroupSnapshotRecord) -> Sequence[SnapshotRecord]:
        """See :meth:`Lookup.snapshots_of_group_snapshot`."""
        found = self._store.list(SnapshotRecord, where={"backend": cut.backend})
        return [record for record in found if record.group_snapshot_id == cut.id]

    def initiator_data(self, initiator: str, namespace: str) -> dict[str, str]:
        """See :meth:`Lookup.initiator_data`."""
        record = self._store.get(KeyValueRecord, _initiator_key(initiator, namespace))
        return dict(record.value) if record else {}

    def add_initiator_data(self, initiator: str, namespace: str, key: str, value: str) -> bool:
        """See :meth:`Lookup.add_initiator_data`."""
        record_id = _initiator_key(initiator, namespace)
        while True:
            record = self._store.get(KeyValueRecord, record_id) or KeyValueRecord(
                id=record_id, value={}
            )
            if key in record.value:
                return False
            changed = msgspec.structs.replace(record, value={**record.value, key: value})
            try:
                self._store.put(changed)
            except RecordConflict:
                # Somebody added another key, or this one: look again.
                continue
            return True

    def save(self, changed: Savable) -> None:
        """See :meth:`Lookup.save`."""
        while True:
            current = self._store.get(type(changed), changed.id)
            if current is None:
                return
            fields = {name: getattr(changed, name) for name in _drivers_fields(changed)}
            try:
                self._store.put(msgspec.structs.replace(current, **fields))
            except RecordConflict:
                continue
            return


def _drivers_fields(record: Savable) -> tuple[str, ...]:
    if isinstance(record, GroupRecord):
        return ("provider",)
    if isinstance(record, GroupSnapshotRecord):
        return ()
    common = ("provider", "metadata")
    return (*common, "admin_metadata") if isinstance(record, VolumeRecord) else common


def _initiator_key(initiator: str, namespace: str) -> str:
    return f"{INITIATOR_DATA}{namespace}/{initiator}"
