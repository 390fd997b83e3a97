"""Manage and unmanage: objects of an array that were there before, and that are to stay.

Called by the classes of ``operations``.  Drivers are called exactly as Cinder does in
``volume/flows/manager/manage_existing.py``, ``manage_existing_snapshot.py`` and
``VolumeManager.delete_volume(unmanage_only=True)``.

What is imported belonged to somebody: until the import has ended well nothing of it is
ever deleted (phases *managing* and *error_managing*), it is never imported twice, and
its formatting state is "unknown", so that nobody makes a filesystem on it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from csi_driver.base.values import Formatting, FormattingState
from csi_driver.cinderlib import session
from csi_driver.cinderlib.exceptions import InvalidReference, InvalidVolume, OperationNotSupported
from csi_driver.cinderlib.manager import VolumeManager
from csi_driver.cinderlib.persistence.records import Phase, SnapshotRecord, VolumeRecord
from csi_driver.cinderlib.runtime import ovo

if TYPE_CHECKING:
    from csi_driver.cinderlib.backend import Backend
    from csi_driver.cinderlib.snapshot import Snapshot
    from csi_driver.cinderlib.volume import Volume

REFERENCE = "existing_ref"
"""Key in a record's ``request`` of the reference that the object was imported by."""

IMPORTING = (Phase.MANAGING, Phase.ERROR_MANAGING, Phase.UNMANAGING)

_UNKNOWN = Formatting(state=FormattingState.UNKNOWN)


@dataclass(frozen=True)
class Manageable:
    """Something on an array, as the driver's ``get_manageable_volumes`` tells of it.

    :param reference: for ``manage_volume`` or ``manage_snapshot``.
    :param size: in GiB.
    :param safe_to_manage: whether the driver would take it.
    :param reason_not_safe: why not.
    :param id: the id of the volume or snapshot that it is already; None for others.
    :param source_reference: of a snapshot: the reference of its volume.
    """

    reference: dict[str, Any]
    size: int
    safe_to_manage: bool
    reason_not_safe: str | None = None
    id: str | None = None
    extra_info: str | None = None
    source_reference: dict[str, Any] = field(default_factory=dict)


# -- decisions -----------------------------------------------------------------


def checked_reference(reference: Any) -> dict[str, str]:
    """A copy of a reference that is one.  Pure.

    :raises InvalidReference: it is not a dictionary of text, or is empty.
    """
    if not isinstance(reference, Mapping) or not reference:
        raise InvalidReference(f"{reference!r} is not a reference to something on the array")
    for key, value in reference.items():
        if not isinstance(key, str) or not isinstance(value, str) or not value.strip():
            raise InvalidReference(f"The reference has no usable value for {key!r}: {value!r}")
    return dict(reference)


def why_managed(
    reference: Mapping[str, str], record: VolumeRecord | SnapshotRecord, name: str, *, here: bool
) -> str:
    """Why a record is already what the reference means; '' if nothing says so.  Pure.

    :param name: the record's name on the array.
    :param here: whether the record is of the same backend.
    """
    if name in (reference.get("source-name"), reference.get("source-id")):
        return "has this name"
    if not here:
        return ""
    if record.request.get(REFERENCE) == reference:
        return "was imported by this reference"
    array_id = record.provider.get("provider_id")
    return "has this id" if array_id and array_id == reference.get("source-id") else ""


def check_ours(record: VolumeRecord | SnapshotRecord, what: str) -> None:
    """Refuse to delete what is not, or no longer, ours, or not to be deleted alone.

    :raises InvalidVolume: its import or its release has not ended, or it is part of a
        group or of a group snapshot.
    """
    if isinstance(record, VolumeRecord) and record.group_id:
        raise InvalidVolume(
            f"{what} is in the group {record.group_id}",
            advice="Take it out of the group first, or delete the group with its volumes",
        )
    if isinstance(record, SnapshotRecord) and record.group_snapshot_id:
        raise InvalidVolume(
            f"{what} is part of the group snapshot {record.group_snapshot_id}",
            advice="Delete that",
        )
    if record.phase in IMPORTING:
        raise InvalidVolume(
            f"{what} is {record.phase.value}: it may be somebody else's",
            advice="unmanage() forgets it and leaves it on the array",
        )


def _refuse_managed(
    backend: Backend, reference: Mapping[str, str], kind: type[VolumeRecord | SnapshotRecord]
) -> None:
    from oslo_config import cfg

    store, templates = session.current().store, cfg.CONF
    for record in store.list(kind):
        if isinstance(record, VolumeRecord):
            name_id = record.provider.get("_name_id") or record.cinder_id
            name = templates.volume_name_template % name_id
        else:
            name = templates.snapshot_name_template % record.cinder_id
        reason = why_managed(reference, record, name, here=record.backend == backend.id)
        if not reason:
            continue
        advice = "Use that one"
        if record.phase in IMPORTING:
            advice = "Its import has not ended; unmanage() forgets it, then import it again"
        raise InvalidReference(
            f"{dict(reference)} is managed already: {record.KIND} {record.id} {reason}",
            advice=advice,
        )


# -- volumes -------------------------------------------------------------------


def manage_volume(backend: Backend, reference: Any, fields: Mapping[str, Any]) -> Volume:
    """See :meth:`BackendOperations.manage_volume`."""
    from csi_driver.cinderlib.volume import Volume

    wanted = checked_reference(reference)
    with session.current().exclusive(f"manage {backend.id}"):
        _refuse_managed(backend, wanted, VolumeRecord)
        volume = Volume(backend, size=1, **fields)
        specs = volume._record.encryption
        if specs is not None:  # what is imported has its header, or never gets one
            specs = msgspec.structs.replace(specs, formatted=True)
        # Cinder gives the driver a volume of no size until it has told one.
        volume._record = msgspec.structs.replace(
            volume._record,
            size_gib=0,
            formatting=_UNKNOWN,
            encryption=specs,
            request={REFERENCE: wanted},
        )
        with volume._exclusively():
            _import(volume, wanted, _ask_volume_size, _take_volume)
        return volume


def _ask_volume_size(manager: VolumeManager, record: Any, reference: dict[str, str]) -> Any:
    with manager.call() as call:
        part = call.volume(record, ())
        return manager.driver.manage_existing_get_size(part.object, dict(reference))


def _take_volume(
    manager: VolumeManager, record: VolumeRecord, reference: dict[str, str], size: int
) -> VolumeRecord:
    with manager.call() as call:
        part = call.volume(record, ())
        update = manager.driver.manage_existing(part.object, dict(reference))
        ovo.take_over(part.object, {**(update or {}), "size": size})
        return part.changed()


def unmanage_volume(volume: Volume) -> None:
    """See :meth:`VolumeOperations.unmanage`; the caller holds the lock."""
    volume._reread()
    record = volume._record
    if record.phase in (Phase.MANAGING, Phase.ERROR_MANAGING):
        # The driver may or may not have renamed it; it is not asked to do anything more.
        volume._remove()
        return
    if record.phase not in (Phase.AVAILABLE, Phase.UNMANAGING):
        raise InvalidVolume(f"{volume!r} is {record.phase.value}, not available")
    if record.encryption is not None:
        raise InvalidVolume(
            f"{volume!r} is encrypted and cannot be unmanaged",
            advice="Copy the data to a volume without encryption",
        )
    if record.group_id:
        raise InvalidVolume(f"{volume!r} is in a group", advice="Take it out of the group first")
    volume._refuse_in_use()
    manager = volume._manager
    with volume._operation("unmanage", Phase.UNMANAGING, Phase.UNMANAGING, Phase.AVAILABLE):
        _give_back_volume(manager, volume._record)
    volume._remove()


def _give_back_volume(manager: VolumeManager, record: VolumeRecord) -> None:
    with manager.call() as call:
        part = call.volume(record, ())
        manager.driver.remove_export(call.context, part.object)
        with manager.supported("give a volume back"):
            manager.driver.unmanage(part.object)


# -- snapshots -----------------------------------------------------------------


def manage_snapshot(volume: Volume, reference: Any, fields: Mapping[str, Any]) -> Snapshot:
    """See :meth:`VolumeOperations.manage_snapshot`."""
    from csi_driver.cinderlib.snapshot import Snapshot

    wanted = checked_reference(reference)
    with session.current().exclusive(f"manage {volume.backend.id}"), volume._exclusively():
        volume._refresh_available()
        _refuse_managed(volume.backend, wanted, SnapshotRecord)
        snapshot = Snapshot(volume, **fields)
        snapshot._record = msgspec.structs.replace(
            snapshot._record, formatting=_UNKNOWN, request={REFERENCE: wanted}
        )
        _import(snapshot, wanted, _ask_snapshot_size, _take_snapshot)
        return snapshot


def _ask_snapshot_size(manager: VolumeManager, record: Any, reference: dict[str, str]) -> Any:
    with manager.call() as call:
        part = call.snapshot(record)
        return manager.driver.manage_existing_snapshot_get_size(
            snapshot=part.object, existing_ref=dict(reference)
        )


def _take_snapshot(
    manager: VolumeManager, record: SnapshotRecord, reference: dict[str, str], size: int
) -> SnapshotRecord:
    with manager.call() as call:
        part = call.snapshot(record)
        update = manager.driver.manage_existing_snapshot(
            snapshot=part.object, existing_ref=dict(reference)
        )
        ovo.take_over(part.object, {**(update or {}), "volume_size": size})
        return msgspec.structs.replace(part.changed(), size_gib=size)


def unmanage_snapshot(snapshot: Snapshot) -> None:
    """See :meth:`SnapshotOperations.unmanage`; the caller holds the lock of the volume."""
    snapshot._reread()
    record = snapshot._record
    if record.phase in (Phase.MANAGING, Phase.ERROR_MANAGING):
        snapshot._remove()
        return
    if record.phase not in (Phase.AVAILABLE, Phase.UNMANAGING):
        raise InvalidVolume(f"{snapshot!r} is {record.phase.value}, not available")
    if record.group_snapshot_id:
        raise InvalidVolume(f"{snapshot!r} is part of a group snapshot")
    manager = snapshot._manager
    with snapshot._operation("unmanage", Phase.UNMANAGING, Phase.UNMANAGING, Phase.AVAILABLE):
        _give_back_snapshot(manager, snapshot._record)
    snapshot._remove()


def _give_back_snapshot(manager: VolumeManager, record: SnapshotRecord) -> None:
    with manager.call() as call, manager.supported("give a snapshot back"):
        manager.driver.unmanage_snapshot(call.snapshot(record).object)


# -- both ----------------------------------------------------------------------


def _import(thing: Any, reference: dict[str, str], ask: Any, take: Any) -> None:
    """Ask for the size, then take over; the record tells how far it got."""
    manager: VolumeManager = thing._manager
    step = thing._operation(
        "manage", Phase.MANAGING, Phase.ERROR_MANAGING, Phase.ERROR_MANAGING, wanted=reference
    )
    asked = False
    try:
        with step, manager.supported("take over what it has not made"):
            size = _whole_size(ask(manager, thing._record, reference), reference)
            asked = True
            taken = take(manager, thing._record, reference, size)
    except Exception as error:
        # Asking for a size changes nothing, and a refusal neither: nothing to remember.
        if not asked or isinstance(error, OperationNotSupported):
            thing._remove()
        raise
    thing._record = taken
    thing._put(phase=Phase.AVAILABLE, operation=None, created_at=time.time())


def _whole_size(size: Any, reference: Mapping[str, str]) -> int:
    if isinstance(size, int | float) and size >= 1:
        return int(size)
    raise InvalidReference(
        f"The driver says that {dict(reference)} has {size!r} GiB",
        advice="What is imported has at least 1 GiB",
    )


def manageable(
    backend: Backend,
    kind: type[VolumeRecord | SnapshotRecord],
    marker: Any,
    limit: int,
    offset: int,
    sort: Sequence[tuple[str, str]],
) -> list[Manageable]:
    """See :meth:`BackendOperations.manageable_volumes`."""
    manager, lookup = backend.manager, session.current().lookup
    keys, directions = [key for key, _ in sort], [direction for _, direction in sort]
    records = session.current().store.list(kind, where={"backend": backend.id})
    ids = {record.cinder_id: record.id for record in records}
    with manager.call() as call:
        known: Any = ovo.object_list(
            call.context,
            f"{kind.KIND.title()}List",
            [
                (
                    call.volume(record, lookup.connections_of_volume(record.id))
                    if isinstance(record, VolumeRecord)
                    else call.snapshot(record)
                ).object
                for record in records
            ],
        )
        ask = getattr(manager.driver, f"get_manageable_{kind.KIND}s", None)
        with manager.supported("tell what could be imported"):
            if ask is None:
                raise NotImplementedError
            found = ask(known, marker, limit, offset, keys, directions)
    return [
        Manageable(
            reference=dict(entry["reference"]),
            size=int(entry["size"]),
            safe_to_manage=bool(entry["safe_to_manage"]),
            reason_not_safe=entry.get("reason_not_safe"),
            id=ids.get(entry.get("cinder_id")),
            extra_info=entry.get("extra_info"),
            source_reference=dict(entry.get("source_reference") or {}),
        )
        for entry in found
    ]
