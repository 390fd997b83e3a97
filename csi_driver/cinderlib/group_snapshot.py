"""Snapshots of all volumes of a group; see ``group`` for how drivers are asked."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

import msgspec

from csi_driver.cinderlib import grouping, session
from csi_driver.cinderlib.entity import Entity
from csi_driver.cinderlib.exceptions import (
    GroupFailed,
    GroupSnapshotNotFound,
    InvalidVolume,
    OperationNotSupported,
)
from csi_driver.cinderlib.fields import checked_id
from csi_driver.cinderlib.group import Group
from csi_driver.cinderlib.group_members import (
    check,
    copied,
    delete_snapshot,
    each,
    inconsistent,
    locked,
    make_snapshot,
)
from csi_driver.cinderlib.persistence.records import GroupSnapshotRecord, Phase
from csi_driver.cinderlib.snapshot import Snapshot
from csi_driver.cinderlib.volume import Volume


class GroupSnapshot(Entity[GroupSnapshotRecord]):
    """Snapshots of all volumes of a group."""

    _RECORD = GroupSnapshotRecord
    _NOT_FOUND = GroupSnapshotNotFound
    _PARENT = "group_id"
    FIELDS = ("id", "name", "description", "status", "group_id")

    def __init__(self, group: Group, *, name: str = "", description: str = "") -> None:
        super().__init__(
            GroupSnapshotRecord(
                id=checked_id(None),
                name=name,
                description=description,
                group_id=group.id,
                backend=group._record.backend,
                phase=Phase.CREATING,
                cinder_id=str(uuid.uuid4()),
                created_at=time.time(),
            )
        )

    @property
    def _locked_by(self) -> str:
        return self._record.group_id

    @property
    def name(self) -> str:
        """The name given to the group snapshot."""
        return self._record.name

    @property
    def description(self) -> str:
        """The description given to the group snapshot."""
        return self._record.description

    @property
    def status(self) -> str:
        """Cinder's word for the group snapshot's state."""
        return "deleted" if self._gone else str(self._record.phase.value)

    @property
    def group_id(self) -> str:
        """The id of the group."""
        return self._record.group_id

    @property
    def group(self) -> Group:
        """The group, read anew."""
        return Group.get_by_id(self._record.group_id)

    @property
    def snapshots(self) -> list[Snapshot]:
        """The snapshots that it consists of, in the order of their ids."""
        found = session.current().lookup.snapshots_of_group_snapshot(self._record)
        return [Snapshot._of_record(record) for record in found]

    def create(self) -> None:
        """Make the snapshots, all of one moment where the group asks for that.

        :raises InvalidVolume: it exists, or the group is empty, or a volume not available.
        :raises OperationNotSupported: the driver makes no snapshots of one moment.
        """
        with self._exclusively():
            if self.stored:
                raise InvalidVolume(f"{self!r} exists", advice="Delete it and make another")
            group = self.group
            group._require_available()
            with group._all_volumes() as volumes:
                if not volumes:
                    raise InvalidVolume(f"{group!r} has no volumes")
                for volume in volumes:
                    volume._refresh_available()
                with self._operation("create", Phase.CREATING, Phase.ERROR):
                    self._create_all(group, [self._member(volume) for volume in volumes])
            self._put(phase=Phase.AVAILABLE, operation=None)

    def delete(self) -> None:
        """Delete the snapshots; after a failure the call may be repeated."""
        with self._exclusively():
            self._reread()
            group, snapshots = self.group, self.snapshots
            with locked(*(snapshot.volume for snapshot in snapshots)):
                with self._operation("delete", Phase.DELETING, Phase.ERROR):
                    self._delete_all(group, snapshots)
                self._remove()

    def create_group(self, name: str = "", description: str = "") -> Group:
        """Make a group whose volumes have the content of the snapshots."""
        with self._exclusively():
            self._reread()
            if self._record.phase is not Phase.AVAILABLE:
                raise InvalidVolume(f"{self!r} is {self._record.phase.value}, not available")
            snapshots = self.snapshots
            with locked(*(snapshot.volume for snapshot in snapshots)):
                sources: list[Volume | Snapshot] = list(snapshots)
                return copied(self.group, self, sources, name, description)

    # -- helpers ---------------------------------------------------------------

    def _member(self, volume: Volume) -> Snapshot:
        snapshot = Snapshot(volume, name=self.name, description=self.description)
        snapshot._record = msgspec.structs.replace(
            snapshot._record,
            group_snapshot_id=self.id,
            formatting=volume._record.formatting,
            encryption=volume._record.encryption,
        )
        return snapshot

    def _create_all(self, group: Group, snapshots: Sequence[Snapshot]) -> None:
        for snapshot in snapshots:
            snapshot._put(phase=Phase.CREATING)
        try:
            outcome = grouping.create_snapshot(
                self._manager, self._record, group._record, [s._record for s in snapshots]
            )
            if outcome is None and group.consistent:
                raise inconsistent(group)
        except Exception as error:
            for snapshot in snapshots:
                if isinstance(error, OperationNotSupported):
                    snapshot._remove()
                else:
                    snapshot._put(phase=Phase.ERROR)
            raise
        if outcome is None:
            each(snapshots, make_snapshot)
            return
        for snapshot, (record, status) in zip(snapshots, outcome.members, strict=True):
            snapshot._record = record
            good = status == "available" or (not status and not outcome.failed)
            snapshot._put(phase=Phase.AVAILABLE if good else Phase.ERROR)
        check(group, outcome)

    def _delete_all(self, group: Group, snapshots: Sequence[Snapshot]) -> None:
        for snapshot in snapshots:
            snapshot._put(phase=Phase.DELETING)
        try:
            outcome = grouping.delete_snapshot(
                self._manager, self._record, group._record, [s._record for s in snapshots]
            )
        except Exception:
            for snapshot in snapshots:
                snapshot._put(phase=Phase.ERROR)
            raise
        if outcome is None:
            each(snapshots, delete_snapshot)
            return
        for snapshot, (_, status) in zip(snapshots, outcome.members, strict=True):
            if status == "deleted" or (not status and not outcome.failed):
                snapshot._remove()
            else:
                snapshot._put(phase=Phase.AVAILABLE if status == "available" else Phase.ERROR)
        check(group, outcome)
        if any(not snapshot._gone for snapshot in snapshots):
            raise GroupFailed(f"Snapshots of {self!r} were not deleted")
