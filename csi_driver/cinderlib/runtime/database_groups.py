"""The stand-in database's functions on groups of volumes and group snapshots.

Collected by ``database``; each has the name and the parameters of Cinder's function.
A group type has no record: it is made from the specs of the group that has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from csi_driver.cinderlib.runtime import database_common as common
from csi_driver.cinderlib.runtime.directory import GROUP, GROUP_SNAPSHOT, directory
from csi_driver.cinderlib.runtime.rows import Row


def group_get(_context: Any, group_id: str) -> Row:
    """The row of a group."""
    return common.present(GROUP, group_id, directory.find(GROUP, group_id))


def group_update(_context: Any, group_id: str, values: Mapping[str, Any]) -> Row:
    """Keep changed columns of a group."""
    row = directory.change(GROUP, group_id, lambda _row: values)
    return common.present(GROUP, group_id, row)


def group_type_get(
    _context: Any, id: str, inactive: bool = False, expected_fields: Any = None
) -> Row:
    """A group type, made from the specs of the groups that have it."""
    found = directory.group_type(id)
    if found is None:
        raise common.cinder_exception("GroupTypeNotFound", group_type_id=id)
    return Row(found)


def group_snapshot_get(_context: Any, group_snapshot_id: str) -> Row:
    """The row of a group snapshot."""
    row = directory.find(GROUP_SNAPSHOT, group_snapshot_id)
    if row is None:
        raise common.cinder_exception("GroupSnapshotNotFound", group_snapshot_id=group_snapshot_id)
    return row


def group_snapshot_update(_context: Any, group_snapshot_id: str, values: Mapping[str, Any]) -> None:
    """Keep changed columns of a group snapshot."""
    directory.change(GROUP_SNAPSHOT, group_snapshot_id, lambda _row: values)


def group_snapshot_get_all_by_group(
    _context: Any, group_id: str, filters: Any = None, **_kwargs: Any
) -> list[Row]:
    """The rows of a group's snapshots."""
    common.refuse_filters("group_snapshot_get_all_by_group", filters)
    for member in directory.members():
        group = member.lookup.group_by_cinder_id(group_id)
        if group is not None and group.backend == member.backend:
            found = member.lookup.group_snapshots_of_group(group.id)
            return [member.group_snapshot_row(record, group) for record in found]
    return []


def volume_get_all_by_generic_group(_context: Any, group_id: str, filters: Any = None) -> list[Row]:
    """The rows of a group's volumes."""
    common.refuse_filters("volume_get_all_by_generic_group", filters)
    for member in directory.members():
        group = member.lookup.group_by_cinder_id(group_id)
        if group is not None and group.backend == member.backend:
            found = member.lookup.volumes_of_group(group)
            return [common.named_volume(member.volume_row(record)) for record in found]
    return []


def volume_get_all_by_group(_context: Any, _group_id: str, filters: Any = None) -> list[Row]:
    """No volume is in a consistency group of old."""
    return []


def volume_type_get_all_by_group(_context: Any, group_id: str) -> list[Row]:
    """The types of a group's volumes."""
    found = volume_get_all_by_generic_group(None, group_id)
    return list({row["volume_type_id"]: row["volume_type"] for row in found}.values())


def snapshot_get_all_for_group_snapshot(_context: Any, group_snapshot_id: str) -> list[Row]:
    """The rows of the snapshots that a group snapshot consists of."""
    for member in directory.members():
        cut = member.lookup.group_snapshot_by_cinder_id(group_snapshot_id)
        if cut is not None and cut.backend == member.backend:
            found = member.lookup.snapshots_of_group_snapshot(cut)
            return [common.named_snapshot(member.snapshot_row(record)) for record in found]
    return []
