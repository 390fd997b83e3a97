"""Groups of volumes.

Drivers that know groups are asked as Cinder asks them (``grouping``).  For the others the
work goes from volume to volume, unless the group asks for snapshots of one moment: then
it is refused.  Every volume and snapshot keeps a record of its own, so that a failure in
the middle leaves each saying what became of it; the group's says what was going on.

Locks: of the group first, then of its volumes in the order of their ids.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from csi_driver.cinderlib import grouping, session
from csi_driver.cinderlib.entity import Entity
from csi_driver.cinderlib.exceptions import GroupFailed, GroupNotFound, InvalidVolume
from csi_driver.cinderlib.fields import checked_id, texts
from csi_driver.cinderlib.group_members import (
    check,
    copied,
    delete_volume,
    each,
    inconsistent,
    locked,
)
from csi_driver.cinderlib.persistence.records import GroupRecord, Phase
from csi_driver.cinderlib.snapshot import Snapshot
from csi_driver.cinderlib.volume import Volume

if TYPE_CHECKING:
    from csi_driver.cinderlib.backend import Backend
    from csi_driver.cinderlib.group_snapshot import GroupSnapshot


class Group(Entity[GroupRecord]):
    """A group of volumes of one backend.

    :param specs: of the group's type; ``{"consistent_group_snapshot_enabled": "<is> True"}``
        asks for snapshots of one moment.
    """

    _RECORD = GroupRecord
    _NOT_FOUND = GroupNotFound
    FIELDS = ("id", "name", "description", "status", "specs")

    def __init__(
        self,
        backend: Backend,
        *,
        name: str = "",
        description: str = "",
        specs: Mapping[str, str] | None = None,
        id: str | None = None,
    ) -> None:
        super().__init__(
            GroupRecord(
                id=checked_id(id),
                name=name,
                description=description,
                backend=backend.id,
                phase=Phase.CREATING,
                cinder_id=str(uuid.uuid4()),
                created_at=time.time(),
                specs=texts("specs", specs or {}),
            )
        )

    @property
    def name(self) -> str:
        """The name given to the group."""
        return self._record.name

    @property
    def description(self) -> str:
        """The description given to the group."""
        return self._record.description

    @property
    def specs(self) -> dict[str, str]:
        """A copy of the specs of the group's type."""
        return dict(self._record.specs)

    @property
    def status(self) -> str:
        """Cinder's word for the group's state."""
        return "deleted" if self._gone else str(self._record.phase.value)

    @property
    def consistent(self) -> bool:
        """Whether its snapshots are of one moment."""
        return grouping.is_consistent(self._record.specs)

    @property
    def volumes(self) -> list[Volume]:
        """The volumes of the group, in the order of their ids."""
        found = session.current().lookup.volumes_of_group(self._record)
        return [Volume._of_record(record) for record in found]

    @property
    def snapshots(self) -> list[GroupSnapshot]:
        """The snapshots of the group."""
        from csi_driver.cinderlib.group_snapshot import GroupSnapshot

        found = session.current().lookup.group_snapshots_of_group(self.id)
        return [GroupSnapshot._of_record(record) for record in found]

    @classmethod
    def get_by_name(cls, name: str) -> list[Group]:
        """The groups with this name."""
        records = session.current().store.list(GroupRecord, where={"name": name})
        return [cls._of_record(record) for record in records]

    # -- its life --------------------------------------------------------------

    def create(self) -> None:
        """Make the group, without volumes.

        :raises InvalidVolume: it exists.
        :raises OperationNotSupported: it asks for snapshots of one moment, and the backend
            makes none.
        """
        with self._exclusively():
            if self.stored:
                raise InvalidVolume(f"{self!r} exists")
            if self.consistent and not grouping.can_be_consistent(self._manager):
                raise inconsistent(self)
            with self._operation("create", Phase.CREATING, Phase.ERROR):
                outcome = grouping.create(self._manager, self._record)
                check(self, outcome)
            self._ready(outcome)

    def update(self, add: Iterable[Volume] = (), remove: Iterable[Volume] = ()) -> None:
        """Take volumes into the group, and others out of it.

        After a failure, status *error*, it may be repeated with the same volumes: which
        of them are in the group is then as it was recorded before.

        :raises InvalidVolume: one is of another backend or group, or is not available.
        """
        adding, removing = list(add), list(remove)
        with self._exclusively(), locked(*adding, *removing):
            self._reread()
            operation = self._record.operation
            repeats = self._record.phase is Phase.ERROR and operation is not None
            if not (repeats and operation and operation.kind == "update"):
                self._require_available()
            entering = [one for one in adding if self._enters(one)]
            leaving = [one for one in removing if self._leaves(one)]
            if not entering and not leaving:
                self._ready(None)
                return
            wanted = {"add": [v.id for v in entering], "remove": [v.id for v in leaving]}
            with self._operation("update", Phase.AVAILABLE, Phase.ERROR, wanted=wanted):
                outcome = grouping.update(
                    self._manager,
                    self._record,
                    [volume._record for volume in entering],
                    [volume._record for volume in leaving],
                )
                check(self, outcome)
            if outcome is not None:
                changed = [record for record, _ in outcome.members]
                for volume, record in zip([*entering, *leaving], changed, strict=True):
                    volume._record = record
            for volume in entering:
                volume._put(group_id=self.id)
            for volume in leaving:
                volume._put(group_id="")
            self._ready(outcome)

    def delete(self, delete_volumes: bool = False) -> None:
        """Delete the group.

        What is left after a failure has the status *error* and is tried again when the
        call is repeated.

        :param delete_volumes: delete its volumes too; else it must have none.
        :raises InvalidVolume: it has snapshots; or it has volumes that are to stay, or
            that have snapshots or connections.
        """
        with self._exclusively(), self._all_volumes() as volumes:
            self._reread()
            if self.snapshots:
                raise InvalidVolume(f"{self!r} has snapshots", advice="Delete them first")
            if volumes and not delete_volumes:
                raise InvalidVolume(
                    f"{self!r} has volumes", advice="Take them out, or say delete_volumes=True"
                )
            for volume in volumes:
                volume._reread()
                volume._refuse_in_use()
            with self._operation("delete", Phase.DELETING, Phase.ERROR):
                self._delete_all(volumes)
            self._remove()

    def create_snapshot(self, name: str = "", description: str = "") -> GroupSnapshot:
        """Make a snapshot of every volume; see :meth:`GroupSnapshot.create`."""
        from csi_driver.cinderlib.group_snapshot import GroupSnapshot

        cut = GroupSnapshot(self, name=name, description=description)
        cut.create()
        return cut

    def clone(self, name: str = "", description: str = "") -> Group:
        """Make a group whose volumes have the content of this one's.

        :raises OperationNotSupported: the group is consistent, and the driver would copy
            its volumes one by one.
        """
        with self._exclusively(), self._all_volumes() as volumes:
            self._reread()
            self._require_available()
            sources: list[Volume | Snapshot] = list(volumes)
            return copied(self, self, sources, name, description)

    # -- helpers ---------------------------------------------------------------

    def _enters(self, volume: Volume) -> bool:
        volume._refresh_available()
        if volume._record.backend != self._record.backend:
            raise InvalidVolume(f"{volume!r} is of another backend than {self!r}")
        if volume._record.group_id not in ("", self.id):
            raise InvalidVolume(f"{volume!r} is in the group {volume._record.group_id}")
        return not volume._record.group_id

    def _leaves(self, volume: Volume) -> bool:
        volume._reread()
        if volume._record.group_id not in ("", self.id):
            raise InvalidVolume(f"{volume!r} is in the group {volume._record.group_id}")
        return bool(volume._record.group_id)

    def _delete_all(self, volumes: Sequence[Volume]) -> None:
        for volume in volumes:
            volume._put(phase=Phase.DELETING)
        try:
            outcome = grouping.delete(self._manager, self._record, [v._record for v in volumes])
        except Exception:
            for volume in volumes:
                volume._put(phase=Phase.ERROR)
            raise
        if outcome is None:
            each(volumes, delete_volume)
            return
        for volume, (record, status) in zip(volumes, outcome.members, strict=True):
            if status == "deleted" or (not status and not outcome.failed):
                volume._remove()
            else:
                volume._record = record
                back = status in ("available", "in-use")
                volume._put(phase=Phase.AVAILABLE if back else Phase.ERROR)
        check(self, outcome)
        if any(not volume._gone for volume in volumes):
            raise GroupFailed(f"Volumes of {self!r} were not deleted")

    @contextmanager
    def _all_volumes(self) -> Iterator[list[Volume]]:
        volumes = self.volumes
        with locked(*volumes):
            yield volumes

    def _require_available(self) -> None:
        if self._record.phase is not Phase.AVAILABLE:
            raise InvalidVolume(f"{self!r} is {self._record.phase.value}, not available")

    def _ready(self, outcome: grouping.Outcome[Any] | None) -> None:
        provider = self._record.provider if outcome is None else outcome.provider
        self._put(phase=Phase.AVAILABLE, operation=None, provider=provider)
