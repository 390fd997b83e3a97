"""Free entries in the record store, and the view of the store that cinderlib's users know.

For programs: ``Backend.persistence`` is a :class:`Persistence`.  Volumes, snapshots and
connections are only read here; they are changed through their own methods, which call
the driver.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from csi_driver.base.errors import InvalidRequest
from csi_driver.cinderlib import session
from csi_driver.cinderlib.lookup import INITIATOR_DATA
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    KeyValueRecord,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.cinderlib.persistence.store import RecordConflict

if TYPE_CHECKING:
    from csi_driver.cinderlib.connection import Connection
    from csi_driver.cinderlib.snapshot import Snapshot
    from csi_driver.cinderlib.volume import Volume


@dataclass
class KeyValue:
    """A free entry: a key, and a value that JSON has a place for; sealed in lasting stores.

    Stored and removed by :meth:`Persistence.set_key_value` and
    :meth:`Persistence.delete_key_value`.
    """

    key: str | None = None
    value: Any = None


class Persistence:
    """The record store of the process as objects; all filters that are given must match."""

    def get_volumes(
        self,
        volume_id: str | None = None,
        volume_name: str | None = None,
        backend_name: str | None = None,
    ) -> list[Volume]:
        """The volumes in the order of their ids."""
        from csi_driver.cinderlib.volume import Volume

        wanted = {"name": volume_name, "backend": backend_name}
        return [Volume._of_record(r) for r in _records(VolumeRecord, volume_id, wanted)]

    def get_snapshots(
        self,
        snapshot_id: str | None = None,
        snapshot_name: str | None = None,
        volume_id: str | None = None,
    ) -> list[Snapshot]:
        """The snapshots in the order of their ids."""
        from csi_driver.cinderlib.snapshot import Snapshot

        wanted = {"name": snapshot_name, "volume_id": volume_id}
        return [Snapshot._of_record(r) for r in _records(SnapshotRecord, snapshot_id, wanted)]

    def get_connections(
        self, connection_id: str | None = None, volume_id: str | None = None
    ) -> list[Connection]:
        """The connections in the order of their ids."""
        from csi_driver.cinderlib.connection import Connection

        wanted = {"volume_id": volume_id}
        return [Connection._of_record(r) for r in _records(ConnectionRecord, connection_id, wanted)]

    def get_key_values(self, key: str | None = None) -> list[KeyValue]:
        """The entry of a key, or all entries in the order of their keys.

        What drivers keep for initiators (secrets of CHAP) is not among them.
        """
        return [
            KeyValue(record.id, record.value)
            for record in _records(KeyValueRecord, key, {})
            if not record.id.startswith(INITIATOR_DATA)
        ]

    def set_key_value(self, entry: KeyValue) -> None:
        """Store an entry, in the place of another with its key if there is one.

        :raises InvalidRequest: it has no key, or one that is reserved for drivers.
        :raises TypeError: JSON has no place for the value.
        """
        key = _free(entry.key)
        store = session.current().store
        with session.current().exclusive(f"key-value/{key}"):
            while True:
                before = store.get(KeyValueRecord, key) or KeyValueRecord(id=key, value=None)
                try:
                    store.put(msgspec.structs.replace(before, value=entry.value))
                except RecordConflict:
                    continue  # another process' or thread's came in between: it is replaced
                return

    def delete_key_value(self, entry: KeyValue) -> None:
        """Remove the entry with this key; nothing happens when there is none.

        :raises InvalidRequest: it has no key, or one that is reserved for drivers.
        """
        key = _free(entry.key)
        store = session.current().store
        with session.current().exclusive(f"key-value/{key}"):
            while (found := store.get(KeyValueRecord, key)) is not None:
                try:
                    store.delete(found)
                except RecordConflict:
                    continue


def _free(key: str | None) -> str:
    if not key or key.startswith(INITIATOR_DATA):
        raise InvalidRequest(
            f"{key!r} cannot be the key of an entry",
            advice=f"Give some text that does not begin with {INITIATOR_DATA}",
        )
    return key


def _records(kind: type[Any], record_id: str | None, wanted: dict[str, str | None]) -> list[Any]:
    store = session.current().store
    where = {field: value for field, value in wanted.items() if value is not None}
    if record_id is None:
        return store.list(kind, where=where)
    found = store.get(kind, record_id)
    matches = found is not None and all(getattr(found, f) == v for f, v in where.items())
    return [found] if matches else []
