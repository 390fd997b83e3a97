"""From records to JSON and back, the same way in every store.

Used by ``memory`` and ``database``.  Both keep JSON and decode it anew for every
reader, so nobody ever holds an instance that the store holds, and what one store
cannot keep (a set, say) no store keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TypeVar

import msgspec

from csi_driver.base.errors import InvalidRequest
from csi_driver.cinderlib.persistence.records import Record
from csi_driver.cinderlib.persistence.store import StoreCorrupt

R = TypeVar("R", bound=Record)


LONGEST = 1000
"""Bytes of an id and of an indexed field: what every database can index."""


def encode(record: Record) -> bytes:
    """The record as JSON.

    :raises TypeError: it holds something that JSON has no place for.
    """
    unknown = record.unknown_fields
    if not unknown:
        return msgspec.json.encode(record)
    known = msgspec.json.encode(msgspec.structs.replace(record, unknown_fields=msgspec.UNSET))
    return known[:-1] + b"," + msgspec.json.encode(unknown)[1:]


def decode(kind: type[R], body: bytes | str) -> R:
    """The record that ``encode`` was given.

    Fields that this version does not know are kept in ``unknown_fields``.

    :raises StoreCorrupt: ``body`` is not such a record.
    """
    try:
        try:
            record: R = _decoder(kind).decode(body)
        except msgspec.ValidationError:
            # Structs of msgspec would drop what they do not know; these refuse it.
            record = _of_newer_version(kind, body)
    except msgspec.DecodeError as error:
        raise StoreCorrupt(f"A stored {kind.KIND} record cannot be understood: {error}") from error
    return record


def _of_newer_version(kind: type[R], body: bytes | str) -> R:
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    unknown = {name: fields.pop(name) for name in list(fields) if name not in _names(kind)}
    record: R = _decoder(kind).decode(msgspec.json.encode(fields))
    return msgspec.structs.replace(record, unknown_fields=unknown)


def require_storable(record: Record) -> dict[str, str]:
    """Refuse what some store has no place for, so that all stores take the same.

    :returns: the :func:`indexed_values`, which were looked at.
    :raises InvalidRequest: the id or an indexed field is too long to be indexed, or has a
        null character, which PostgreSQL does not take.
    """
    indexed = indexed_values(record)
    together = "".join((record.id, *indexed.values()))
    # Four bytes to a character at most: what is short is not counted.
    if len(together) <= LONGEST // 4 and "\0" not in together:
        return indexed
    for field, value in {"id": record.id, **indexed}.items():
        if len(value) > LONGEST // 4 and (length := len(value.encode())) > LONGEST:
            raise InvalidRequest(
                f"{field} of a {record.KIND} has {length} bytes", advice=f"At most {LONGEST}"
            )
        if "\0" in value:
            raise InvalidRequest(f"{field} of a {record.KIND} has a null character")
    return indexed


def indexed_values(record: Record) -> dict[str, str]:
    """The fields that ``list`` can select by, as text."""
    return {field: str(getattr(record, field)) for field in record.INDEXED}


def selection(kind: type[Record], where: Mapping[str, str] | None) -> dict[str, str]:
    """``where`` as stored text, once it names indexed fields only.

    :raises ValueError: it names another field.
    """
    selected = {field: str(value) for field, value in (where or {}).items()}
    for field in selected:
        if field not in kind.INDEXED:
            raise ValueError(f"{kind.KIND} records cannot be selected by {field!r}")
    return selected


@cache
def _names(kind: type[Record]) -> frozenset[str]:
    return frozenset(kind.__struct_fields__)


# The decoder of a type is costly to make and safe to share between threads.
@cache
def _decoder(kind: type[R]) -> msgspec.json.Decoder[R]:
    return msgspec.json.Decoder(kind)
