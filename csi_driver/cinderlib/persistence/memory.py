"""The ``memory`` store: dictionaries of this process, for tests and scripts.

Keeps JSON, not records: a caller who changes a dictionary inside a record changes
a copy.  Ids are kept sorted, for each kind and for each indexed value, so that a
page costs what it holds and not what the store holds.
"""

from __future__ import annotations

import itertools
import threading
import uuid
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from csi_driver.cinderlib.persistence import codec, conflicts
from csi_driver.cinderlib.persistence.records import Record
from csi_driver.cinderlib.persistence.store import RecordStore, StoreUnavailable

R = TypeVar("R", bound=Record)


class MemoryStore(RecordStore):
    """A record store that ends with its process."""

    def __init__(self) -> None:
        self.installation_id = str(uuid.uuid4())
        self.fresh = True
        self._lock = threading.Lock()
        self._versions = itertools.count(1)
        self._shelves: dict[str, _Shelf] = {}
        self._closed = False

    def get(self, kind: type[R], record_id: str) -> R | None:
        """See :meth:`RecordStore.get`."""
        with self._lock:
            entry = self._shelf(kind).entries.get(record_id)
        return codec.decode(kind, entry.body) if entry else None

    def put(self, record: R) -> R:
        """See :meth:`RecordStore.put`."""
        with self._lock:
            shelf = self._shelf(type(record))
            refusal = conflicts.why_not_put(record, shelf.version(record.id))
            if refusal:
                raise refusal
            stored = msgspec.structs.replace(record, version=next(self._versions))
            body = codec.encode(stored)
            shelf.remove(record.id)
            shelf.add(record.id, _Entry(stored.version, body, codec.indexed_values(record)))
        return codec.decode(type(record), body)

    def delete(self, record: Record) -> None:
        """See :meth:`RecordStore.delete`."""
        with self._lock:
            shelf = self._shelf(type(record))
            refusal = conflicts.why_not_delete(record, shelf.version(record.id))
            if refusal:
                raise refusal
            shelf.remove(record.id)

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
            bodies = self._shelf(kind).page(selected, after, limit)
        return [codec.decode(kind, body) for body in bodies]

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._closed = True
            self._shelves.clear()

    def _shelf(self, kind: type[Record]) -> _Shelf:
        if self._closed:
            raise StoreUnavailable("The record store is closed")
        return self._shelves.setdefault(kind.KIND, _Shelf())


class _Entry(msgspec.Struct, frozen=True):
    """One stored record: its version, its JSON and the values it is found by."""

    version: int
    body: bytes
    indexed: dict[str, str]


class _Shelf:
    """The records of one kind.  The store's lock is held by every caller."""

    def __init__(self) -> None:
        self.entries: dict[str, _Entry] = {}
        self._ids: list[str] = []
        self._by_value: dict[tuple[str, str], list[str]] = {}

    def version(self, record_id: str) -> int | None:
        entry = self.entries.get(record_id)
        return entry.version if entry else None

    def add(self, record_id: str, entry: _Entry) -> None:
        self.entries[record_id] = entry
        _insert(self._ids, record_id)
        for pair in entry.indexed.items():
            _insert(self._by_value.setdefault(pair, []), record_id)

    def remove(self, record_id: str) -> None:
        entry = self.entries.pop(record_id, None)
        if entry is None:
            return
        _discard(self._ids, record_id)
        for pair in entry.indexed.items():
            _discard(self._by_value[pair], record_id)
            if not self._by_value[pair]:
                del self._by_value[pair]

    def page(self, selected: dict[str, str], after: str, limit: int | None) -> list[bytes]:
        """JSON of the records that have all ``selected`` values, from after ``after``."""
        # The rarest value leads, so that little is looked at for nothing.
        indexes = [self._by_value.get(pair, []) for pair in selected.items()]
        ids = min(indexes, key=len, default=self._ids)
        matching = (
            entry.body
            for position in range(bisect_right(ids, after), len(ids))
            if selected.items() <= (entry := self.entries[ids[position]]).indexed.items()
        )
        return list(itertools.islice(matching, limit))


def _insert(ids: list[str], record_id: str) -> None:
    ids.insert(bisect_left(ids, record_id), record_id)


def _discard(ids: list[str], record_id: str) -> None:
    del ids[bisect_left(ids, record_id)]
