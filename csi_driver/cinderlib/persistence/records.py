"""The records that every store keeps: what was asked, what the driver returned, how far it got.

Written by ``controller`` and by the object layer, read by both; a store only
keeps them.  Records are frozen: a change is a new record with the same ``id``,
and the store refuses it when the ``version`` is not the stored one.
``id`` is ours (for the CSI services: the CSI id); ``cinder_id`` is what the
driver sees, another one for every attempt on a backend.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar

import msgspec

from csi_driver.base import decoding
from csi_driver.base.values import Formatting


class Phase(StrEnum):
    """Where in its life the object is."""

    CREATING = "creating"
    AVAILABLE = "available"
    DELETING = "deleting"
    REVERTING = "reverting"
    MANAGING = "managing"
    ERROR_MANAGING = "error_managing"
    UNMANAGING = "unmanaging"
    ERROR = "error"
    ATTACHING = "attaching"
    ATTACHED = "attached"
    DETACHING = "detaching"


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """The operation in progress on an object.

    ``since`` is seconds since the epoch; ``owner`` names host and process;
    ``size_gib`` is the size that an extension leads to, ``snapshot_id`` the
    snapshot that a volume is reverted to, ``wanted`` what else was asked: the specs
    of a retype, the reference of an import.
    """

    kind: str
    step: str
    since: float
    owner: str
    attempts: int = 1
    last_error: str = ""
    size_gib: int = 0
    snapshot_id: str = ""
    wanted: dict[str, Any] = {}


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """What a volume or group was made from.

    ``kind`` is "volume" or "snapshot"; for a group "group" or "group_snapshot".
    """

    kind: str
    id: str


class Encryption(msgspec.Struct, frozen=True, kw_only=True):
    """How a volume is encrypted on the hosts that attach it.

    ``key_id`` names the key; the key itself is never recorded.  ``key_size`` is in
    bits.  ``formatted``: the volume has a LUKS header, so none is ever made again.
    """

    provider: str
    cipher: str
    key_size: int
    key_id: str
    control_location: str = "front-end"
    formatted: bool = False


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the records.  ``version`` 0 is a record that no store has yet.

    ``unknown_fields`` are those that a newer version of this program gave a record:
    ``codec`` puts them here, and back when a changed record is stored.
    """

    KIND: ClassVar[str] = ""
    INDEXED: ClassVar[tuple[str, ...]] = ()

    id: str
    version: int = 0
    unknown_fields: dict[str, msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET

    @property
    def pending(self) -> str:
        """``yes`` while an operation is in progress, for the index; else ''."""
        return "yes" if getattr(self, "operation", None) is not None else ""


class VolumeRecord(Record, frozen=True, kw_only=True):
    """A volume.

    ``request`` is what the caller asked, normalised, to recognise an equal call.
    ``provider`` holds the fields that the driver returned (provider_location,
    provider_id, provider_auth, replication_status, ...).  ``suspects`` are the
    Cinder ids of earlier attempts whose outcome is unknown.  ``group_id`` is the
    record id of its group.
    """

    KIND: ClassVar[str] = "volume"
    INDEXED: ClassVar[tuple[str, ...]] = ("name", "backend", "cinder_id", "phase", "pending")

    name: str
    backend: str
    phase: Phase
    size_gib: int
    cinder_id: str
    created_at: float
    pool: str = ""
    incarnation: int = 1
    description: str = ""
    source: Source | None = None
    request: dict[str, Any] = {}
    provider: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    admin_metadata: dict[str, str] = {}
    extra_specs: dict[str, str] = {}
    qos_specs: dict[str, str] = {}
    multiattach: bool = False
    availability_zone: str = ""
    bootable: bool = False
    formatting: Formatting = Formatting()
    identity: str = ""
    group_id: str = ""
    encryption: Encryption | None = None
    operation: Operation | None = None
    suspects: tuple[str, ...] = ()


class SnapshotRecord(Record, frozen=True, kw_only=True):
    """A snapshot; ``size_gib``, ``formatting`` and ``encryption`` are the volume's at the cut.

    ``group_snapshot_id`` is the record id of the group snapshot that it is part of.
    """

    KIND: ClassVar[str] = "snapshot"
    INDEXED: ClassVar[tuple[str, ...]] = (
        "name",
        "volume_id",
        "backend",
        "cinder_id",
        "phase",
        "pending",
    )

    name: str
    volume_id: str
    backend: str
    phase: Phase
    size_gib: int
    cinder_id: str
    created_at: float
    incarnation: int = 1
    description: str = ""
    request: dict[str, Any] = {}
    provider: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    formatting: Formatting = Formatting()
    group_snapshot_id: str = ""
    encryption: Encryption | None = None
    operation: Operation | None = None
    suspects: tuple[str, ...] = ()


class GroupRecord(Record, frozen=True, kw_only=True):
    """A group of volumes of one backend; each volume's record names it.

    ``specs`` are the group type's, as ``consistent_group_snapshot_enabled``.
    ``provider`` holds what the driver returned (replication_status).
    """

    KIND: ClassVar[str] = "group"
    INDEXED: ClassVar[tuple[str, ...]] = ("name", "backend", "cinder_id", "phase", "pending")

    name: str
    backend: str
    phase: Phase
    cinder_id: str
    created_at: float
    description: str = ""
    specs: dict[str, str] = {}
    source: Source | None = None
    provider: dict[str, Any] = {}
    operation: Operation | None = None


class GroupSnapshotRecord(Record, frozen=True, kw_only=True):
    """Snapshots of all volumes of a group, made together; each one's record names it."""

    KIND: ClassVar[str] = "group_snapshot"
    INDEXED: ClassVar[tuple[str, ...]] = (
        "name",
        "group_id",
        "backend",
        "cinder_id",
        "phase",
        "pending",
    )

    name: str
    group_id: str
    backend: str
    phase: Phase
    cinder_id: str
    created_at: float
    description: str = ""
    operation: Operation | None = None


class ConnectionRecord(Record, frozen=True, kw_only=True):
    """A volume made accessible to one host (for CSI: published to a node).

    ``connection_info`` is what ``initialize_connection`` returned, completed as
    Cinder's manager does.  ``publish_context`` is the sealed answer, kept so that
    a retry answers the same bytes.  ``attach_info`` is set for a local attachment.
    """

    KIND: ClassVar[str] = "connection"
    INDEXED: ClassVar[tuple[str, ...]] = ("volume_id", "node_id", "backend", "phase", "pending")

    volume_id: str
    backend: str
    phase: Phase
    cinder_id: str
    created_at: float
    node_id: str = ""
    attach_mode: str = "rw"
    connector: dict[str, Any] = {}
    connection_info: dict[str, Any] = {}
    attach_info: dict[str, Any] = {}
    request: dict[str, Any] = {}
    publish_context: dict[str, str] = {}
    attached_host: str = ""
    mountpoint: str = ""
    instance_uuid: str = ""
    operation: Operation | None = None


class TombstoneRecord(Record, frozen=True, kw_only=True):
    """How often a CSI name was used: ``id`` is derived from kind and name.

    ``incarnation`` is the last one that was deleted; the next one is one more.
    ``deleted_at`` is seconds since the epoch; old tombstones are pruned.
    """

    KIND: ClassVar[str] = "tombstone"

    incarnation: int
    deleted_at: float = 0.0


class OrphanRecord(Record, frozen=True, kw_only=True):
    """Something that may be left on a backend, of which no proof could be had.

    ``id`` is the Cinder id that the driver was given, ``kind`` "volume" or "snapshot";
    ``csi_id`` and ``name`` are those of the object that an attempt was made for.
    ``since`` is seconds since the epoch.  Removed by the administrator only.
    """

    KIND: ClassVar[str] = "orphan"
    INDEXED: ClassVar[tuple[str, ...]] = ("backend",)

    kind: str
    backend: str
    name: str
    csi_id: str
    since: float
    reason: str


class LateAttemptRecord(Record, frozen=True, kw_only=True):
    """A backend call that another process began, and that may still run.

    ``id`` is the Cinder id of what it works on, ``kind`` "volume", "snapshot" or
    "connection", ``call`` the operation that it belongs to (create, unpublish, extend, ...);
    ``csi_id`` and ``name`` are those of the volume or snapshot, which may be deleted by now.
    What it may have made is removed again at ``look_at`` (seconds since the epoch, as
    ``since``): then the record goes.  ``tries`` counts removals that failed, ``last_error``
    tells why.  ``size_gib`` is the size that an extension leads to.  ``objects`` holds the
    records that the driver's removal needs.
    """

    KIND: ClassVar[str] = "late_attempt"

    kind: str
    call: str
    backend: str
    name: str
    csi_id: str
    owner: str
    since: float
    look_at: float
    tries: int = 0
    last_error: str = ""
    size_gib: int = 0
    objects: dict[str, Any] = {}


class KeyValueRecord(Record, frozen=True, kw_only=True):
    """A free entry: ``id`` is the key."""

    KIND: ClassVar[str] = "key_value"

    value: Any


def without_version(record: Record) -> Record:
    """The record as every store may have it: a version belongs to one store."""
    return msgspec.structs.replace(record, version=0)


RECORD_TYPES: tuple[type[Record], ...] = (
    VolumeRecord,
    SnapshotRecord,
    GroupRecord,
    GroupSnapshotRecord,
    ConnectionRecord,
    TombstoneRecord,
    OrphanRecord,
    LateAttemptRecord,
    KeyValueRecord,
)
"""Every record type, for stores that prepare a place for each."""


decoding.prepare(__name__)
