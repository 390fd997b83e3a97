"""Records of one kind in memory, found by id and by the values of indexed fields.

Used by the ``memory`` store and by the cache of the ``kubernetes`` store.  Ids are kept
sorted, for each kind and for each indexed value, so that a page costs what it holds and
not what the shelf holds.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right, insort
from typing import Generic, Protocol, TypeVar


class Entry(Protocol):
    """What a shelf keeps: anything with the values that it is found by."""

    @property
    def indexed(self) -> dict[str, str]:
        """The values of the indexed fields, by field."""


T = TypeVar("T", bound=Entry)


class Shelf(Generic[T]):
    """Entries of one kind.  Not thread-safe: its owner's lock is held by every caller."""

    def __init__(self) -> None:
        self.entries: dict[str, T] = {}
        self._ids: list[str] = []
        self._by_value: dict[tuple[str, str], list[str]] = {}

    def add(self, record_id: str, entry: T) -> None:
        """Keep an entry whose id is not there."""
        self.entries[record_id] = entry
        insort(self._ids, record_id)
        for pair in entry.indexed.items():
            insort(self._by_value.setdefault(pair, []), record_id)

    def put(self, record_id: str, entry: T) -> None:
        """Keep an entry, in the place of the one that may be there."""
        known = self.entries.get(record_id)
        if known is None:
            self.add(record_id, entry)
            return
        self.entries[record_id] = entry
        before, after = known.indexed.items(), entry.indexed.items()
        for pair in before - after:
            self._forget_value(pair, record_id)
        for pair in after - before:
            insort(self._by_value.setdefault(pair, []), record_id)

    def remove(self, record_id: str) -> None:
        """Drop an entry; nothing happens when it is not there."""
        entry = self.entries.pop(record_id, None)
        if entry is None:
            return
        del self._ids[bisect_left(self._ids, record_id)]
        for pair in entry.indexed.items():
            self._forget_value(pair, record_id)

    def _forget_value(self, pair: tuple[str, str], record_id: str) -> None:
        ids = self._by_value[pair]
        del ids[bisect_left(ids, record_id)]
        if not ids:
            del self._by_value[pair]

    def page(self, selected: dict[str, str], after: str, limit: int | None) -> list[T]:
        """The entries that have all ``selected`` values, by id, from after ``after``."""
        # The rarest value leads, so that little is looked at for nothing.
        indexes = [self._by_value.get(pair, []) for pair in selected.items()]
        ids = min(indexes, key=len, default=self._ids)
        start = bisect_right(ids, after)
        if len(indexes) <= 1:
            end = None if limit is None else start + limit
            return [self.entries[record_id] for record_id in ids[start:end]]
        matching = (
            entry
            for position in range(start, len(ids))
            if selected.items() <= (entry := self.entries[ids[position]]).indexed.items()
        )
        return list(itertools.islice(matching, limit))
