"""Which id a CSI name has: the same while its object lives, and never one that was used before.

Used by the context of the controller.  An id is derived from the name and from an
*incarnation*, a number that is greater for every further use of the name.  Where
the number comes from, the first that applies:

1. a tombstone, which the deletion of an object leaves: one more than in it
2. the object that has the name now: its own
3. the floor, one number for the whole store: one more than it

Tombstones are pruned: before one goes, the floor is raised to its incarnation, so
that a name without tombstone begins above everything that was ever given to it.
No id comes twice, however old a tombstone was, and a DeleteVolume that arrives
late by years finds nothing.

The floor may rise while two calls with one new name are on their way, and these
would then see two ids.  So whoever records a new object first looks again, with
the name locked: see :meth:`ControllerContext.begin`.
"""

from __future__ import annotations

import msgspec

from csi_driver.cinderlib.persistence.records import (
    KeyValueRecord,
    SnapshotRecord,
    TombstoneRecord,
    VolumeRecord,
)
from csi_driver.cinderlib.persistence.store import RecordConflict, RecordExists, RecordStore
from csi_driver.controller import ids

FLOOR = "incarnation-floor"
"""Key of the record with the greatest incarnation of all pruned tombstones."""

PAGE = 500
"""So many tombstones are read at a time."""

_KINDS: dict[str, type[VolumeRecord] | type[SnapshotRecord]] = {
    VolumeRecord.KIND: VolumeRecord,
    SnapshotRecord.KIND: SnapshotRecord,
}


def identify(store: RecordStore, kind: str, name: str) -> tuple[str, int]:
    """The id and incarnation that a name has now.

    :param kind: "volume" or "snapshot".
    """
    tombstone = store.get(TombstoneRecord, ids.tombstone_id(store.installation_id, kind, name))
    if tombstone is not None:
        incarnation = tombstone.incarnation + 1
    else:
        # In this order: the floor is raised before a tombstone goes.
        incarnation = _living(store, kind, name) or _floor(store) + 1
    return ids.object_id(store.installation_id, kind, incarnation, name), incarnation


def bury(store: RecordStore, record: VolumeRecord | SnapshotRecord, now: float) -> None:
    """Replace the record of a deleted object by a tombstone.

    The record goes last: what fails in between leaves one whose deletion is done again.

    :param now: seconds since the epoch.
    :raises StoreUnavailable: the record was not removed.
    """
    tombstone = TombstoneRecord(
        id=ids.tombstone_id(store.installation_id, record.KIND, record.name),
        incarnation=record.incarnation,
        deleted_at=now,
    )
    try:
        # Most names are used once: whether there is a tombstone shows by itself.
        store.replace(record, tombstone)
    except RecordExists:
        known = store.get(TombstoneRecord, tombstone.id)
        if known is not None and known.incarnation >= record.incarnation:
            store.delete(record)
        else:
            version = known.version if known else 0
            store.replace(record, msgspec.structs.replace(tombstone, version=version))


def prune(store: RecordStore, before: float) -> int:
    """Remove the tombstones of what was deleted before a moment; how many that were.

    :param before: seconds since the epoch.
    """
    pruned = 0
    last = ""
    while page := store.list(TombstoneRecord, after=last, limit=PAGE):
        last = page[-1].id
        old = [tombstone for tombstone in page if tombstone.deleted_at < before]
        _raise_floor(store, max((tombstone.incarnation for tombstone in old), default=0))
        for tombstone in old:
            try:
                store.delete(tombstone)
            except RecordConflict:
                continue  # the name's next object was deleted meanwhile: it is not old any more
            pruned += 1
    return pruned


def _living(store: RecordStore, kind: str, name: str) -> int:
    """The incarnation of the object that has the name now; 0 when none has."""
    found = store.list(_KINDS[kind], where={"name": name})
    # The library's objects may have the same name; their ids are not derived from it.
    return max(
        (
            record.incarnation
            for record in found
            if record.id == ids.object_id(store.installation_id, kind, record.incarnation, name)
        ),
        default=0,
    )


def _floor(store: RecordStore) -> int:
    record = store.get(KeyValueRecord, FLOOR)
    return int(record.value) if record else 0


def _raise_floor(store: RecordStore, incarnation: int) -> None:
    """Let names without tombstone begin above ``incarnation``; durable when it returns."""
    record = store.get(KeyValueRecord, FLOOR)
    if incarnation > (int(record.value) if record else 0):
        version = record.version if record else 0
        store.put(KeyValueRecord(id=FLOOR, version=version, value=incarnation))
