"""The objects of one kind, as a watch and this process's own writes tell them.

Fed by a :class:`~csi_driver.kube.reflector.Reflector` and by ``store``, read by ``store``
only.  Both feeders may come late: of two states of an object the one with the greater
resource version counts, a removed object stays removed for what is older, and so does one
that a whole list, read past the reflector, did not have any more.  A removal whose answer was
lost has no version that is known for certain; but the uid of a removed object never returns.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TypeGuard, TypeVar

import msgspec

from csi_driver.cinderlib.persistence import codec
from csi_driver.cinderlib.persistence.kubernetes import objects
from csi_driver.cinderlib.persistence.kubernetes.resources import Resource
from csi_driver.cinderlib.persistence.records import Record
from csi_driver.cinderlib.persistence.shelf import Shelf
from csi_driver.cinderlib.persistence.store import StoreCorrupt
from csi_driver.kube.api import Object

R = TypeVar("R", bound=Record)

_REMEMBERED_REMOVALS = 10_000


class Cached(msgspec.Struct, frozen=True):
    """What is kept of an object: encoded, since ten thousand of them are kept.

    ``record`` is the record's JSON; None when the object holds none that can be read,
    and then ``why`` tells why.  ``item`` is the whole object's JSON.
    """

    version: int
    resource_version: int
    uid: str
    item: bytes
    body: bytes
    indexed: dict[str, str]
    why: str = ""


class Cache:
    """The objects of one kind.  ``_lock`` protects all of it; held for dictionary work only.

    :param told: called with the old and the new object of each change, as it becomes known;
        not for what a whole list tells.
    """

    def __init__(
        self, resource: Resource, told: Callable[[Object | None, Object], None] | None = None
    ) -> None:
        self._resource = resource
        self._told = told
        self._lock = threading.Lock()
        self._shelf: Shelf[Cached] = Shelf()
        self._removed: OrderedDict[str, tuple[int, str]] = OrderedDict()  # version and uid
        self._listed_at = 0

    # -- for the store ---------------------------------------------------------

    def get(self, record_id: str) -> Cached | None:
        """The object of a record."""
        with self._lock:
            return self._shelf.entries.get(record_id)

    def page(self, selected: dict[str, str], after: str, limit: int | None) -> list[Cached]:
        """Objects with all ``selected`` values, in the order of their records' ids."""
        with self._lock:
            return self._shelf.page(selected, after, limit)

    # -- for the reflector (its Sink) and for the store's own writes -------------

    def replace(self, items: Iterable[Object], resource_version: int) -> None:
        """Take a whole list over; own writes that are newer than it stay."""
        made = {}
        for item in items:
            record_id = objects.record_id(item)
            known = self.get(record_id)
            # Most are known as they are: a list that was read anew costs little then.
            made[record_id] = known if _is(known, item) else self._cached(item)
        with self._lock:
            for record_id, entry in list(self._shelf.entries.items()):
                if record_id not in made and entry.resource_version <= resource_version:
                    self._shelf.remove(record_id)
            older = resource_version < self._listed_at
            for record_id, entry in made.items():
                if not older or record_id in self._shelf.entries:
                    self._take(record_id, entry)
            self._listed_at = max(resource_version, self._listed_at)

    def changed(self, item: Object) -> None:
        """Take an object over, unless a newer state of it is known."""
        record_id = objects.record_id(item)
        if _is(self.get(record_id), item):
            return  # this process's own write, told by the watch
        entry = self._cached(item)
        with self._lock:
            before = self._shelf.entries.get(record_id)
            # A list would have had it, unless it was removed before.
            gone = before is None and entry.resource_version <= self._listed_at
            taken = not gone and self._take(record_id, entry)
        if taken and self._told is not None:
            self._told(None if before is None else msgspec.json.decode(before.item), item)

    def removed(self, item: Object) -> None:
        """Forget an object, unless a newer one of its id is known."""
        metadata = item["metadata"]
        self.forget(objects.record_id(item), int(metadata["resourceVersion"]), metadata["uid"])

    def forget(self, record_id: str, resource_version: int, uid: str) -> None:
        """Forget an object that was removed, at this version or later."""
        with self._lock:
            known = self._shelf.entries.get(record_id)
            if known is not None and (
                known.resource_version <= resource_version or known.uid == uid
            ):
                self._shelf.remove(record_id)
            before = self._removed.get(record_id)
            if before is None or before[0] < resource_version:
                self._removed[record_id] = resource_version, uid
            self._removed.move_to_end(record_id)
            if len(self._removed) > _REMEMBERED_REMOVALS:
                self._removed.popitem(last=False)

    def _take(self, record_id: str, entry: Cached) -> bool:
        known = self._shelf.entries.get(record_id)
        if known is not None and known.resource_version > entry.resource_version:
            return False
        removed = self._removed.get(record_id)
        if removed is not None and (
            removed[0] >= entry.resource_version or removed[1] == entry.uid
        ):
            return False
        self._shelf.put(record_id, entry)
        return True

    def _cached(self, item: Object) -> Cached:
        metadata = item["metadata"]
        metadata.pop("managedFields", None)  # large, and nothing to this store
        body, indexed, why = b"", {}, ""
        try:
            record = objects.to_record(self._resource.record, item)
            body, indexed = codec.encode(record), codec.indexed_values(record)
        except StoreCorrupt as error:
            why = str(error)
        return Cached(
            version=objects.record_version(item),
            resource_version=int(metadata["resourceVersion"]),
            uid=metadata["uid"],
            item=msgspec.json.encode(item),
            body=body,
            indexed=indexed,
            why=why,
        )


def _is(known: Cached | None, item: Object) -> TypeGuard[Cached]:
    """Whether this state of the object is the one that is kept."""
    metadata = item["metadata"]
    return (
        known is not None
        and known.resource_version == int(metadata["resourceVersion"])
        and known.uid == metadata["uid"]
    )
