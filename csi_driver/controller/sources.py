"""The source of a new volume: found, and proved usable."""

from __future__ import annotations

from csi_driver.cinderlib.persistence.records import (
    Phase,
    SnapshotRecord,
    Source,
    VolumeRecord,
)
from csi_driver.controller import errors, pending
from csi_driver.controller.context import ControllerContext


def find_source(context: ControllerContext, source: Source) -> VolumeRecord | SnapshotRecord:
    """The record of the source.

    :raises SourceNotFound: it does not exist.
    :raises OperationInProgress: it is being made or deleted.
    """
    record: VolumeRecord | SnapshotRecord | None
    if source.kind == "volume":
        record = context.store.get(VolumeRecord, source.id)
    else:
        record = context.store.get(SnapshotRecord, source.id)
    if record is None:
        raise errors.SourceNotFound(f"The source {source.kind} {source.id!r} does not exist")
    if record.phase is not Phase.AVAILABLE:
        raise pending.busy(record, advice="The source cannot be copied now; retry")
    return record


def source_ids(source: Source | None) -> tuple[str, ...]:
    """The objects that must stay as they are while a volume is made from the source."""
    return (source.id,) if source else ()


def pool_of(context: ControllerContext, source: VolumeRecord | SnapshotRecord | None) -> str:
    """The pool of a copy: its source's, since few drivers copy from pool to pool."""
    if isinstance(source, SnapshotRecord):
        volume = context.store.get(VolumeRecord, source.volume_id)
        return volume.pool if volume is not None else ""
    return source.pool if source is not None else ""
