"""The stand-in database's functions on volumes, their metadata and attachments.

Collected by ``database``; each has the name and the parameters of Cinder's function.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from csi_driver.cinderlib.runtime import database_common as common
from csi_driver.cinderlib.runtime import rows
from csi_driver.cinderlib.runtime.directory import VOLUME, directory
from csi_driver.cinderlib.runtime.rows import Row


def volume_get(_context: Any, volume_id: str) -> Row:
    """The row of a volume, as a row of Cinder has it: with ``name`` and ``name_id``."""
    return common.named_volume(common.present(VOLUME, volume_id, directory.find(VOLUME, volume_id)))


def volume_get_all_by_host(_context: Any, host: str, filters: Any = None) -> list[Row]:
    """The rows of a backend's volumes; ``host`` with a pool selects that pool."""
    common.refuse_filters("volume_get_all_by_host", filters)
    wanted, _, pool = host.partition("#")
    found = [
        common.named_volume(member.volume_row(record))
        for member in directory.members()
        if member.host == wanted
        for record in member.lookup.volumes_of_backend(member.backend)
    ]
    return [row for row in found if not pool or row["host"] == host]


def volume_get_all(_context: Any, *_args: Any, filters: Any = None, **_kwargs: Any) -> list[Row]:
    """The rows of every volume of every backend."""
    common.refuse_filters("volume_get_all", filters)
    return [
        row for member in directory.members() for row in volume_get_all_by_host(None, member.host)
    ]


def volume_update(_context: Any, volume_id: str, values: Mapping[str, Any]) -> Row:
    """Keep changed columns of a volume."""
    return common.present(
        VOLUME, volume_id, directory.change(VOLUME, volume_id, lambda _row: values)
    )


def volume_create(_context: Any, values: Mapping[str, Any]) -> Row:
    """A row for a volume that a driver makes for the time of one call.

    It has no record: a driver that dies before ``volume_destroy`` leaves it on its
    backend, as in Cinder.
    """
    columns = dict(values)
    kind = common.type_by_id(columns.get("volume_type_id"))
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
    return common.update_pairs(VOLUME, volume_id, "volume_metadata", metadata, delete)


def volume_metadata_delete(_context: Any, volume_id: str, key: str, meta_type: Any = None) -> None:
    """Drop one key of a volume's metadata."""
    common.drop_pair(VOLUME, volume_id, "volume_metadata", key)


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
    return common.update_pairs(VOLUME, volume_id, "volume_admin_metadata", chosen, delete)


def volume_admin_metadata_delete(_context: Any, volume_id: str, key: str) -> None:
    """Drop one key of a volume's administrative metadata."""
    common.drop_pair(VOLUME, volume_id, "volume_admin_metadata", key)


def volume_glance_metadata_get(_context: Any, _volume_id: str) -> list[Row]:
    """No volume comes from an image."""
    return []


def volume_glance_metadata_delete_by_snapshot(_context: Any, _snapshot_id: str) -> None:
    """No snapshot has metadata of an image."""


def volume_encryption_metadata_get(
    _context: Any, _volume_id: str, session: Any = None
) -> dict[str, Any]:
    """What a host needs to know of a volume's encryption; the key's id is None without."""
    row = volume_get(None, _volume_id)
    kind = row["volume_type"]
    specs = (kind and kind["encryption"]) or {}
    names = ("provider", "cipher", "key_size", "control_location")
    found = {name: specs[name] for name in names if specs}
    return {"encryption_key_id": row["encryption_key_id"], **found}


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
    raise common.cinder_exception(
        "VolumeAttachmentNotFound", filter=f"attachment_id = {attachment_id}"
    )


def attachment_specs_get(_context: Any, _attachment_id: str) -> dict[str, str]:
    """Nothing was ever stored in that old table."""
    return {}
