"""Brings exported records into a store, whole or marked as not whole.

Used by ``cinder-csi records import``, and by everyone who opens a store for
:func:`refuse_unfinished`.  While records are written a marker is among them: nobody works
with the half of them, and the import of the same file goes on where it was broken off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from csi_driver.base.errors import ConfigurationError
from csi_driver.cinderlib.persistence.records import KeyValueRecord, Record, without_version
from csi_driver.cinderlib.persistence.store import RecordConflict, RecordExists, RecordStore, pages

MARKER = "cinder-csi/import"
"""Id of the key-value record that is there while an import is not finished."""

_WRITERS = 32
"""Threads that write: a store flushes many changes as one."""


class Import(msgspec.Struct, frozen=True, kw_only=True):
    """What the marker tells of the import.

    :ivar sha256: of the file.
    :ivar made_at: the moment that the records are of.
    :ivar moving: they were taken over as they were.
    """

    sha256: str
    made_at: str
    moving: bool

    def record(self) -> KeyValueRecord:
        """The marker."""
        return KeyValueRecord(id=MARKER, value=msgspec.to_builtins(self))


def refuse_unfinished(store: RecordStore) -> None:
    """Refuse a store that may have a part of its records only.

    :raises ConfigurationError: an import into it was not finished.
    """
    refuse(store.get(KeyValueRecord, MARKER))


def marker_among(records: Iterable[Record]) -> KeyValueRecord | None:
    """The marker, if the records are those of an import that was not finished."""
    markers = (each for each in records if isinstance(each, KeyValueRecord) and each.id == MARKER)
    return next(markers, None)


def refuse(marker: KeyValueRecord | None) -> None:
    """Refuse records that a marker is among; see :func:`refuse_unfinished`."""
    if marker is None:
        return
    value: Any = marker.value if isinstance(marker.value, dict) else {}
    raise ConfigurationError(
        f"An import of the records of {value.get('made_at')} was not finished: a part of them may"
        " be missing",
        advice="Run cinder-csi records import again, with the same file and options",
    )


def begin(store: RecordStore, this: Import) -> None:
    """Set the marker, if the store has no other record or is in the middle of this import.

    :raises RecordExists: it has other records, or another import was begun.
    """
    marker = store.get(KeyValueRecord, MARKER)
    require_room(this, marker, lambda: _counts(store))
    if marker is None:
        store.put(this.record())


def require_room(
    this: Import, marker: KeyValueRecord | None, counts: Callable[[], dict[str, int]]
) -> None:
    """Refuse an import into a place that has other records; see :func:`begin`.

    :param marker: the one that is there.
    :param counts: how many records are there, by kind.
    """
    if marker is not None:
        if marker.value != this.record().value:
            raise RecordExists(
                "Another import was begun here and not finished:"
                f" {msgspec.json.encode(marker.value).decode()}",
                advice="Finish that one, with its file and options, or begin with an empty store",
            )
        return
    if found := counts():
        told = ", ".join(f"{number} {kind}" for kind, number in found.items())
        raise RecordExists(
            f"The store has records already: {told}",
            advice="Import into an empty store; nothing was changed",
        )


def write(store: RecordStore, records: Sequence[Record]) -> int:
    """Write all records, after :func:`begin`; answers how many were not there yet.

    :raises RecordExists: one of them is there with another content.
    :raises StoreUnavailable: the store failed; the import is to be run again.
    """
    with ThreadPoolExecutor(_WRITERS, "import") as pool:
        return sum(pool.map(lambda record: _write(store, record), records))


def finish(store: RecordStore, records: Sequence[Record]) -> None:
    """Compare, and take the marker away: from now on the store may be used.

    :raises RecordConflict: the store does not hold these records and no others.
    """
    wanted = {(record.KIND, record.id): record for record in records}
    for page in pages(store):
        for found in page:
            if found.id == MARKER:
                continue
            if wanted.pop((found.KIND, found.id), None) != without_version(found):
                raise RecordConflict(
                    f"The {found.KIND} {found.id} was written by somebody else meanwhile",
                    advice="See that no controller runs, empty the store, and import again",
                )
    if wanted:
        kind, record_id = next(iter(wanted))
        raise RecordConflict(
            f"{len(wanted)} records are not there after the import, as the {kind} {record_id}",
            advice="Run the import again",
        )
    marker = store.get(KeyValueRecord, MARKER)
    if marker is not None:
        store.delete(marker)


def _write(store: RecordStore, record: Record) -> bool:
    there = store.get(type(record), record.id)
    if there is None:
        store.put(record)
    elif without_version(there) != record:
        raise RecordExists(f"There is another {record.KIND} {record.id} already")
    return there is None


def _counts(store: RecordStore) -> dict[str, int]:
    return dict(Counter(record.KIND for page in pages(store) for record in page))
