"""Which rows there are: of the objects in driver calls, and of all the others.

Managers join with their lookup and hold rows here while they call a driver;
``database`` answers the driver from it.  A change that a driver saves reaches every
call that holds the object; of an object that is in no call, it goes to the lookup.

One directory serves the process, because ``cinder.db.api`` is one module.  Its lock
protects the tables and the rows in them, and is never held while a driver or a
lookup runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from csi_driver.cinderlib.exceptions import BackendExists, NotProvided
from csi_driver.cinderlib.lookup import Lookup
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    GroupRecord,
    GroupSnapshotRecord,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.cinderlib.runtime import rows
from csi_driver.cinderlib.runtime.rows import Row

Change = Callable[[Row], Mapping[str, Any]]
Key = tuple[str, str]
Found = VolumeRecord | SnapshotRecord | GroupRecord | GroupSnapshotRecord

VOLUME = "Volume"
SNAPSHOT = "Snapshot"
GROUP = "Group"
GROUP_SNAPSHOT = "GroupSnapshot"


@dataclass(frozen=True)
class Member:
    """A backend as the directory knows it.

    :param host: ``HOST@BACKEND``.
    :param pool: answers the pool of volumes whose record names none.
    :param permit: returns when a driver may be called, and raises when it never may again.
    """

    backend: str
    host: str
    owner: Mapping[str, str]
    lookup: Lookup
    pool: Callable[[], str]
    permit: Callable[[], None] = lambda: None

    def volume_row(
        self, record: VolumeRecord, connections: Sequence[ConnectionRecord] | None = None
    ) -> Row:
        """The row of a volume; its connections come from the lookup unless given."""
        if connections is None:
            connections = self.lookup.connections_of_volume(record.id)
        return rows.volume_row(
            record,
            host=self.host,
            pool="" if record.pool else self.pool(),
            owner=self.owner,
            source_ids={**self._source_ids(record), **self._group_id(record)},
            connections=connections,
        )

    def group_row(self, record: GroupRecord) -> Row:
        """The row of a group; its types are those of its volumes."""
        volumes = self.lookup.volumes_of_group(record)
        return rows.group_row(
            record,
            host=self.host,
            pool=next((volume.pool for volume in volumes if volume.pool), "") or self.pool(),
            owner=self.owner,
            volume_type_ids=sorted({rows.type_of(volume)["id"] for volume in volumes}),
        )

    def group_snapshot_row(
        self, record: GroupSnapshotRecord, group: GroupRecord | None = None
    ) -> Row:
        """The row of a group snapshot with its group's."""
        group = group or self.lookup.group(record.group_id)
        if group is None:
            raise NotProvided(f"Group snapshot {record.id} has no group record {record.group_id}")
        return rows.group_snapshot_row(record, self.group_row(group), self.owner)

    def snapshot_row(self, record: SnapshotRecord, volume: VolumeRecord | None = None) -> Row:
        """The row of a snapshot with its volume's."""
        volume = volume or self.lookup.volume(record.volume_id)
        if volume is None:
            raise NotProvided(f"Snapshot {record.id} has no volume record {record.volume_id}")
        cut = record.group_snapshot_id and self.lookup.group_snapshot(record.group_snapshot_id)
        return Row(
            rows.snapshot_row(record, self.volume_row(volume), volume.cinder_id, self.owner),
            group_snapshot_id=cut.cinder_id if cut else None,
        )

    def _group_id(self, record: VolumeRecord) -> dict[str, str]:
        group = self.lookup.group(record.group_id) if record.group_id else None
        return {"group_id": group.cinder_id} if group else {}

    def _source_ids(self, record: VolumeRecord) -> dict[str, str]:
        if record.source is None:
            return {}
        if record.source.kind == "snapshot":
            snapshot = self.lookup.snapshot(record.source.id)
            return {"snapshot_id": snapshot.cinder_id} if snapshot else {}
        volume = self.lookup.volume(record.source.id)
        return {"source_volid": volume.cinder_id} if volume else {}


class Directory:
    """The rows of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._members: dict[str, Member] = {}
        # Several calls may hold one object (two clones of one volume): each has a row.
        self._held: dict[Key, list[Row]] = {}
        # Objects that a driver made for itself (a snapshot for the time of a clone).
        self._own: dict[Key, Row] = {}
        self._types: dict[str, Row] = {}
        self._group_types: dict[str, Row] = {}

    def join(self, member: Member) -> None:
        """Make a backend's objects known.

        :raises BackendExists: another backend has this name.
        """
        with self._lock:
            if member.backend in self._members:
                raise BackendExists(f"A backend {member.backend!r} is loaded already")
            self._members[member.backend] = member

    def leave(self, backend: str) -> None:
        """Forget a backend; nothing happens when it is not known."""
        with self._lock:
            self._members.pop(backend, None)

    def hold(self, kind: str, row: Row) -> Key:
        """Keep a row findable while a driver works on its object; the key to release it by."""
        key = (kind, row["id"])
        with self._lock:
            self._held.setdefault(key, []).append(row)
            self._learn_type(row)
        return key

    def release(self, held: Iterable[tuple[Key, Row]]) -> None:
        """Forget rows, each with the key that :meth:`hold` answered for it."""
        with self._lock:
            for key, row in held:
                # By identity: two calls may hold rows that are equal.
                left = [other for other in self._held[key] if other is not row]
                if left:
                    self._held[key] = left
                else:
                    del self._held[key]

    def find(self, kind: str, cinder_id: str) -> Row | None:
        """A copy of the row with this Cinder id, None when there is none."""
        key = (kind, cinder_id)
        with self._lock:
            held = self._held.get(key)
            row = held[-1] if held else self._own.get(key)
            if row is not None:
                return Row(row)
        recorded = self._recorded(kind, cinder_id)
        return recorded[2] if recorded else None

    def change(self, kind: str, cinder_id: str, change: Change) -> Row | None:
        """Change columns of a row, wherever it is; the changed row, None without one.

        :param change: from the row to the columns that are to be others.
        """
        key = (kind, cinder_id)
        with self._lock:
            known = [*self._held.get(key, ()), *filter(None, [self._own.get(key)])]
            for row in known:
                row.update(change(row))
            if known:
                return Row(known[-1])
        recorded = self._recorded(kind, cinder_id)
        if recorded is None:
            return None
        member, record, row = recorded
        row.update(change(row))
        member.lookup.save(rows.changed(record, row))
        return row

    def add(self, kind: str, row: Row) -> None:
        """Keep the row of an object that a driver makes for itself."""
        with self._lock:
            self._own[(kind, row["id"])] = row

    def drop(self, kind: str, cinder_id: str) -> None:
        """Forget the row of an object that a driver made for itself."""
        with self._lock:
            self._own.pop((kind, cinder_id), None)

    def learn_type(self, row: Row) -> None:
        """Make a volume type known that no volume has yet."""
        with self._lock:
            self._types[row["id"]] = row

    def types(self) -> list[Row]:
        """The volume types seen so far."""
        with self._lock:
            return list(self._types.values())

    def group_type(self, type_id: str | None) -> Row | None:
        """The group type with this id, if a group had it."""
        with self._lock:
            return self._group_types.get(type_id or "")

    def members(self) -> list[Member]:
        """The backends, in the order in which they joined."""
        with self._lock:
            return list(self._members.values())

    def _recorded(self, kind: str, cinder_id: str) -> tuple[Member, Found, Row] | None:
        """An object found by a lookup, with its backend and its row."""
        members = {member.backend: member for member in self.members()}
        for lookup in {id(member.lookup): member.lookup for member in members.values()}.values():
            if kind == VOLUME:
                volume = lookup.volume_by_cinder_id(cinder_id)
                if volume is not None and volume.backend in members:
                    member = members[volume.backend]
                    row = member.volume_row(volume)
                    with self._lock:
                        self._learn_type(row)
                    return member, volume, row
            elif kind == GROUP:
                group = lookup.group_by_cinder_id(cinder_id)
                if group is not None and group.backend in members:
                    row = members[group.backend].group_row(group)
                    with self._lock:
                        self._learn_type(row)
                    return members[group.backend], group, row
            elif kind == GROUP_SNAPSHOT:
                cut = lookup.group_snapshot_by_cinder_id(cinder_id)
                if cut is not None and cut.backend in members:
                    return members[cut.backend], cut, members[cut.backend].group_snapshot_row(cut)
            else:
                snapshot = lookup.snapshot_by_cinder_id(cinder_id)
                if snapshot is not None and snapshot.backend in members:
                    member = members[snapshot.backend]
                    return member, snapshot, member.snapshot_row(snapshot)
        return None

    def _learn_type(self, row: Row) -> None:
        # A type has no record: it becomes known with the first volume that has it.
        if (volume_type := row.get("volume_type")) is not None:
            self._types[row["volume_type_id"]] = volume_type
        if (group_type := row.get("group_type")) is not None:
            self._group_types[row["group_type_id"]] = group_type


directory = Directory()
"""The directory of this process."""
