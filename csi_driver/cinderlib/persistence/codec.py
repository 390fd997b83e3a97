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

from csi_driver.cinderlib.persistence.records import Record
from csi_driver.cinderlib.persistence.store import StoreCorrupt

R = TypeVar("R", bound=Record)


def encode(record: Record) -> bytes:
    """The record as JSON.

    :raises TypeError: it holds something that JSON has no place for.
    """
    return msgspec.json.encode(record)


def decode(kind: type[R], body: bytes | str) -> R:
    """The record that ``encode`` was given; fields that this version does not know are dropped.

    :raises StoreCorrupt: ``body`` is not such a record.
    """
    try:
        record: R = _decoder(kind).decode(body)
    except msgspec.DecodeError as error:
        raise StoreCorrupt(f"A stored {kind.KIND} record cannot be understood: {error}") from error
    return record


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


# The decoder of a type is costly to make and safe to share between threads.
@cache
def _decoder(kind: type[R]) -> msgspec.json.Decoder[R]:
    return msgspec.json.Decoder(kind)
