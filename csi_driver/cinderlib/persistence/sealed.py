"""Seals the secret parts of records between a store and its callers.

Put around a store by ``factory`` and by whoever opens one with a key ring of its
own.  Callers see records in clear, the store sees sealed text: neither knows of it,
and every store keeps secrets the same way.  What is sealed:

=================================  ==================================================
of a record                        why
=================================  ==================================================
volume, snapshot: ``provider``     provider_auth (CHAP), replication_driver_data and
                                   what else has a secret's name; the rest, names and
                                   paths on the array, stays readable for people
volume, snapshot: metadata         what drivers put there under a secret's name
connection: ``connection_info``,   credentials under any name: the whole of it
``attach_info``
connection: ``connector``          what has a secret's name
late_attempt: ``objects``          volume or snapshot of an attempt: the whole of it
key_value: ``value``               CHAP secrets of initiators: the whole of it
=================================  ==================================================

A connection's ``publish_context`` is sealed already, with the transport keys.  Sealed
text is bound to kind, id and field of its record: copied into another record, it does
not open.  Records from before a store was sealed are read as they are and sealed when
they are written next, at the latest by :meth:`SealedStore.reseal`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import msgspec

from csi_driver.base.errors import SealError
from csi_driver.base.masking import SECRETS, is_secret_name
from csi_driver.base.sealing import KeyRing, key_id_of
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    KeyValueRecord,
    LateAttemptRecord,
    Record,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.cinderlib.persistence.store import RecordConflict, RecordStore, pages

R = TypeVar("R", bound=Record)

Keys = Callable[[], KeyRing]
"""Gives the current records keys.  Asked only where something is sealed or opened, since it
looks at a file each time, and once for all that one call returns.
"""

WHOLE: dict[type[Record], tuple[str, ...]] = {
    ConnectionRecord: ("connection_info", "attach_info"),
    LateAttemptRecord: ("objects",),
    KeyValueRecord: ("value",),
}
"""Fields that are sealed with all that is in them."""

NAMED: dict[type[Record], tuple[str, ...]] = {
    VolumeRecord: ("provider", "metadata", "admin_metadata"),
    SnapshotRecord: ("provider", "metadata"),
    ConnectionRecord: ("connector",),
}
"""Fields, all of them mappings, of which the secret entries are sealed."""

_SECRET_FIELDS = frozenset({"replication_driver_data"})
"""Secret entries that their name does not tell."""

_MARK = "sealed:"
_WRITERS = 32
"""Threads that write what is sealed anew: a store flushes many changes as one."""

_ADVICE = (
    "Restore keys/records.json of the state directory from a backup; the record was not changed"
)


class SealedStore(RecordStore):
    """A record store that keeps no secret in clear.

    :param inner: the store; closed with this one.
    :param keys: gives the current records keys; asked at each use of one.

    Every method that reads raises SealError, besides its own errors, when a record was
    sealed with a key that is not in the ring, or for another record.
    """

    def __init__(self, inner: RecordStore, keys: Keys) -> None:
        self._inner = inner
        self._keys = keys
        self.installation_id = inner.installation_id
        self.fresh = inner.fresh
        self.lasting = inner.lasting

    def get(self, kind: type[R], record_id: str) -> R | None:
        """See :meth:`RecordStore.get`."""
        found = self._inner.get(kind, record_id)
        return None if found is None else _opened(found, self._keys)

    def put(self, record: R) -> R:
        """See :meth:`RecordStore.put`."""
        return _opened(self._inner.put(_sealed(record, self._keys)), self._keys)

    def delete(self, record: Record) -> None:
        """See :meth:`RecordStore.delete`."""
        self._inner.delete(record)

    def replace(self, old: Record, new: R) -> R:
        """See :meth:`RecordStore.replace`."""
        return _opened(self._inner.replace(old, _sealed(new, self._keys)), self._keys)

    def list(
        self,
        kind: type[R],
        *,
        where: Mapping[str, str] | None = None,
        after: str = "",
        limit: int | None = None,
    ) -> list[R]:
        """See :meth:`RecordStore.list`."""
        found = self._inner.list(kind, where=where, after=after, limit=limit)
        keys = cache(self._keys) if found else self._keys
        return [_opened(record, keys) for record in found]

    def adopt(self, installation_id: str) -> None:
        """See :meth:`RecordStore.adopt`."""
        self._inner.adopt(installation_id)
        self.installation_id = installation_id

    def close(self) -> None:
        """See :meth:`RecordStore.close`."""
        self._inner.close()

    def reseal(self) -> int:
        """Seal with the current key what is in clear or sealed with an older key.

        Changes the versions of those records: for the start, before anybody plans on
        one.  May be broken off at any time.

        :returns: how many records were written.
        :raises SealError: a record cannot be opened; those before it are done.
        """
        keys = cache(self._keys)
        written = 0
        with ThreadPoolExecutor(_WRITERS, "reseal") as pool:
            for page in pages(self._inner):
                stale = [record for record in page if _is_stale(record, keys)]
                written += sum(pool.map(lambda record: self._reseal(record, keys), stale))
        return written

    def keys_in_use(self) -> Counter[str]:
        """See :func:`keys_in_use`."""
        return keys_in_use(self._inner)

    def _reseal(self, record: Record, keys: Keys) -> bool:
        try:
            self._inner.put(_sealed(_opened(record, keys), keys))
        except RecordConflict:
            return False  # somebody wrote it meanwhile, and that sealed it
        return True


def keys_in_use(store: RecordStore) -> Counter[str]:
    """Ids of the records keys that something in ``store`` is sealed with, and how often.

    :param store: the store itself, as sealed records lie in it.
    """
    return keys_of(record for page in pages(store) for record in page)


def keys_of(records: Iterable[Record]) -> Counter[str]:
    """Ids of the records keys that something in ``records`` is sealed with, and how often.

    :param records: as they lie in their store, sealed.
    """
    return Counter(key_id_of(text) for record in records for _, text in _sealed_places(record))


def has_clear_secret(record: Record) -> bool:
    """Whether a record, as it lies in a store, holds something unsealed that is to be sealed."""
    return any(_sealed_text(place.value) is None for place in _places(record))


def require_openable(record: Record, ring: KeyRing) -> None:
    """Open every sealed part of a record, as it lies in a store, and forget it again.

    :raises SealError: one does not open.
    """
    for place, text in _sealed_places(record):
        _open(record, place, text, ring)


@dataclass(frozen=True)
class _Place:
    """A secret part of a record: an entry of a field, or with key None the whole field."""

    field: str
    key: str | None
    value: Any

    def bound_to(self, record: Record) -> tuple[str, ...]:
        whole_or_entry = () if self.key is None else (self.key,)
        return record.KIND, record.id, self.field, *whole_or_entry


def _places(record: Record) -> Iterator[_Place]:
    """The secret parts of a record, sealed or in clear; nothing in a part is no secret."""
    for field in WHOLE.get(type(record), ()):
        value = getattr(record, field)
        if value not in (None, "", {}, []):
            yield _Place(field, None, value)
    for field in NAMED.get(type(record), ()):
        for key, value in getattr(record, field).items():
            # What looks sealed is sealed again, so that no value can pass for sealed text.
            marked = isinstance(value, str) and value.startswith(_MARK)
            if value and (marked or key in _SECRET_FIELDS or is_secret_name(key)):
                yield _Place(field, key, value)


def _sealed_places(record: Record) -> Iterator[tuple[_Place, str]]:
    """The parts of a stored record that are sealed, each with its sealed text."""
    for field in WHOLE.get(type(record), ()):
        value = getattr(record, field)
        if (text := _sealed_text(value)) is not None:
            yield _Place(field, None, value), text
    for field in NAMED.get(type(record), ()):
        for key, value in getattr(record, field).items():
            if (text := _sealed_text(value)) is not None:
                yield _Place(field, key, value), text


def _sealed(record: R, keys: Keys) -> R:
    places = list(_places(record))
    if not places:
        return record
    ring = keys()
    changes: dict[str, Any] = {}
    for place in places:
        _learn(place)
        text = ring.seal(msgspec.json.encode(place.value), place.bound_to(record))
        _put_in(changes, record, place, {_MARK: text} if place.key is None else _MARK + text)
    return msgspec.structs.replace(record, **changes)


def _opened(record: R, keys: Keys) -> R:
    places = list(_sealed_places(record))
    if not places:
        return record
    ring = keys()
    changes: dict[str, Any] = {}
    for place, text in places:
        value = _open(record, place, text, ring)
        _learn(_Place(place.field, place.key, value))
        _put_in(changes, record, place, value)
    return msgspec.structs.replace(record, **changes)


def _open(record: Record, place: _Place, text: str, ring: KeyRing) -> Any:
    try:
        return msgspec.json.decode(ring.open(text, place.bound_to(record)))
    except SealError as error:
        what = place.field if place.key is None else place.key
        raise SealError(
            f"{what} of the {record.KIND} record {record.id!r} cannot be opened: {error.message}",
            advice=_ADVICE,
        ) from error


def _put_in(changes: dict[str, Any], record: Record, place: _Place, value: Any) -> None:
    if place.key is None:
        changes[place.field] = value
        return
    entries = changes.setdefault(place.field, dict(getattr(record, place.field)))
    entries[place.key] = value


def _sealed_text(value: Any) -> str | None:
    """The sealed text in a part of a stored record; None when it is in clear."""
    if isinstance(value, str) and value.startswith(_MARK):
        return value.removeprefix(_MARK)
    if isinstance(value, dict) and value.keys() == {_MARK}:
        return str(value[_MARK])
    return None


def _is_stale(record: Record, keys: Keys) -> bool:
    texts = (_sealed_text(place.value) for place in _places(record))
    return any(text is None or key_id_of(text) != keys().current for text in texts)


def _learn(place: _Place) -> None:
    """Let no log show what is sealed."""
    SECRETS.learn_named(place.value if place.key is None else {place.key: place.value})
