"""Whether the records of a store, or of a file, are whole and fit together.

Used by ``cinder-csi records``; pure.  What a volume was made from is not looked for: a copy
outlives its source.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from csi_driver.base import publish_context
from csi_driver.base.errors import CinderCSIError, SealError
from csi_driver.base.publish_context import KEY
from csi_driver.base.sealing import KeyRing, key_id_of
from csi_driver.cinderlib.persistence import sealed
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    GroupRecord,
    GroupSnapshotRecord,
    Record,
    SnapshotRecord,
    VolumeRecord,
)

_REFERENCES: dict[type[Record], dict[str, type[Record]]] = {
    VolumeRecord: {"group_id": GroupRecord},
    SnapshotRecord: {"volume_id": VolumeRecord, "group_snapshot_id": GroupSnapshotRecord},
    GroupSnapshotRecord: {"group_id": GroupRecord},
    ConnectionRecord: {"volume_id": VolumeRecord},
}
"""Fields that hold the id of another record, or nothing."""

_NAMED = 3
"""Records that a line names at most."""


def problems(records: Sequence[Record]) -> list[str]:
    """What is wrong with records that belong together, a sentence for each."""
    return [*_twice(records), *_without_target(records), *_on_one_object(records)]


def seal_problems(
    records: Sequence[Record],
    records_ring: KeyRing | None,
    transport_ring: KeyRing | None,
    driver: str,
) -> list[str]:
    """What of the records cannot be opened, a sentence for each key or record.

    :param records_ring: the keys at hand; None: there are none.
    :param transport_ring: the same for publish_contexts; None: they are not looked into.
    """
    lacking: dict[str, list[Record]] = defaultdict(list)
    found = []
    for record in records:
        try:
            if sealed.has_clear_secret(record):
                found.append(f"{_name(record)} holds a secret in clear")
            unknown = _unknown_keys(record, records_ring)
            for key_id in unknown:
                lacking[key_id].append(record)
            if records_ring is not None and not unknown:
                sealed.require_openable(record, records_ring)
        except SealError as error:
            found.append(error.message)
    for key_id, its in lacking.items():
        found.append(f"The records key {key_id} is not at hand: it seals parts of {_names(its)}")
    if transport_ring is not None:
        found += _context_problems(records, transport_ring, driver)
    return found


def transport_keys(records: Sequence[Record]) -> dict[str, int]:
    """Ids of the keys that publish_contexts are sealed with, and how many each.

    :raises SealError: one is not sealed.
    """
    contexts = (each.publish_context for each in records if isinstance(each, ConnectionRecord))
    return dict(Counter(key_id_of(each[KEY]) for each in contexts if KEY in each))


def _twice(records: Sequence[Record]) -> Iterator[str]:
    numbers = Counter((record.KIND, record.id) for record in records)
    for (kind, record_id), number in numbers.items():
        if number > 1:
            yield f"There are {number} {kind} records {record_id}"


def _without_target(records: Sequence[Record]) -> Iterator[str]:
    there = {(type(record), record.id) for record in records}
    for record in records:
        for field, target in _REFERENCES.get(type(record), {}).items():
            wanted = getattr(record, field)
            if wanted and (target, wanted) not in there:
                yield f"{_name(record)} names the {target.KIND} {wanted}, which is not there"


def _on_one_object(records: Sequence[Record]) -> Iterator[str]:
    """Two records that stand for one thing on a backend: a deletion takes both away."""
    standing: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        if isinstance(record, VolumeRecord | SnapshotRecord):
            standing[record.KIND, record.backend, record.cinder_id].append(record)
    for (_, backend, cinder_id), its in standing.items():
        if len(its) > 1:
            yield f"{_names(its)} have one Cinder id, {cinder_id}, on backend {backend}"


def _unknown_keys(record: Record, ring: KeyRing | None) -> set[str]:
    known = ring.keys.keys() if ring else set()
    return set(sealed.keys_of([record])) - set(known)


def _context_problems(records: Sequence[Record], ring: KeyRing, driver: str) -> Iterator[str]:
    for record in records:
        if isinstance(record, ConnectionRecord) and KEY in record.publish_context:
            try:
                publish_context.open_context(
                    record.publish_context, ring, driver, record.volume_id, record.node_id
                )
            except CinderCSIError as error:
                yield f"The publish_context of {_name(record)} does not open: {error.message}"


def _names(records: Sequence[Record]) -> str:
    named = ", ".join(_name(each) for each in records[:_NAMED])
    more = len(records) - _NAMED
    return named + (f" and {more} more" if more > 0 else "")


def _name(record: Record) -> str:
    return f"{record.KIND} {record.id}"
