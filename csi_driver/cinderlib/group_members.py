"""What is done with the members of a group: made, copied, deleted, locked.

Used by ``group`` and ``group_snapshot``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from csi_driver.cinderlib import grouping, session
from csi_driver.cinderlib.exceptions import GroupFailed, OperationNotSupported
from csi_driver.cinderlib.failures import FailureKind, classify
from csi_driver.cinderlib.persistence.records import (
    GroupSnapshotRecord,
    Phase,
    SnapshotRecord,
    Source,
    VolumeRecord,
)
from csi_driver.cinderlib.snapshot import Snapshot
from csi_driver.cinderlib.volume import Volume

if TYPE_CHECKING:
    from csi_driver.cinderlib.group import Group
    from csi_driver.cinderlib.group_snapshot import GroupSnapshot


def copied(
    group: Group,
    origin: Group | GroupSnapshot,
    sources: Sequence[Volume | Snapshot],
    name: str,
    description: str,
) -> Group:
    """A group made from another, or from a snapshot of it; the sources are locked."""
    from csi_driver.cinderlib.group import Group

    made = Group(group.backend, name=name, description=description, specs=group._record.specs)
    source = Source(kind=origin._record.KIND, id=origin.id)
    made._record = msgspec.structs.replace(made._record, source=source)
    with made._exclusively(), made._operation("create", Phase.CREATING, Phase.ERROR):
        copies = [_copy(made, one) for one in sources]
        records: list[Any] = [one._record for one in sources]
        try:
            outcome = grouping.create_from(
                made._manager,
                made._record,
                [copy._record for copy in copies],
                records,
                (origin._record, group._record)
                if isinstance(origin._record, GroupSnapshotRecord)
                else group._record,
            )
            if outcome is None and isinstance(origin, Group) and group.consistent:
                raise inconsistent(group)
        except Exception as error:
            for copy in copies:
                if isinstance(error, OperationNotSupported):
                    copy._remove()
                else:
                    copy._put(phase=Phase.ERROR)
            raise
        if outcome is None:
            pairs = dict(zip([copy.id for copy in copies], records, strict=True))
            each(copies, lambda copy: _make_volume(copy, pairs[copy.id]))
        else:
            for copy, (record, status) in zip(copies, outcome.members, strict=True):
                copy._record = record
                good = status == "available" or (not status and not outcome.failed)
                copy._put(phase=Phase.AVAILABLE if good else Phase.ERROR)
            check(made, outcome)
    made._ready(outcome)
    return made


def _copy(group: Group, source: Volume | Snapshot) -> Volume:
    """The record of a volume that is to be made, stored."""
    volume = source if isinstance(source, Volume) else source.volume
    like = volume._record
    copy = Volume(volume.backend, like.pool or None, size=source._record.size_gib)
    copy._record = msgspec.structs.replace(
        copy._record,
        name=like.name,
        extra_specs=like.extra_specs,
        qos_specs=like.qos_specs,
        multiattach=like.multiattach,
        availability_zone=like.availability_zone,
        bootable=like.bootable,
        source=Source(kind=source._record.KIND, id=source.id),
        formatting=source._record.formatting,
        encryption=source._record.encryption,
        group_id=group.id,
    )
    copy._put(phase=Phase.CREATING)
    return copy


def _make_volume(copy: Volume, source: VolumeRecord | SnapshotRecord) -> None:
    with copy._operation("create", Phase.CREATING, Phase.ERROR):
        made = copy._manager.create_volume(copy._record, source)
    copy._finish(made)


def make_snapshot(snapshot: Snapshot) -> None:
    """Make one snapshot, whose record is stored already, by a call of its own."""
    with snapshot._operation("create", Phase.CREATING, Phase.ERROR):
        record = snapshot._manager.create_snapshot(snapshot._record, snapshot.volume._record)
    snapshot._record = record
    snapshot._put(phase=Phase.AVAILABLE, operation=None)


def delete_volume(volume: Volume) -> None:
    """Delete one volume by calls of its own: as in Cinder its export goes first."""
    with volume._operation("delete", Phase.DELETING, Phase.ERROR):
        grouping.remove_export(volume._manager, volume._record)
        for cinder_id in (*volume._record.suspects, volume._record.cinder_id):
            volume._remove_attempt(cinder_id)
    volume._remove()


def delete_snapshot(snapshot: Snapshot) -> None:
    """Delete one snapshot by a call of its own."""
    with snapshot._operation("delete", Phase.DELETING, Phase.ERROR):
        for cinder_id in (*snapshot._record.suspects, snapshot._record.cinder_id):
            snapshot._remove_attempt(snapshot.volume, cinder_id)
    snapshot._remove()


def each(members: Sequence[Any], work: Any) -> None:
    """Do the work for every member, as Cinder does: one that fails stops no other.

    :raises: the first error, when all were tried.
    """
    first: Exception | None = None
    for member in members:
        try:
            work(member)
        except Exception as error:
            first = first or error
            if classify(error).kind is FailureKind.BUSY:
                member._put(phase=Phase.AVAILABLE)
    if first is not None:
        raise first


@contextmanager
def locked(*volumes: Volume) -> Iterator[None]:
    """Hold the locks of the volumes, taken in the order of their ids."""
    with ExitStack() as held:
        for volume_id in sorted({volume.id for volume in volumes}):
            held.enter_context(session.current().exclusive(volume_id))
        yield


def check(group: Group, outcome: grouping.Outcome[Any] | None) -> None:
    """Raise what a driver has only reported.

    :raises GroupFailed: it reports an error of the group or of a member.
    """
    if outcome is not None and outcome.failed:
        raise GroupFailed(
            f"The driver of backend {group._record.backend!r} reports an error for {group!r}"
        )


def inconsistent(group: Group) -> OperationNotSupported:
    """The refusal to do one by one what is to be of one moment."""
    return OperationNotSupported(
        f"Backend {group._record.backend!r} cannot copy the volumes of {group!r} at one moment,"
        f" which its spec {grouping.CONSISTENT} asks for",
        advice="Make the group without that spec: its volumes are then copied one by one",
    )
