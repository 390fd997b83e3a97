"""What ``cinder.db.api`` answers here: the functions that drivers really use.

Installed by :mod:`csi_driver.cinderlib.runtime.bootstrap`; called by drivers
(``self.db``), by Cinder's base classes and targets, and by Cinder's versioned
objects, whose ``save``, ``refresh``, ``get_by_id`` and lazy loads are Cinder's own
code on top of this.  Rows come from :mod:`csi_driver.cinderlib.runtime.directory`.

Every public function below has the name and the parameters of Cinder's function.
A name that is neither here nor in ``refusals`` is refused all the same: the error
says which driver asked for which function.  A test lists what the installed Cinder
asks for, so that a new name is noticed before a user does.
"""

from __future__ import annotations

import inspect
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from csi_driver.cinderlib.exceptions import NotProvided
from csi_driver.cinderlib.persistence.records import Phase
from csi_driver.cinderlib.runtime import refusals, rows
from csi_driver.cinderlib.runtime.directory import SNAPSHOT, VOLUME, directory
from csi_driver.cinderlib.runtime.rows import Row


def function(name: str) -> Callable[..., Any]:
    """The function that stands for ``cinder.db.api.<name>``; a refusal if there is none."""
    provided = PROVIDED.get(name)
    if provided is not None:
        return provided

    def refuse(*_args: Any, **_kwargs: Any) -> Any:
        raise NotProvided(
            f"cinder.db.api.{name} is not provided; {_asking_driver()} asked for it"
            f" ({refusals.reason(name) or 'unknown to this version'})"
        )

    return refuse


def _asking_driver() -> str:
    """The class of the driver whose method is on the stack, for a message."""
    frame = inspect.currentframe()
    while frame is not None:
        holder = frame.f_locals.get("self")
        base: Any = getattr(sys.modules.get("cinder.volume.driver"), "BaseVD", None)
        if base is not None and isinstance(holder, base):
            return f"{type(holder).__module__}.{type(holder).__qualname__}"
        frame = frame.f_back
    return "no driver"


# -- versioned objects ---------------------------------------------------------


def get_model_for_versioned_object(versioned_object: Any) -> type:
    """A class that carries the object's name; ``get_by_id`` gets it back."""
    name = versioned_object if isinstance(versioned_object, str) else versioned_object.obj_name()
    return type(name, (), {})


def is_orm_value(_value: Any) -> bool:
    """Nothing here is a SQL expression."""
    return False


def dispose_engine() -> None:
    """There is no engine."""


def get_by_id(context: Any, model: type, id: str, *_args: Any, **_kwargs: Any) -> Row:
    """The row of any object, for ``get_by_id`` and ``refresh`` of the objects."""
    getters: dict[str, Callable[[Any, str], Row]] = {
        "Volume": volume_get,
        "Snapshot": snapshot_get,
        "VolumeAttachment": volume_attachment_get,
        "VolumeType": volume_type_get,
        "QualityOfServiceSpecs": qos_specs_get,
    }
    getter = getters.get(model.__name__)
    if getter is None:
        raise NotProvided(
            f"{_asking_driver()} asked for a {model.__name__}, of which there are none"
        )
    return getter(context, id)


def resource_exists(_context: Any, model: type, resource_id: str) -> bool:
    """Whether there is such a volume or snapshot."""
    return directory.find(model.__name__, resource_id) is not None


# -- volumes -------------------------------------------------------------------


def volume_get(_context: Any, volume_id: str) -> Row:
    """The row of a volume, as a row of Cinder has it: with ``name`` and ``name_id``."""
    return _named_volume(_present(VOLUME, volume_id, directory.find(VOLUME, volume_id)))


def volume_get_all_by_host(_context: Any, host: str, filters: Any = None) -> list[Row]:
    """The rows of a backend's volumes; ``host`` with a pool selects that pool."""
    _refuse_filters("volume_get_all_by_host", filters)
    wanted, _, pool = host.partition("#")
    found = [
        _named_volume(member.volume_row(record))
        for member in directory.members()
        if member.host == wanted
        for record in member.lookup.volumes_of_backend(member.backend)
    ]
    return [row for row in found if not pool or row["host"] == host]


def volume_get_all(_context: Any, *_args: Any, filters: Any = None, **_kwargs: Any) -> list[Row]:
    """The rows of every volume of every backend."""
    _refuse_filters("volume_get_all", filters)
    return [
        row for member in directory.members() for row in volume_get_all_by_host(None, member.host)
    ]


def volume_get_all_by_group(_context: Any, _group_id: str, filters: Any = None) -> list[Row]:
    """No volume is in a consistency group."""
    return []


volume_get_all_by_generic_group = volume_get_all_by_group


def volume_update(_context: Any, volume_id: str, values: Mapping[str, Any]) -> Row:
    """Keep changed columns of a volume."""
    return _present(VOLUME, volume_id, directory.change(VOLUME, volume_id, lambda _row: values))


def volume_create(_context: Any, values: Mapping[str, Any]) -> Row:
    """A row for a volume that a driver makes for the time of one call.

    It has no record: a driver that dies before ``volume_destroy`` leaves it on its
    backend, as in Cinder.
    """
    columns = dict(values)
    kind = type_row(columns.get("volume_type_id"))
    row = Row(
        rows.Row.fromkeys(rows.PROVIDER_FIELDS),
        use_quota=False,
        deleted=False,
        volume_metadata=rows.merged([], columns.pop("metadata", None) or {}, replace=True),
        volume_admin_metadata=rows.merged(
            [], columns.pop("admin_metadata", None) or {}, replace=True
        ),
        volume_glance_metadata=[],
        volume_attachment=[],
        volume_type=kind,
    )
    row.update(columns, id=columns.get("id") or str(uuid.uuid4()))
    directory.add(VOLUME, row)
    return Row(row)


def volume_destroy(_context: Any, volume_id: str) -> dict[str, Any]:
    """Forget a volume that a driver made for itself; the others are deleted by their owner."""
    directory.drop(VOLUME, volume_id)
    return {"status": "deleted", "deleted": True}


def _named_volume(row: Row) -> Row:
    from oslo_config import cfg

    name_id = row["_name_id"] or row["id"]
    return Row(row, name_id=name_id, name=cfg.CONF.volume_name_template % name_id)


# -- metadata ------------------------------------------------------------------


def volume_metadata_get(_context: Any, volume_id: str) -> dict[str, str]:
    """A volume's metadata."""
    return rows.dictionary(volume_get(None, volume_id)["volume_metadata"])


def volume_metadata_update(
    _context: Any,
    volume_id: str,
    metadata: Mapping[str, str],
    delete: bool,
    meta_type: Any = None,
) -> dict[str, str]:
    """Change a volume's metadata; ``delete`` drops the keys that are not named."""
    return _update_pairs(VOLUME, volume_id, "volume_metadata", metadata, delete)


def volume_metadata_delete(_context: Any, volume_id: str, key: str, meta_type: Any = None) -> None:
    """Drop one key of a volume's metadata."""
    _drop_pair(VOLUME, volume_id, "volume_metadata", key)


def volume_admin_metadata_get(_context: Any, volume_id: str) -> dict[str, str]:
    """A volume's administrative metadata."""
    return rows.dictionary(volume_get(None, volume_id)["volume_admin_metadata"])


def volume_admin_metadata_update(
    _context: Any,
    volume_id: str,
    metadata: Mapping[str, str],
    delete: bool,
    add: bool = True,
    update: bool = True,
) -> dict[str, str]:
    """Change administrative metadata.

    Known keys change unless ``update`` is False, others come unless ``add`` is False.
    """
    known = volume_admin_metadata_get(None, volume_id)
    chosen = {key: value for key, value in metadata.items() if (update if key in known else add)}
    return _update_pairs(VOLUME, volume_id, "volume_admin_metadata", chosen, delete)


def volume_admin_metadata_delete(_context: Any, volume_id: str, key: str) -> None:
    """Drop one key of a volume's administrative metadata."""
    _drop_pair(VOLUME, volume_id, "volume_admin_metadata", key)


def volume_glance_metadata_get(_context: Any, _volume_id: str) -> list[Row]:
    """No volume comes from an image."""
    return []


def volume_glance_metadata_delete_by_snapshot(_context: Any, _snapshot_id: str) -> None:
    """No snapshot has metadata of an image."""


def volume_encryption_metadata_get(
    _context: Any, _volume_id: str, session: Any = None
) -> dict[str, Any]:
    """Encryption belongs to the node here; the backend sees plain volumes."""
    return {"encryption_key_id": None}


def _update_pairs(
    kind: str, cinder_id: str, column: str, metadata: Mapping[str, str], delete: bool
) -> dict[str, str]:
    row = directory.change(
        kind,
        cinder_id,
        lambda row: {column: rows.merged(row[column], metadata, replace=delete)},
    )
    return rows.dictionary(_present(kind, cinder_id, row)[column])


def _drop_pair(kind: str, cinder_id: str, column: str, key: str) -> None:
    row = directory.change(
        kind, cinder_id, lambda row: {column: [pair for pair in row[column] if pair["key"] != key]}
    )
    _present(kind, cinder_id, row)


# -- snapshots -----------------------------------------------------------------


def snapshot_get(_context: Any, snapshot_id: str) -> Row:
    """The row of a snapshot, as a row of Cinder has it: with names and its volume."""
    row = _present(SNAPSHOT, snapshot_id, directory.find(SNAPSHOT, snapshot_id))
    return _named_snapshot(row)


def snapshot_get_all_for_volume(_context: Any, volume_id: str) -> list[Row]:
    """The rows of a volume's snapshots."""
    for member in directory.members():
        volume = member.lookup.volume_by_cinder_id(volume_id)
        if volume is not None and volume.backend == member.backend:
            return [
                _named_snapshot(member.snapshot_row(record, volume))
                for record in member.lookup.snapshots_of_volume(volume.id)
                if record.phase is not Phase.CREATING
            ]
    return []


def snapshot_get_latest_for_volume(_context: Any, volume_id: str) -> Row:
    """The row of a volume's youngest snapshot."""
    found = snapshot_get_all_for_volume(None, volume_id)
    if not found:
        raise _cinder_exception("VolumeSnapshotNotFound", volume_id=volume_id)
    return max(found, key=lambda row: row["created_at"])


def snapshot_update(_context: Any, snapshot_id: str, values: Mapping[str, Any]) -> Row:
    """Keep changed columns of a snapshot."""
    row = directory.change(SNAPSHOT, snapshot_id, lambda _row: values)
    return _present(SNAPSHOT, snapshot_id, row)


def snapshot_metadata_update(
    _context: Any, snapshot_id: str, metadata: Mapping[str, str], delete: bool
) -> dict[str, str]:
    """Change a snapshot's metadata; ``delete`` drops the keys that are not named."""
    return _update_pairs(SNAPSHOT, snapshot_id, "snapshot_metadata", metadata, delete)


def snapshot_metadata_delete(_context: Any, snapshot_id: str, key: str) -> None:
    """Drop one key of a snapshot's metadata."""
    _drop_pair(SNAPSHOT, snapshot_id, "snapshot_metadata", key)


def snapshot_create(_context: Any, values: Mapping[str, Any]) -> Row:
    """A row for a snapshot that a driver makes for the time of one call (a clone, mostly)."""
    columns = dict(values)
    row = Row(
        rows.Row.fromkeys(rows.PROVIDER_FIELDS),
        use_quota=False,
        deleted=False,
        volume=volume_get(None, columns["volume_id"]),
        snapshot_metadata=rows.merged([], columns.pop("metadata", None) or {}, replace=True),
    )
    row.update(columns, id=columns.get("id") or str(uuid.uuid4()))
    directory.add(SNAPSHOT, row)
    return Row(row)


def snapshot_destroy(_context: Any, snapshot_id: str) -> dict[str, Any]:
    """Forget a snapshot that a driver made for itself."""
    directory.drop(SNAPSHOT, snapshot_id)
    return {"status": "deleted", "deleted": True}


def _named_snapshot(row: Row) -> Row:
    from oslo_config import cfg

    return Row(
        row,
        name=cfg.CONF.snapshot_name_template % row["id"],
        volume_name=_named_volume(row["volume"])["name"],
    )


# -- attachments ---------------------------------------------------------------


def volume_attachment_get_all_by_volume_id(
    _context: Any, volume_id: str, session: Any = None
) -> list[Row]:
    """The rows of a volume's attachments."""
    row = directory.find(VOLUME, volume_id)
    return list(row["volume_attachment"]) if row else []


def volume_attachment_get(_context: Any, attachment_id: str) -> Row:
    """The row of one attachment."""
    for volume in volume_get_all(None):
        for row in volume_attachment_get_all_by_volume_id(None, volume["id"]):
            if row["id"] == attachment_id:
                return row
    raise _cinder_exception("VolumeAttachmentNotFound", filter=f"attachment_id = {attachment_id}")


def attachment_specs_get(_context: Any, _attachment_id: str) -> dict[str, str]:
    """Nothing was ever stored in that old table."""
    return {}


# -- types and quality of service ----------------------------------------------


def volume_type_get(
    _context: Any,
    id: str,
    inactive: bool = False,
    expected_fields: Any = None,
) -> Row:
    """A volume type, made from the specs of the volumes that have it."""
    found = type_row(id)
    if found is None:
        raise _cinder_exception("VolumeTypeNotFound", volume_type_id=id)
    return Row(found)


def volume_type_get_by_name(_context: Any, name: str, inactive: bool = False) -> Row:
    """The volume type with this name."""
    for row in directory.types():
        if row["name"] == name:
            return Row(row)
    raise _cinder_exception("VolumeTypeNotFoundByName", volume_type_name=name)


def volume_type_get_all(_context: Any, *_args: Any, **_kwargs: Any) -> dict[str, Row]:
    """Every volume type seen so far, by name."""
    return {row["name"]: Row(row) for row in directory.types()}


def volume_type_extra_specs_get(_context: Any, volume_type_id: str) -> dict[str, str]:
    """The extra specs of a volume type."""
    return dict(volume_type_get(None, volume_type_id)["extra_specs"])


def volume_type_qos_specs_get(_context: Any, type_id: str) -> dict[str, Any]:
    """The quality of service of a volume type."""
    return {"qos_specs": volume_type_get(None, type_id)["qos_specs"]}


def volume_type_access_get_all(_context: Any, _type_id: str) -> Sequence[Row]:
    """Types are public."""
    return []


def volume_type_encryption_get(_context: Any, _volume_type_id: str, session: Any = None) -> None:
    """Encryption belongs to the node here."""
    return


def qos_specs_get(_context: Any, qos_specs_id: str, inactive: bool = False) -> Row:
    """Quality of service by its id."""
    for row in directory.types():
        if row["qos_specs_id"] == qos_specs_id:
            return Row(row["qos_specs"])
    raise _cinder_exception("QoSSpecsNotFound", specs_id=qos_specs_id)


def type_row(type_id: str | None) -> Row | None:
    """The type with this id among those seen so far."""
    return next((row for row in directory.types() if row["id"] == type_id), None)


# -- what drivers keep ---------------------------------------------------------


def driver_initiator_data_get(_context: Any, initiator: str, namespace: str) -> list[Row]:
    """What a driver keeps for an initiator."""
    members = _members_of_namespace(namespace)
    data = members[0].lookup.initiator_data(initiator, namespace) if members else {}
    return [
        Row(initiator=initiator, namespace=namespace, key=key, value=value)
        for key, value in data.items()
    ]


def driver_initiator_data_insert_by_key(
    _context: Any, initiator: str, namespace: str, key: str, value: str
) -> Row:
    """Keep a value for an initiator; what is there stays."""
    members = _members_of_namespace(namespace)
    if not members or not members[0].lookup.add_initiator_data(initiator, namespace, key, value):
        raise _cinder_exception(
            "DriverInitiatorDataExists", initiator=initiator, namespace=namespace, key=key
        )
    return Row(initiator=initiator, namespace=namespace, key=key, value=value)


def image_volume_cache_get_by_volume_id(_context: Any, _volume_id: str) -> None:
    """No volume is the cached copy of an image."""
    return


def _members_of_namespace(namespace: str) -> list[Any]:
    # The namespace is the backend's name unless driver_data_namespace says otherwise.
    members = directory.members()
    return [member for member in members if member.backend == namespace] or members[:1]


# -- helpers -------------------------------------------------------------------


def _present(kind: str, cinder_id: str, row: Row | None) -> Row:
    if row is None:
        parameter = f"{kind.lower()}_id"
        raise _cinder_exception(f"{kind}NotFound", **{parameter: cinder_id})
    return row


def _cinder_exception(name: str, **details: str) -> Exception:
    # Drivers catch Cinder's exceptions, so that is what its database raises here too.
    from cinder import exception

    error: Exception = getattr(exception, name)(**details)
    return error


def _refuse_filters(name: str, filters: Any) -> None:
    if filters:
        raise NotProvided(f"cinder.db.api.{name} has no filters here; {_asking_driver()} asked")


PROVIDED: Mapping[str, Callable[..., Any]] = {
    name: value
    for name, value in globals().items()
    if inspect.isfunction(value)
    and value.__module__ == __name__
    and not name.startswith("_")
    and name not in ("function", "type_row")
}
"""The functions of ``cinder.db.api`` that exist here, by name."""
