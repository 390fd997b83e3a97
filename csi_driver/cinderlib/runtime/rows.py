"""From records to the rows that Cinder's database would return, and back.  Pure.

Used by ``directory``.  Cinder's own ``_from_db_object`` makes versioned objects
from rows, so everything that a driver may read of a volume is decided here and
nowhere else.  Rows carry Cinder ids; records carry ours.
"""

from __future__ import annotations

import datetime
import functools
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, overload

import msgspec

from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    Encryption,
    GroupRecord,
    GroupSnapshotRecord,
    Phase,
    SnapshotRecord,
    VolumeRecord,
)

PROVIDER_FIELDS = (
    "_name_id",
    "provider_id",
    "provider_location",
    "provider_auth",
    "provider_geometry",
    "replication_status",
    "replication_extended_status",
    "replication_driver_data",
    "encryption_key_id",
    "ec2_id",
)
"""Columns that drivers fill and that a record keeps in ``provider``."""

_SORTED = json.JSONEncoder(sort_keys=True)
_NO_SPECS = _SORTED.encode([{}, {}])

_TYPE_NAMESPACE = uuid.UUID("6b1f7c0e-6d0a-4b6e-9a0e-0a6f7a1f5a11")

_VOLUME_STATUS = {
    Phase.CREATING: "creating",
    Phase.DELETING: "deleting",
    Phase.REVERTING: "reverting",
    Phase.MANAGING: "managing",
    Phase.ERROR_MANAGING: "error_managing",
    Phase.UNMANAGING: "unmanaging",
    Phase.ERROR: "error",
}

_SNAPSHOT_STATUS = {
    Phase.CREATING: "creating",
    Phase.DELETING: "deleting",
    Phase.MANAGING: "creating",
    Phase.ERROR_MANAGING: "error",
    Phase.UNMANAGING: "unmanaging",
    Phase.ERROR: "error",
}

_GROUP_STATUS = {
    Phase.CREATING: "creating",
    Phase.DELETING: "deleting",
    Phase.ERROR: "error",
}


class Row(dict[str, Any]):
    """A database row: its columns by key and by attribute, None where there is none."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.get(name)


def volume_row(
    record: VolumeRecord,
    *,
    host: str,
    pool: str,
    owner: Mapping[str, str],
    source_ids: Mapping[str, str],
    connections: Sequence[ConnectionRecord] = (),
) -> Row:
    """The row of a volume.

    :param host: ``HOST@BACKEND``; the pool is appended as Cinder does.
    :param pool: the pool of a volume whose record names none.
    :param owner: ``user_id`` and ``project_id``.
    :param source_ids: ``snapshot_id`` or ``source_volid`` as drivers know them.
    """
    chosen = record.pool or pool
    attachments = [attachment_row(connection, record.cinder_id) for connection in connections]
    in_use = any(row["attach_status"] == "attached" for row in attachments)
    volume_type = type_of(record)
    return Row(
        {name: record.provider.get(name) for name in PROVIDER_FIELDS} | _key_of(record),
        **owner,
        **source_ids,
        id=record.cinder_id,
        host=f"{host}#{chosen}" if chosen else host,
        size=record.size_gib,
        availability_zone=record.availability_zone or None,
        status=_VOLUME_STATUS.get(record.phase, "in-use" if in_use else "available"),
        attach_status="attached" if in_use else "detached",
        display_name=record.name,
        display_description=record.description,
        volume_type_id=volume_type["id"],
        volume_type=volume_type,
        multiattach=record.multiattach,
        bootable=record.bootable,
        use_quota=True,
        shared_targets=False,
        deleted=False,
        created_at=_time(record.created_at),
        volume_metadata=_pairs(record.metadata),
        volume_admin_metadata=_pairs(record.admin_metadata),
        volume_glance_metadata=[],
        volume_attachment=attachments,
    )


@overload
def changed(record: VolumeRecord, row: Row) -> VolumeRecord: ...
@overload
def changed(record: SnapshotRecord, row: Row) -> SnapshotRecord: ...
@overload
def changed(record: GroupRecord, row: Row) -> GroupRecord: ...
@overload
def changed(record: GroupSnapshotRecord, row: Row) -> GroupSnapshotRecord: ...
def changed(
    record: VolumeRecord | SnapshotRecord | GroupRecord | GroupSnapshotRecord, row: Row
) -> VolumeRecord | SnapshotRecord | GroupRecord | GroupSnapshotRecord:
    """The record with what the driver made of its row."""
    if isinstance(record, GroupSnapshotRecord):
        return record
    if isinstance(record, GroupRecord):
        return msgspec.structs.replace(record, provider=provider_fields(row))
    if isinstance(record, SnapshotRecord):
        return msgspec.structs.replace(
            record, provider=provider_fields(row), metadata=dictionary(row["snapshot_metadata"])
        )
    pool = str(row["host"]).partition("#")[2]
    provider = provider_fields(row)
    for known in _key_of(record):
        provider.pop(known, None)
    return msgspec.structs.replace(
        record,
        pool=pool,
        size_gib=int(row["size"]),
        provider=provider,
        metadata=dictionary(row["volume_metadata"]),
        admin_metadata=dictionary(row["volume_admin_metadata"]),
        multiattach=bool(row["multiattach"]),
        bootable=bool(row["bootable"]),
        availability_zone=row["availability_zone"] or "",
    )


def snapshot_row(
    record: SnapshotRecord, volume: Row, volume_id: str, owner: Mapping[str, str]
) -> Row:
    """The row of a snapshot; ``volume_id`` is its volume's Cinder id."""
    return Row(
        {name: record.provider.get(name) for name in PROVIDER_FIELDS},
        **owner,
        id=record.cinder_id,
        volume_id=volume_id,
        volume=volume,
        volume_size=record.size_gib,
        volume_type_id=volume.volume_type_id,
        status=_SNAPSHOT_STATUS.get(record.phase, "available"),
        progress="100%" if record.phase is Phase.AVAILABLE else "0%",
        display_name=record.name,
        display_description=record.description,
        use_quota=True,
        deleted=False,
        created_at=_time(record.created_at),
        snapshot_metadata=_pairs(record.metadata),
    )


def group_row(
    record: GroupRecord,
    *,
    host: str,
    pool: str,
    owner: Mapping[str, str],
    volume_type_ids: Sequence[str],
) -> Row:
    """The row of a group with its group type."""
    type_id = _type_id(json.dumps(["group", dict(record.specs)], sort_keys=True))
    group_type = Row(
        id=type_id,
        name=f"group-type-{type_id}",
        description=None,
        is_public=True,
        projects=[],
        group_specs=dict(record.specs),
        created_at=None,
        updated_at=None,
        deleted_at=None,
        deleted=False,
    )
    return Row(
        **owner,
        id=record.cinder_id,
        cluster_name=None,
        host=f"{host}#{pool}" if pool else host,
        availability_zone=None,
        name=record.name,
        description=record.description,
        group_type_id=type_id,
        group_type=group_type,
        volume_type_ids=list(volume_type_ids),
        status=_GROUP_STATUS.get(record.phase, "available"),
        group_snapshot_id=None,
        source_group_id=None,
        replication_status=record.provider.get("replication_status"),
        created_at=_time(record.created_at),
        updated_at=None,
        deleted_at=None,
        deleted=False,
    )


def group_snapshot_row(record: GroupSnapshotRecord, group: Row, owner: Mapping[str, str]) -> Row:
    """The row of a group snapshot."""
    return Row(
        **owner,
        id=record.cinder_id,
        group_id=group["id"],
        group=group,
        group_type_id=group["group_type_id"],
        name=record.name,
        description=record.description,
        status=_GROUP_STATUS.get(record.phase, "available"),
        created_at=_time(record.created_at),
        updated_at=None,
        deleted_at=None,
        deleted=False,
    )


def attachment_row(record: ConnectionRecord, volume_id: str) -> Row:
    """The row of an attachment; connector and connection info are JSON in Cinder too."""
    attaching = record.phase in (Phase.CREATING, Phase.ATTACHING, Phase.ERROR)
    return Row(
        id=record.cinder_id,
        volume_id=volume_id,
        instance_uuid=record.instance_uuid or None,
        attached_host=record.attached_host or record.connector.get("host"),
        mountpoint=record.mountpoint or None,
        attach_time=_time(record.created_at),
        attach_status="attaching" if attaching else "attached",
        attach_mode=record.attach_mode,
        connector=json.dumps(record.connector),
        connection_info=json.dumps(_flat(record.connection_info)),
        deleted=False,
    )


# Every volume has a type, and there are few.
@functools.lru_cache
def _type_id(content: str) -> str:
    return str(uuid.uuid5(_TYPE_NAMESPACE, content))


def _key_of(record: VolumeRecord) -> dict[str, str]:
    """The id of a volume's encryption key, by the name of Cinder's column."""
    return {"encryption_key_id": record.encryption.key_id} if record.encryption else {}


def type_of(record: VolumeRecord) -> Row:
    """The volume type that a volume's specs amount to."""
    return type_row(
        record.extra_specs,
        record.qos_specs,
        multiattach=record.multiattach,
        encryption=record.encryption,
    )


def type_row(
    extra_specs: Mapping[str, str],
    qos: Mapping[str, str],
    *,
    multiattach: bool,
    encryption: Encryption | None = None,
) -> Row:
    """The volume type that these specs amount to.

    A type has no record: equal specs are the same type, with an id made from them.
    ``qos`` may hold ``consumer`` (back-end, front-end or both), as in Cinder.
    """
    specs = dict(extra_specs)
    if multiattach:
        specs["multiattach"] = "<is> True"
    cipher = None
    if encryption is not None:
        cipher = {
            "provider": encryption.provider,
            "cipher": encryption.cipher,
            "key_size": encryption.key_size,
            "control_location": encryption.control_location,
        }
    content = [specs, dict(qos), cipher] if cipher else [specs, dict(qos)]
    type_id = _type_id(_SORTED.encode(content) if any(content) else _NO_SPECS)
    qos_row = None
    if qos:
        qos_row = Row(
            id=str(uuid.uuid5(_TYPE_NAMESPACE, type_id)),
            name=f"qos-{type_id}",
            consumer=qos.get("consumer", "back-end"),
            specs={key: value for key, value in qos.items() if key != "consumer"},
            created_at=None,
            deleted=False,
        )
    return Row(
        id=type_id,
        name=f"type-{type_id}" if specs or qos or cipher else "__DEFAULT__",
        description=None,
        is_public=True,
        projects=[],
        extra_specs=specs,
        qos_specs_id=qos_row["id"] if qos_row else None,
        qos_specs=qos_row,
        encryption=cipher and Row(cipher, encryption_id=type_id, volume_type_id=type_id),
        created_at=None,
        updated_at=None,
        deleted_at=None,
        deleted=False,
    )


def provider_fields(row: Row) -> dict[str, Any]:
    """The columns of a row that a record keeps as returned by the driver."""
    return {name: row[name] for name in PROVIDER_FIELDS if row.get(name) is not None}


def dictionary(pairs: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Metadata as a dictionary; rows have it as a list of pairs."""
    return {pair["key"]: pair["value"] for pair in pairs}


def merged(
    pairs: Sequence[Mapping[str, str]], changes: Mapping[str, str], *, replace: bool
) -> list[Row]:
    """Metadata with changes; ``replace`` drops what the changes do not name."""
    return _pairs({**({} if replace else dictionary(pairs)), **changes})


def _pairs(metadata: Mapping[str, str]) -> list[Row]:
    return [Row(key=key, value=value) for key, value in metadata.items()]


def _flat(connection_info: Mapping[str, Any]) -> dict[str, Any]:
    # An attachment of Cinder has the data beside driver_volume_type, not below "data".
    rest = {key: value for key, value in connection_info.items() if key != "data"}
    return {**connection_info.get("data", {}), **rest}


def _time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
