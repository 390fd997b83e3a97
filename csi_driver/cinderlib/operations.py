"""What Cinder drivers can do to a volume, a snapshot or a backend beyond its plain life.

Bases of ``Volume``, ``Snapshot`` and ``Backend``: the methods that users see, with their
locks; the work is done by ``retyping``, ``managing`` and ``reverting``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from csi_driver.cinderlib import managing, retyping, reverting, session
from csi_driver.cinderlib.fields import SnapshotFields, VolumeFields
from csi_driver.cinderlib.managing import Manageable
from csi_driver.cinderlib.persistence.records import (
    GroupRecord,
    Phase,
    SnapshotRecord,
    VolumeRecord,
)

if TYPE_CHECKING:
    from csi_driver.cinderlib.backend import Backend
    from csi_driver.cinderlib.group import Group
    from csi_driver.cinderlib.snapshot import Snapshot
    from csi_driver.cinderlib.volume import Volume

Sort = Sequence[tuple[str, str]]


class VolumeOperations(VolumeFields):
    """Of a volume."""

    _usable: tuple[Phase, ...] = (Phase.AVAILABLE,)
    """Phases in which the volume may be connected and copied."""

    @property
    def group(self) -> Group | None:
        """The group that the volume is in; None if it is in none."""
        from csi_driver.cinderlib.group import Group

        return Group.get_by_id(self._record.group_id) if self._record.group_id else None

    def revert(self, snapshot: Snapshot) -> None:
        """Put the volume back to what it was when the snapshot was made.

        A driver that cannot is helped by a copy through this host (as in Cinder), if it
        can attach both.  While it runs, and after a failure until it was repeated, the
        status is *reverting*: the volume may then be reverted again, or deleted.

        :raises InvalidVolume: the snapshot is not this volume's; the volume is connected,
            was extended since, or has a younger snapshot (some arrays would destroy it).
        :raises OperationNotSupported: neither driver nor host can; nothing was changed.
        """
        with self._exclusively():
            reverting.revert(cast("Volume", self), snapshot)

    def retype(
        self,
        *,
        extra_specs: Mapping[str, str] | None = None,
        qos_specs: Mapping[str, str] | None = None,
        multiattach: bool | None = None,
    ) -> None:
        """Give the volume other specs, in place; what is not named stays.

        :param extra_specs: all extra specs that the volume is to have.
        :param qos_specs: likewise; ``consumer`` says who enforces them.
        :raises InvalidVolume: it is in a group; or it is connected and multiattach or
            limits that hosts enforce would change.
        :raises OperationNotSupported: the driver would need a migration; the specs stay.
        """
        with self._exclusively():
            volume = cast("Volume", self)
            volume._refresh_available()
            wanted = retyping.wanted_specs(self._record, extra_specs, qos_specs, multiattach)
            retyping.retype(volume, wanted)

    def unmanage(self) -> None:
        """Forget the volume and leave it on the array, under :attr:`name_in_storage`.

        An import that has failed is forgotten too.  After a failure, status *unmanaging*,
        it may be repeated.

        :raises InvalidVolume: it has snapshots or connections, or is encrypted.
        :raises OperationNotSupported: the driver cannot.
        """
        with self._exclusively():
            managing.unmanage_volume(cast("Volume", self))

    def manage_snapshot(
        self, existing_ref: Mapping[str, str], name: str = "", description: str = "", **fields: Any
    ) -> Snapshot:
        """Take over a snapshot of this volume that is on the array already.

        :param existing_ref: ``{"source-name": NAME}``, ``{"source-id": ID}``, or what else
            the driver documents.
        :param fields: as for :class:`Snapshot`.
        :raises InvalidReference: no reference, or it is managed already.
        """
        given = {"name": name, "description": description, **fields}
        return managing.manage_snapshot(cast("Volume", self), existing_ref, given)


class SnapshotOperations(SnapshotFields):
    """Of a snapshot."""

    def revert(self) -> None:
        """The same as :meth:`Volume.revert` of its volume."""
        snapshot = cast("Snapshot", self)
        snapshot.volume.revert(snapshot)

    def unmanage(self) -> None:
        """Forget the snapshot and leave it on the array; see :meth:`Volume.unmanage`."""
        with self._exclusively():
            managing.unmanage_snapshot(cast("Snapshot", self))


class BackendOperations:
    """Of a backend."""

    def manage_volume(
        self, existing_ref: Mapping[str, str], name: str = "", description: str = "", **fields: Any
    ) -> Volume:
        """Take over a volume that is on the array already; its data stays.

        Most drivers rename it.  Nobody ever makes a filesystem on it.  When the driver
        fails on the way, the volume stays recorded with the status *error_managing*:
        ``unmanage()`` forgets it, ``delete()`` is refused.

        :param existing_ref: ``{"source-name": NAME}``, ``{"source-id": ID}``, or what else
            the driver documents.
        :param fields: as for :class:`Volume`, and ``pool_name``.
        :raises InvalidReference: no reference, or it is managed already.
        :raises OperationNotSupported: the driver cannot.
        """
        given = {"name": name, "description": description, **fields}
        return managing.manage_volume(cast("Backend", self), existing_ref, given)

    def create_group(
        self, name: str = "", description: str = "", specs: Mapping[str, str] | None = None
    ) -> Group:
        """Make a group of volumes; see :class:`Group` for the specs.

        :raises OperationNotSupported: the specs ask for snapshots of one moment, and the
            backend makes none.
        """
        from csi_driver.cinderlib.group import Group

        group = Group(cast("Backend", self), name=name, description=description, specs=specs)
        group.create()
        return group

    @property
    def groups(self) -> list[Group]:
        """The recorded groups of the backend."""
        from csi_driver.cinderlib.group import Group

        where = {"backend": cast("Backend", self).id}
        found = session.current().store.list(GroupRecord, where=where)
        return [Group._of_record(record) for record in found]

    def manageable_volumes(
        self,
        *,
        marker: Mapping[str, str] | None = None,
        limit: int = 1000,
        offset: int = 0,
        sort: Sort = (("reference", "asc"),),
    ) -> list[Manageable]:
        """What is on the array and could be imported, and what is managed already.

        :param sort: pairs of ``size`` or ``reference`` and ``asc`` or ``desc``.
        :raises OperationNotSupported: the driver cannot tell; import by name instead.
        """
        return managing.manageable(cast("Backend", self), VolumeRecord, marker, limit, offset, sort)

    def manageable_snapshots(
        self,
        *,
        marker: Mapping[str, str] | None = None,
        limit: int = 1000,
        offset: int = 0,
        sort: Sort = (("reference", "asc"),),
    ) -> list[Manageable]:
        """As :meth:`manageable_volumes`, of snapshots; ``source_reference`` is the volume's."""
        return managing.manageable(
            cast("Backend", self), SnapshotRecord, marker, limit, offset, sort
        )
