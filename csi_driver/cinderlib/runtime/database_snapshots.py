"""The stand-in database's functions on snapshots.

Collected by ``database``; each has the name and the parameters of Cinder's function.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from csi_driver.cinderlib.persistence.records import Phase
from csi_driver.cinderlib.runtime import database_common as common
from csi_driver.cinderlib.runtime import database_volumes as volumes
from csi_driver.cinderlib.runtime import rows
from csi_driver.cinderlib.runtime.directory import SNAPSHOT, directory
from csi_driver.cinderlib.runtime.rows import Row


def snapshot_get(_context: Any, snapshot_id: str) -> Row:
    """The row of a snapshot, as a row of Cinder has it: with names and its volume."""
    row = common.present(SNAPSHOT, snapshot_id, directory.find(SNAPSHOT, snapshot_id))
    return common.named_snapshot(row)


def snapshot_get_all_for_volume(_context: Any, volume_id: str) -> list[Row]:
    """The rows of a volume's snapshots."""
    for member in directory.members():
        volume = member.lookup.volume_by_cinder_id(volume_id)
        if volume is not None and volume.backend == member.backend:
            return [
                common.named_snapshot(member.snapshot_row(record, volume))
                for record in member.lookup.snapshots_of_volume(volume.id)
                if record.phase is not Phase.CREATING
            ]
    return []


def snapshot_get_latest_for_volume(_context: Any, volume_id: str) -> Row:
    """The row of a volume's youngest snapshot."""
    found = snapshot_get_all_for_volume(None, volume_id)
    if not found:
        raise common.cinder_exception("VolumeSnapshotNotFound", volume_id=volume_id)
    return max(found, key=lambda row: row["created_at"])


def snapshot_update(_context: Any, snapshot_id: str, values: Mapping[str, Any]) -> Row:
    """Keep changed columns of a snapshot."""
    row = directory.change(SNAPSHOT, snapshot_id, lambda _row: values)
    return common.present(SNAPSHOT, snapshot_id, row)


def snapshot_metadata_update(
    _context: Any, snapshot_id: str, metadata: Mapping[str, str], delete: bool
) -> dict[str, str]:
    """Change a snapshot's metadata; ``delete`` drops the keys that are not named."""
    return common.update_pairs(SNAPSHOT, snapshot_id, "snapshot_metadata", metadata, delete)


def snapshot_metadata_delete(_context: Any, snapshot_id: str, key: str) -> None:
    """Drop one key of a snapshot's metadata."""
    common.drop_pair(SNAPSHOT, snapshot_id, "snapshot_metadata", key)


def snapshot_create(_context: Any, values: Mapping[str, Any]) -> Row:
    """A row for a snapshot that a driver makes for the time of one call (a clone, mostly)."""
    columns = dict(values)
    row = Row(
        rows.Row.fromkeys(rows.PROVIDER_FIELDS),
        use_quota=False,
        deleted=False,
        volume=volumes.volume_get(None, columns["volume_id"]),
        snapshot_metadata=rows.merged([], columns.pop("metadata", None) or {}, replace=True),
    )
    row.update(columns, id=columns.get("id") or str(uuid.uuid4()))
    directory.add(SNAPSHOT, row)
    return Row(row)


def snapshot_destroy(_context: Any, snapshot_id: str) -> dict[str, Any]:
    """Forget a snapshot that a driver made for itself."""
    directory.drop(SNAPSHOT, snapshot_id)
    return {"status": "deleted", "deleted": True}
