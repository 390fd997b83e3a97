"""All records of a store as one file: JSON lines, with a header and a checksum.

Written and read by ``cinder-csi records``; knows no store.  The first line is a
:class:`Header`, each further one a record under its kind, the last one an :class:`End` with
the checksum of all bytes before it::

    {"cinder_csi_records":1,"driver":"csi.cinderlib.io","counts":{"volume":1},...}
    {"volume":{"id":"9c4e3878-...",...}}
    {"end":1,"sha256":"..."}

Secrets are sealed in it as they are in a store.  What it does not know it refuses: a field
that is dropped on the way would be lost.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from csi_driver.cinderlib.persistence import codec
from csi_driver.cinderlib.persistence.records import RECORD_TYPES, Record, without_version
from csi_driver.cinderlib.persistence.store import StoreCorrupt, StoreTooNew

FORMAT = 1
"""Raised when an older program could no longer understand the file."""

_KINDS: dict[str, type[Record]] = {kind.KIND: kind for kind in RECORD_TYPES}

_TAKE_ANOTHER = "Nothing was changed; take another copy of the file, or an older backup"


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What the records are, and of when.

    :ivar cinder_csi_records: the format of the file.
    :ivar program: version of the program that wrote it.
    :ivar made_at: the moment that the records are of: UTC, as ISO 8601.
    :ivar store: the kind of store that they come from; for people.
    :ivar while_running: a controller may have worked then and may have worked on since.
    :ivar counts: how many records there are of each kind.
    :ivar records_keys: ids of the keys that seal parts of records, and how many parts each.
    :ivar transport_keys: ids of the keys that seal publish_contexts, and how many each.
    """

    cinder_csi_records: int
    program: str
    made_at: str
    installation_id: str
    driver: str
    store: str
    while_running: bool
    counts: dict[str, int]
    records_keys: dict[str, int]
    transport_keys: dict[str, int]


class End(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last line: the number of records, and the checksum of all bytes before this line."""

    end: int
    sha256: str


class _Format(msgspec.Struct, frozen=True):
    """Of a header what every version can read."""

    cinder_csi_records: int
    program: str = "unknown"


@dataclass(frozen=True)
class Export:
    """A file that was read: whole, and understood to its last field.

    :ivar sha256: of the records; tells the file from every other.
    """

    header: Header
    records: tuple[Record, ...]
    sha256: str


def compose(header: Header, records: Iterable[Record]) -> bytes:
    """The content of the file; the records lose their versions, which belong to a store."""
    lines = [msgspec.json.encode(header)]
    for record in records:
        body = codec.encode(without_version(record))
        lines.append(b'{"%s":%s}' % (record.KIND.encode(), body))
    body = b"\n".join(lines) + b"\n"
    end = End(end=len(lines) - 1, sha256=hashlib.sha256(body).hexdigest())
    return body + msgspec.json.encode(end) + b"\n"


def parse(content: bytes, name: str) -> Export:
    """What :func:`compose` was given.

    :param name: of the file, for messages.
    :raises StoreCorrupt: it is no such file, or not all of it, or was changed since.
    :raises StoreTooNew: a newer program wrote it.
    """
    try:
        content.decode()
        return _parsed(content, name)
    except (UnicodeDecodeError, RecursionError) as error:
        raise StoreCorrupt(
            f"{name} is no export of records, or is truncated or was changed since",
            advice="Name a file that cinder-csi records export wrote, or take another copy",
        ) from error


def _parsed(content: bytes, name: str) -> Export:
    first, _, _ = content.partition(b"\n")
    header = _header(first, name)
    body, last = _split(content)
    end = _end(last, name)
    if hashlib.sha256(body).hexdigest() != end.sha256:
        raise StoreCorrupt(
            f"{name} was changed since it was written: its checksum is another",
            advice=_TAKE_ANOTHER,
        )
    lines = body.splitlines()[1:]
    records = tuple(_record(line, f"Line {n} of {name}") for n, line in enumerate(lines, start=2))
    if counted(records) != header.counts or len(records) != end.end:
        raise StoreCorrupt(f"{name} has other numbers of records than it says")
    return Export(header, records, end.sha256)


def counted(records: Sequence[Record]) -> dict[str, int]:
    """How many records there are of each kind, in the order of kinds."""
    found = Counter(record.KIND for record in records)
    return {kind: found[kind] for kind in _KINDS if found[kind]}


def _header(line: bytes, name: str) -> Header:
    try:
        form = msgspec.json.decode(line, type=_Format)
    except msgspec.DecodeError as error:
        raise StoreCorrupt(
            f"{name} is no export of records",
            advice="Name a file that cinder-csi records export wrote",
        ) from error
    if form.cinder_csi_records != FORMAT:
        raise StoreTooNew(
            f"{name} has format {form.cinder_csi_records} and was written by version"
            f" {form.program}; this program knows format {FORMAT}",
            advice="Run that version of the program; nothing was changed",
        )
    try:
        return msgspec.json.decode(line, type=Header)
    except msgspec.DecodeError as error:
        raise StoreCorrupt(f"The header of {name} is damaged: {error}") from error


def _split(content: bytes) -> tuple[bytes, bytes]:
    """All lines but the last one, and the last one."""
    start = content.rstrip(b"\n").rfind(b"\n") + 1
    return content[:start], content[start:]


def _end(line: bytes, name: str) -> End:
    try:
        return msgspec.json.decode(line, type=End)
    except msgspec.DecodeError as error:
        raise StoreCorrupt(
            f"{name} does not end as an export does: it is truncated or was changed",
            advice=_TAKE_ANOTHER,
        ) from error


def _record(line: bytes, place: str) -> Record:
    try:
        found: dict[str, msgspec.Raw] = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
        ((kind, body),) = found.items()
    except (msgspec.DecodeError, ValueError) as error:
        raise StoreCorrupt(f"{place} is no record") from error
    if kind not in _KINDS:
        raise _too_new(f"{place} is a {kind}, which this program does not know")
    record: Record = codec.decode(_KINDS[kind], bytes(body))
    if names := ", ".join(sorted(_unknown(body, record))):
        raise _too_new(
            f"{place}, the {kind} {record.id}, has fields that this program does not know: {names}"
        )
    return record


def _unknown(body: bytes, record: Record) -> list[str]:
    """Names of the fields that the record did not keep, or kept as unknown ones."""
    given, kept = (msgspec.json.decode(each) for each in (body, codec.encode(record)))
    return [*(record.unknown_fields or ()), *_dropped(given, kept)]


def _dropped(given: Any, kept: Any, place: str = "") -> Iterator[str]:
    if isinstance(given, dict) and isinstance(kept, dict):
        for name, value in given.items():
            if name not in kept:
                yield place + name
            else:
                yield from _dropped(value, kept[name], f"{place}{name}.")


def _too_new(message: str) -> StoreTooNew:
    return StoreTooNew(
        message, advice="Run the version that wrote the file, or a newer one; nothing was changed"
    )
