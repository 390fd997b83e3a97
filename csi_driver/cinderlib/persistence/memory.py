"""The ``memory`` store: dictionaries of this process, for tests and scripts.

Keeps JSON, not records: a caller who changes a dictionary inside a record changes
a copy.
"""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from csi_driver.cinderlib.persistence import codec, conflicts
from csi_driver.cinderlib.persistence.records import Record
from csi_driver.cinderlib.persistence.shelf import Shelf
from csi_driver.cinderlib.persistence.store import RecordStore, StoreUnavailable

R = TypeVar("R", bound=Record)


class MemoryStore(RecordStore):
    """A record store that ends with its process."""

    lasting = False

    def __init__(self) -> None:
        self.installation_id = str(uuid.uuid4())
        self.fresh = True
        self._lock = threading.Lock()
        self._versions = itertools.count(1)
        self._shelves = _Shelves()

    def get(self, kind: type[R], record_id: str) -> R | None:
        """See :meth:`RecordStore.get`."""
        with self._lock:
            entry = self._shelves[kind.KIND].entries.get(record_id)
        return codec.decode(kind, entry.body) if entry else None

    def put(self, record: R) -> R:
        """See :meth:`RecordStore.put`."""
        indexed = codec.require_storable(record)
        with self._lock:
            body = self._put(record, indexed)
        return codec.decode(type(record), body)

    def delete(self, record: Record) -> None:
        """See :meth:`RecordStore.delete`."""
        with self._lock:
            self._require_deletable(record).remove(record.id)

    def replace(self, old: Record, new: R) -> R:
        """See :meth:`RecordStore.replace`."""
        indexed = codec.require_storable(new)
        with self._lock:
            shelf = self._require_deletable(old)
            body = self._put(new, indexed)
            shelf.remove(old.id)
        return codec.decode(type(new), body)

    def list(
        self,
        kind: type[R],
        *,
        where: Mapping[str, str] | None = None,
        after: str = "",
        limit: int | None = None,
    ) -> list[R]:
        """See :meth:`RecordStore.list`."""
        selected = codec.selection(kind, where)
        with self._lock:
            found = self._shelves[kind.KIND].page(selected, after, limit)
        return [codec.decode(kind, entry.body) for entry in found]

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._shelves = _NoShelves()

    def _put(self, record: Record, indexed: dict[str, str]) -> bytes:
        """Keep a record unless that conflicts; its JSON.  The lock is held."""
        shelf = self._shelves[record.KIND]
        refusal = conflicts.why_not_put(record, _version(shelf, record.id))
        if refusal:
            raise refusal
        stored = msgspec.structs.replace(record, version=next(self._versions))
        body = codec.encode(stored)
        shelf.put(record.id, _Entry(stored.version, body, indexed))
        return body

    def _require_deletable(self, record: Record) -> Shelf[_Entry]:
        """The shelf of a record that may be removed.  The lock is held."""
        shelf = self._shelves[record.KIND]
        refusal = conflicts.why_not_delete(record, _version(shelf, record.id))
        if refusal:
            raise refusal
        return shelf


class _Entry(msgspec.Struct, frozen=True):
    """One stored record: its version, its JSON and the values it is found by."""

    version: int
    body: bytes
    indexed: dict[str, str]


class _Shelves(dict[str, Shelf[_Entry]]):
    """The shelves by kind of record; one that is not there is made."""

    def __missing__(self, kind: str) -> Shelf[_Entry]:
        shelf = self[kind] = Shelf()
        return shelf


class _NoShelves(_Shelves):
    """Those of a closed store."""

    def __missing__(self, kind: str) -> Shelf[_Entry]:
        raise StoreUnavailable("The record store is closed")


def _version(shelf: Shelf[_Entry], record_id: str) -> int | None:
    entry = shelf.entries.get(record_id)
    return entry.version if entry else None
