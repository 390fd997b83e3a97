"""Copies all records from one store to another, and compares two stores.

Called by the object layer when its store is exchanged while it runs.  Versions belong to a
store: the copies get new ones, and nobody may write to the source meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from csi_driver.cinderlib.persistence.records import Record, without_version
from csi_driver.cinderlib.persistence.store import (
    RecordConflict,
    RecordExists,
    RecordStore,
    pages,
)

_WRITERS = 32
"""Threads that write: a store flushes many changes as one."""

_NAMED = 5
"""Records that a message names at most."""


def copy_records(source: RecordStore, target: RecordStore) -> Counter[str]:
    """Copy every record of ``source``, compare, and answer how many were copied of each kind.

    What ``target`` has already with the same content stays as it is, so that a copy which
    was interrupted can be repeated.  A fresh target takes the installation id over.

    :raises RecordExists: the target has other records under the same ids; it is unchanged.
    :raises RecordConflict: the source was changed meanwhile.
    :raises StoreUnavailable: a store failed; the target may have a part of the records.
    """
    clashes = [label for label, here, there in _pairs(source, target) if there not in (None, here)]
    if clashes:
        raise RecordExists(
            f"The store has other content already under the ids of {_first(clashes)}",
            advice="Copy into an empty store, or delete these records there",
        )
    if target.fresh:
        target.adopt(source.installation_id)
    copied: Counter[str] = Counter()
    with ThreadPoolExecutor(_WRITERS) as pool:
        for page in pages(source):
            missing = [each for each in page if target.get(type(each), each.id) is None]
            for stored in pool.map(target.put, map(without_version, missing)):
                copied[stored.KIND] += 1
    different = [label for label, here, there in _pairs(source, target) if here != there]
    if different:
        raise RecordConflict(f"Changed while they were copied: {_first(different)}")
    return copied


def differences(one: RecordStore, other: RecordStore) -> list[str]:
    """The records that are not the same in both stores, as ``kind id``; versions aside."""
    found = {label for label, here, there in _pairs(one, other) if here != there}
    found |= {label for label, here, there in _pairs(other, one) if here != there}
    return sorted(found)


def _pairs(one: RecordStore, other: RecordStore) -> Iterator[tuple[str, Record, Record | None]]:
    """Every record of ``one``, and what ``other`` has under its id; without versions."""
    for page in pages(one):
        for record in page:
            there = other.get(type(record), record.id)
            found = None if there is None else without_version(there)
            yield f"{record.KIND} {record.id}", without_version(record), found


def _first(labels: list[str]) -> str:
    more = len(labels) - _NAMED
    return ", ".join(labels[:_NAMED]) + (f" and {more} more" if more > 0 else "")
