"""A store in front of another one that can be exchanged while it is used.

Used by the session of the object layer, so that objects go on in the new store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from csi_driver.cinderlib.persistence.records import Record
from csi_driver.cinderlib.persistence.store import RecordStore, StoreUnavailable

R = TypeVar("R", bound=Record)
T = TypeVar("T")


class ExchangeableStore(RecordStore):
    """Hands every call on to the store of now."""

    def __init__(self, inner: RecordStore) -> None:
        self.exchange(inner)

    def exchange(self, inner: RecordStore) -> None:
        """Use another store from now on; the caller closes the old one."""
        self.inner = inner
        self.installation_id = inner.installation_id
        self.fresh = inner.fresh
        self.lasting = inner.lasting

    def get(self, kind: type[R], record_id: str) -> R | None:
        """See :meth:`RecordStore.get`."""
        return self._call(lambda store: store.get(kind, record_id))

    def put(self, record: R) -> R:
        """See :meth:`RecordStore.put`."""
        return self._call(lambda store: store.put(record))

    def delete(self, record: Record) -> None:
        """See :meth:`RecordStore.delete`."""
        self._call(lambda store: store.delete(record))

    def replace(self, old: Record, new: R) -> R:
        """See :meth:`RecordStore.replace`."""
        return self._call(lambda store: store.replace(old, new))

    def list(
        self,
        kind: type[R],
        *,
        where: Mapping[str, str] | None = None,
        after: str = "",
        limit: int | None = None,
    ) -> list[R]:
        """See :meth:`RecordStore.list`."""
        return self._call(lambda store: store.list(kind, where=where, after=after, limit=limit))

    def adopt(self, installation_id: str) -> None:
        """See :meth:`RecordStore.adopt`."""
        self._call(lambda store: store.adopt(installation_id))
        self.installation_id = installation_id

    def close(self) -> None:
        """See :meth:`RecordStore.close`."""
        self.inner.close()

    def _call(self, work: Callable[[RecordStore], T]) -> T:
        while True:
            store = self.inner
            try:
                return work(store)
            except StoreUnavailable:
                # A closed store has done nothing: the call is made again in the new one.
                if store is self.inner:
                    raise
