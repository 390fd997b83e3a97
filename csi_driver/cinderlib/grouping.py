"""Driver calls on groups, exactly as Cinder's manager makes them.

Called by ``group``.  Every function answers None when the driver leaves the work to
the caller (NotImplementedError, the answer of Cinder's base driver): Cinder then goes
from volume to volume, and so does ``group``.  Source: ``VolumeManager.create_group``,
``update_group``, ``delete_group``, ``create_group_from_src``, ``create_group_snapshot``
and ``delete_group_snapshot``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from csi_driver.cinderlib.manager import VolumeManager
from csi_driver.cinderlib.persistence.records import (
    GroupRecord,
    GroupSnapshotRecord,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.cinderlib.runtime import ovo
from csi_driver.cinderlib.runtime.calls import Call, Part

M = TypeVar("M", VolumeRecord, SnapshotRecord)

CONSISTENT = "consistent_group_snapshot_enabled"
"""The spec of a group type, and the capability of a backend: snapshots of one moment."""

_FAILED = ("error", "error_deleting")


@dataclass(frozen=True)
class Outcome(Generic[M]):
    """What a driver made of a group.

    :param failed: whether it says so of the group or of any member.
    :param provider: the group's provider fields.
    :param members: the changed records, each with the status that the driver told ('' for
        none), in the order of the call.
    """

    failed: bool
    provider: dict[str, Any]
    members: tuple[tuple[M, str], ...] = ()


def is_consistent(specs: Mapping[str, str]) -> bool:
    """Whether a group type asks for snapshots of one moment; as Cinder reads it.  Pure."""
    return specs.get(CONSISTENT) == "<is> True"


def can_be_consistent(manager: VolumeManager) -> bool:
    """Whether the backend says that it makes snapshots of one moment."""
    reported = manager.stats().reported
    return any(bool(each.get(CONSISTENT)) for each in (reported, *reported["pools"]))


def create(manager: VolumeManager, group: GroupRecord) -> Outcome[VolumeRecord] | None:
    """``driver.create_group``."""
    with manager.call() as call:
        part = call.group(group)
        try:
            update = manager.driver.create_group(call.context, part.object)
        except NotImplementedError:
            return None
        return _outcome(part, update, [], None)


def update(
    manager: VolumeManager,
    group: GroupRecord,
    add: Sequence[VolumeRecord],
    remove: Sequence[VolumeRecord],
) -> Outcome[VolumeRecord] | None:
    """``driver.update_group``; the members of the outcome are those added, then removed."""
    with manager.call() as call:
        part = call.group(group)
        added, removed = _volumes(call, add), _volumes(call, remove)
        try:
            told, of_added, of_removed = manager.driver.update_group(
                call.context,
                part.object,
                add_volumes=[one.object for one in added],
                remove_volumes=[one.object for one in removed],
            )
        except NotImplementedError:
            return None
        return _outcome(part, told, [*added, *removed], [*(of_added or ()), *(of_removed or ())])


def delete(
    manager: VolumeManager, group: GroupRecord, volumes: Sequence[VolumeRecord]
) -> Outcome[VolumeRecord] | None:
    """``driver.delete_group``, which deletes the volumes too."""
    with manager.call() as call:
        part, members = call.group(group), _volumes(call, volumes)
        objects = [one.object for one in members]
        try:
            told, of_members = manager.driver.delete_group(call.context, part.object, objects)
        except NotImplementedError:
            return None
        return _outcome(part, told, members, of_members)


def create_from(
    manager: VolumeManager,
    group: GroupRecord,
    volumes: Sequence[VolumeRecord],
    sources: Sequence[VolumeRecord] | Sequence[SnapshotRecord],
    origin: tuple[GroupSnapshotRecord, GroupRecord] | GroupRecord,
) -> Outcome[VolumeRecord] | None:
    """``driver.create_group_from_src``; ``sources`` in the order of ``volumes``.

    :param origin: the source: a group, or a group snapshot and its group.
    """
    with manager.call() as call:
        part, members = call.group(group), _volumes(call, volumes)
        cut = snapshots = source = originals = None
        if isinstance(origin, GroupRecord):
            source = call.group(origin).object
            originals = [call.volume(each).object for each in sources]  # type: ignore[arg-type]
        else:
            cut = call.group_snapshot(*origin).object
            snapshots = [call.snapshot(each).object for each in sources]  # type: ignore[arg-type]
        try:
            told, of_members = manager.driver.create_group_from_src(
                call.context,
                part.object,
                [one.object for one in members],
                cut,
                snapshots,
                source,
                originals,
            )
        except NotImplementedError:
            return None
        return _outcome(part, told, members, of_members)


def create_snapshot(
    manager: VolumeManager,
    cut: GroupSnapshotRecord,
    group: GroupRecord,
    snapshots: Sequence[SnapshotRecord],
) -> Outcome[SnapshotRecord] | None:
    """``driver.create_group_snapshot``."""
    return _of_snapshots(manager, "create_group_snapshot", cut, group, snapshots)


def delete_snapshot(
    manager: VolumeManager,
    cut: GroupSnapshotRecord,
    group: GroupRecord,
    snapshots: Sequence[SnapshotRecord],
) -> Outcome[SnapshotRecord] | None:
    """``driver.delete_group_snapshot``."""
    return _of_snapshots(manager, "delete_group_snapshot", cut, group, snapshots)


def _of_snapshots(
    manager: VolumeManager,
    operation: str,
    cut: GroupSnapshotRecord,
    group: GroupRecord,
    snapshots: Sequence[SnapshotRecord],
) -> Outcome[SnapshotRecord] | None:
    with manager.call() as call:
        part = call.group_snapshot(cut, group)
        members = [call.snapshot(each, own=True) for each in snapshots]
        objects = [one.object for one in members]
        try:
            told, of_members = getattr(manager.driver, operation)(
                call.context, part.object, objects
            )
        except NotImplementedError:
            return None
        return _outcome(part, told, members, of_members)


def remove_export(manager: VolumeManager, volume: VolumeRecord) -> None:
    """What Cinder does before it deletes a volume of a group itself."""
    with manager.call() as call:
        manager.driver.remove_export(call.context, call.volume(volume, ()).object)


def _volumes(call: Call, records: Sequence[VolumeRecord]) -> list[Part[VolumeRecord]]:
    return [call.volume(record, own=True) for record in records]


def _outcome(
    part: Part[Any],
    told: Mapping[str, Any] | None,
    members: Sequence[Part[M]],
    updates: Sequence[Mapping[str, Any]] | None,
) -> Outcome[M]:
    by_id = {str(each["id"]): dict(each) for each in updates or ()}
    failed = (told or {}).get("status") in _FAILED
    changed: list[tuple[M, str]] = []
    for member in members:
        update = by_id.get(member.object.id, {})
        update.pop("id", None)
        status = str(update.pop("status", None) or "")
        failed = failed or status in _FAILED
        if status != "deleted":
            ovo.take_over(member.object, update)
        changed.append((member.changed(), status))
    replication = (told or {}).get("replication_status")
    provider = dict(getattr(part.record, "provider", {}))
    if replication:
        provider["replication_status"] = replication
    return Outcome(failed, provider, tuple(changed))
