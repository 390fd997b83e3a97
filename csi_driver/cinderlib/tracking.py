"""What the process knows of its objects: all of a class, and the children of one.

Used by :mod:`csi_driver.cinderlib.entity` and by ``Backend``.  :class:`KnownObjects` is
behind ``Volume.objects`` and its like.  :class:`LazyList` is behind ``backend.volumes``,
``volume.snapshots`` and ``volume.connections``: read from the store at the first use, and
again after ``refresh()`` or when this process has changed one of the children.  What
other processes change shows after a ``refresh()``.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

E = TypeVar("E")

KNOWN_LIMIT = 10_000
"""So many objects of a class are known at most: 2 to 3 kB each."""


@dataclass(frozen=True)
class Known:
    """The latest that is known of an object; ``deleted_at`` in seconds since the epoch."""

    number: int
    store: int
    record: Any
    deleted_at: float | None = None


class KnownObjects(Generic[E]):
    """Every object of a class that this process has made, read or loaded, in that order.

    Deleted and disconnected ones are included.  Each is shown as the process knows it last,
    whichever instance a change was made with; equal to any instance of the same id, but
    not the same one.  At most ``limit`` are kept: of too many the deleted go first, the
    longest known before the others.

    Thread-safe; iterating goes through what is known at its beginning.
    """

    def __init__(self, make: Callable[[Known], E], limit: int = KNOWN_LIMIT) -> None:
        self.limit = limit
        self._make = make
        self._numbers = itertools.count()
        # Protects both dictionaries; held for accesses only.
        self._lock = threading.Lock()
        self._existing: dict[str, Known] = {}
        self._deleted: dict[str, Known] = {}

    def note(self, record: Any, store: int, deleted_at: float | None = None) -> None:
        """Keep the latest of an object.

        :param store: tells stores apart: within one, an older record is no news.
        """
        with self._lock:
            old = self._existing.get(record.id) or self._deleted.get(record.id)
            if old is not None and old.store == store:
                # Who read it before it was deleted may tell of it afterwards.
                late = old.deleted_at is not None and deleted_at is None
                if record.version < old.record.version + late:
                    return
            number = next(self._numbers) if old is None else old.number
            known = Known(number, store, record, deleted_at)
            if deleted_at is None:
                self._deleted.pop(record.id, None)
                self._existing[record.id] = known
            else:
                self._existing.pop(record.id, None)
                self._deleted[record.id] = known
            while len(self._existing) + len(self._deleted) > self.limit:
                some = self._deleted or self._existing
                del some[next(iter(some))]

    def get(self, object_id: str) -> E | None:
        """The object with this id as it is known last, None for an unknown one."""
        with self._lock:
            known = self._existing.get(object_id) or self._deleted.get(object_id)
        return self._make(known) if known else None

    def clear(self) -> None:
        """Forget all; the objects themselves are not touched."""
        with self._lock:
            self._existing.clear()
            self._deleted.clear()

    def __iter__(self) -> Iterator[E]:
        with self._lock:
            known = [*self._existing.values(), *self._deleted.values()]
        return iter([self._make(one) for one in sorted(known, key=lambda one: one.number)])

    def __len__(self) -> int:
        with self._lock:
            return len(self._existing) + len(self._deleted)

    def __contains__(self, found: Any) -> bool:
        mine = self.get(getattr(found, "id", ""))
        return mine is not None and mine == found

    def __repr__(self) -> str:
        return f"<{len(self)} known objects>"


class _Changes:
    """Counts the changes that this process makes below each object.  Thread-safe.

    Bounded: of an object that is dropped, the highest count of all that were dropped is
    told, so that somebody reads again who need not, never the other way round.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._total = 0
        self._last: dict[tuple[str, str], int] = {}
        self._dropped = 0

    def add(self, kind: str, parent: str) -> None:
        with self._lock:
            self._total += 1
            self._last.pop((kind, parent), None)
            self._last[(kind, parent)] = self._total
            if len(self._last) > self._limit:
                self._dropped = self._last.pop(next(iter(self._last)))

    def last(self, kind: str, parent: str) -> int:
        with self._lock:
            return self._last.get((kind, parent), self._dropped)


changes = _Changes(KNOWN_LIMIT)
"""The changes of this process, by kind of record and id of the parent."""


class LazyList(Generic[E]):
    """The children of one object: unique, in the order in which they were made.

    Thread-safe: what was read is replaced as a whole.

    :param kind: of the children's records.
    :param read: reads the children from the store.
    """

    def __init__(self, kind: str, parent: str, read: Callable[[], list[E]]) -> None:
        self._kind = kind
        self._parent = parent
        self._read = read
        self._cached: tuple[int, list[E]] | None = None

    @property
    def loaded(self) -> bool:
        """Whether the children were read or given."""
        return self._cached is not None

    def __call__(self) -> list[E]:
        """The children, in a list of the caller's own."""
        cached = self._cached
        # Asked before the store is: a change in between is seen the next time.
        last = changes.last(self._kind, self._parent)
        if cached is None or cached[0] != last:
            cached = last, self._merged(self._read(), cached[1] if cached else [])
            self._cached = cached
        return list(cached[1])

    def forget(self) -> None:
        """Read again at the next use."""
        self._cached = None

    def fill(self, children: list[E]) -> None:
        """Have these children, which came from elsewhere, until the next reading."""
        unique = list({child.id: child for child in children}.values())  # type: ignore[attr-defined]
        self._cached = changes.last(self._kind, self._parent), unique

    def _merged(self, read: Any, before: Any) -> list[E]:
        # Children loaded from JSON are not in the store before something is done with them.
        ids = {child.id for child in read}
        kept = [child for child in before if child.only_loaded and child.id not in ids]
        return sorted([*read, *kept], key=lambda child: (child.created_at, child.id))


class LazyOne(Generic[E]):
    """The one object that another belongs to, read at the first use.

    Thread-safe: what was read is replaced as a whole.
    """

    def __init__(self, read: Callable[[], E]) -> None:
        self._read = read
        self._cached: E | None = None

    @property
    def loaded(self) -> bool:
        """Whether the object was read or given."""
        return self._cached is not None

    def __call__(self) -> E:
        """The object."""
        cached = self._cached
        if cached is None:
            cached = self._cached = self._read()
        return cached

    def forget(self) -> None:
        """Read again at the next use."""
        self._cached = None

    def fill(self, found: E) -> None:
        """Have this object, which came from elsewhere, until the next reading."""
        self._cached = found
