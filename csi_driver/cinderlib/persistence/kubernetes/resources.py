"""Which custom resource each record type is: names, columns, and what every field means.

Read by ``objects`` (records to objects and back) and by ``schemas`` (the custom resource
definitions, for which the texts here are what ``kubectl explain`` shows).  A test fails
for a record type or a field without its row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import msgspec

from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    GroupRecord,
    GroupSnapshotRecord,
    KeyValueRecord,
    LateAttemptRecord,
    OrphanRecord,
    Record,
    SnapshotRecord,
    TombstoneRecord,
    VolumeRecord,
)
from csi_driver.kube.group import GROUP, collection

FINALIZER = f"{GROUP}/backend"
"""Keeps an object while the backend may hold what it stands for."""

SCHEMA_ANNOTATION = f"{GROUP}/schema"
"""Annotation of a definition with the number of its schema."""

SCHEMA = 1
"""Raised with every change of a definition that an older definition would lose."""


@dataclass(frozen=True)
class Column:
    """A column of ``kubectl get``; ``wide`` ones only with ``-o wide``."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False


AGE = Column("Age", ".metadata.creationTimestamp", "date")


@dataclass(frozen=True)
class Resource:
    """A kind of object.

    :param status: the record's fields that tell how far something got; the others,
        which tell what was asked, are the ``spec``.
    :param own_ids: ids are made of the installation or of chance: one that is a UUID is
        unique in the cluster, and is the object's name.
    :param held: the backend holds something while the object is there.
    """

    record: type[Record]
    kind: str
    short: str
    about: str
    columns: tuple[Column, ...]
    status: frozenset[str] = frozenset()
    own_ids: bool = False
    held: bool = False
    extra_status: dict[str, str] = field(default_factory=dict)
    """Status fields that are not the record's: derived when an object is written."""

    @cached_property
    def plural(self) -> str:
        """The resource's name in paths."""
        return self.kind.lower() + "s"

    @cached_property
    def path(self) -> str:
        """The path of the collection."""
        return collection(self.plural)

    @cached_property
    def shown(self) -> frozenset[str]:
        """Paths of the columns, as ``.spec.backend``."""
        return frozenset(each.path for each in self.columns)

    def section(self, name: str) -> str:
        """Where a record's field is kept: ``spec`` or ``status``."""
        return "status" if name in self.status else "spec"


_PROGRESS = frozenset({"phase", "cinder_id", "provider", "operation", "suspects", "formatting"})

VOLUME = Resource(
    record=VolumeRecord,
    kind="CinderVolume",
    short="clvol",
    about="A volume on a storage backend, made through a Cinder volume driver.",
    columns=(
        Column("Volume", ".spec.name"),
        Column("Size GiB", ".spec.sizeGiB", "integer"),
        Column("Backend", ".spec.backend"),
        Column("Phase", ".status.phase"),
        Column("Attached to", ".status.attachedTo"),
        Column("Running", ".status.operation.kind"),
        Column("Pool", ".spec.pool", wide=True),
        Column("Claim", ".spec.metadata.csi\\.storage\\.k8s\\.io/pvc/name", wide=True),
        Column("Last error", ".status.operation.lastError", wide=True),
        AGE,
    ),
    status=_PROGRESS | {"admin_metadata", "identity"},
    own_ids=True,
    held=True,
    extra_status={
        "attachedTo": "Nodes that the volume is published to, for people; the"
        " CinderConnections are what counts."
    },
)

SNAPSHOT = Resource(
    record=SnapshotRecord,
    kind="CinderSnapshot",
    short="clsnap",
    about="A snapshot of a CinderVolume on its storage backend.",
    columns=(
        Column("Snapshot", ".spec.name"),
        Column("Volume", ".spec.volumeID"),
        Column("Size GiB", ".spec.sizeGiB", "integer"),
        Column("Backend", ".spec.backend"),
        Column("Phase", ".status.phase"),
        Column("Running", ".status.operation.kind"),
        Column("Last error", ".status.operation.lastError", wide=True),
        AGE,
    ),
    status=_PROGRESS,
    own_ids=True,
    held=True,
)

GROUP_OF_VOLUMES = Resource(
    record=GroupRecord,
    kind="CinderGroup",
    short="clgroup",
    about="A group of CinderVolumes of one backend.",
    columns=(
        Column("Group", ".spec.name"),
        Column("Backend", ".spec.backend"),
        Column("Phase", ".status.phase"),
        Column("Running", ".status.operation.kind"),
        AGE,
    ),
    status=_PROGRESS,
    own_ids=True,
    held=True,
)

GROUP_SNAPSHOT = Resource(
    record=GroupSnapshotRecord,
    kind="CinderGroupSnapshot",
    short="clgsnap",
    about="Snapshots of all volumes of a CinderGroup, made together.",
    columns=(
        Column("Group snapshot", ".spec.name"),
        Column("Group", ".spec.groupID"),
        Column("Backend", ".spec.backend"),
        Column("Phase", ".status.phase"),
        Column("Running", ".status.operation.kind"),
        AGE,
    ),
    status=_PROGRESS,
    own_ids=True,
    held=True,
)

CONNECTION = Resource(
    record=ConnectionRecord,
    kind="CinderConnection",
    short="clconn",
    about="A CinderVolume made accessible to one node.",
    columns=(
        Column("Volume", ".spec.volumeID"),
        Column("Node", ".spec.nodeID"),
        Column("Mode", ".spec.attachMode"),
        Column("Backend", ".spec.backend"),
        Column("Phase", ".status.phase"),
        Column("Running", ".status.operation.kind"),
        Column("Last error", ".status.operation.lastError", wide=True),
        AGE,
    ),
    status=frozenset(
        {
            "phase",
            "operation",
            "connection_info",
            "attach_info",
            "publish_context",
        }
    ),
    own_ids=True,
    held=True,
)

TOMBSTONE = Resource(
    record=TombstoneRecord,
    kind="CinderTombstone",
    short="cltomb",
    about="How often a CSI name was used: its next use gets another id.",
    columns=(Column("Incarnation", ".spec.incarnation", "integer"), AGE),
)

ORPHAN = Resource(
    record=OrphanRecord,
    kind="CinderOrphan",
    short="clorphan",
    about="Something that may be left on a backend, of which no proof could be had."
    " Look for it there, remove it, then delete this object (see `cinder-csi orphans`).",
    columns=(
        Column("Kind", ".spec.kind"),
        Column("Backend", ".spec.backend"),
        Column("Cinder ID", ".spec.id"),
        Column("Made for", ".spec.name"),
        Column("Reason", ".spec.reason", wide=True),
        AGE,
    ),
    own_ids=True,
)

LATE_ATTEMPT = Resource(
    record=LateAttemptRecord,
    kind="CinderLateAttempt",
    short="cllate",
    about="A backend call that another process began and that may still run: the controller"
    " removes what it may have made, at the time in status, and then this object.",
    columns=(
        Column("Call", ".spec.call"),
        Column("Backend", ".spec.backend"),
        Column("Cinder ID", ".spec.id"),
        Column("Made for", ".spec.name"),
        Column("Begun by", ".spec.owner"),
        Column("Last error", ".status.lastError", wide=True),
        AGE,
    ),
    status=frozenset({"look_at", "tries", "last_error", "objects"}),
    own_ids=True,
    held=True,
)

KEY_VALUE = Resource(
    record=KeyValueRecord,
    kind="CinderKeyValue",
    short="clkv",
    about="A value that a driver or this plugin keeps under a key.",
    columns=(Column("Key", ".spec.id"), AGE),
)

RESOURCES: tuple[Resource, ...] = (
    VOLUME,
    SNAPSHOT,
    GROUP_OF_VOLUMES,
    GROUP_SNAPSHOT,
    CONNECTION,
    TOMBSTONE,
    ORPHAN,
    LATE_ATTEMPT,
    KEY_VALUE,
)
"""Every kind of record, in the order of their definitions."""

BY_RECORD: dict[type[Record], Resource] = {each.record: each for each in RESOURCES}

ABOUT: dict[str, str] = {
    "id": "The record's id; for volumes and snapshots the CSI id.",
    "name": "The name that the caller gave; for CSI the name of the request.",
    "kind": "What it is: volume, snapshot or connection.",
    "call": "The operation that the call belongs to: create, publish, extend, ...",
    "backend": "Name of the configured backend.",
    "pool": "Pool of the backend that holds it.",
    "phase": "Where in its life it is.",
    "size_gib": "Size in GiB.",
    "cinder_id": "The id that the Cinder driver sees; names on the array are made of it.",
    "created_at": "Seconds since the epoch.",
    "incarnation": "Which use of the name this is; a deleted name's next use is one more.",
    "description": "What the caller said about it.",
    "source": "What it was made from.",
    "request": "What the caller asked, normalised: an equal call is recognised by it.",
    "provider": "What the Cinder driver returned (provider_location, ...); secrets are sealed.",
    "metadata": "Metadata that the driver sees: for CSI the names of claim and volume.",
    "admin_metadata": "Metadata that the driver keeps.",
    "extra_specs": "Extra specs of the volume's type.",
    "qos_specs": "QoS specs of the volume's type.",
    "multiattach": "Whether several nodes may have it at a time.",
    "availability_zone": "Availability zone that the driver sees.",
    "bootable": "Whether it is marked bootable.",
    "formatting": "Whether a filesystem may be made on it, and which one it has.",
    "identity": "Device identity that every node must find.",
    "operation": "The operation in progress; absent when nothing runs.",
    "suspects": "Cinder ids of attempts whose outcome is unknown; removed until proved absent.",
    "group_id": "Id of the group.",
    "group_snapshot_id": "Id of the group snapshot that it is part of.",
    "specs": "Specs of the group's type.",
    "encryption": "How nodes encrypt it; absent when they do not.",
    "volume_id": "Id of the volume.",
    "node_id": "CSI id of the node.",
    "attach_mode": "rw or ro.",
    "connector": "Connector properties of the node (host name, initiators, addresses).",
    "connection_info": "What the driver says how to connect; sealed.",
    "attach_info": "Of an attachment to the controller's own host; sealed.",
    "publish_context": "The sealed answer of ControllerPublishVolume.",
    "attached_host": "Host that it is attached to, when a program says so.",
    "mountpoint": "Where it is mounted, when a program says so.",
    "instance_uuid": "Instance that uses it, when a program says so.",
    "deleted_at": "Seconds since the epoch.",
    "csi_id": "Id of the object that the attempt was made for.",
    "since": "Seconds since the epoch.",
    "owner": "Host and process that began it.",
    "look_at": "When it is removed again, in seconds since the epoch.",
    "tries": "How often its removal failed.",
    "last_error": "Why its removal failed last.",
    "objects": "The records that its removal needs; sealed.",
    "reason": "Why no proof could be had.",
    "value": "The value; sealed.",
    # of the operation
    "operation.kind": "create, delete, publish, ...",
    "operation.step": "The last step that was recorded.",
    "operation.since": "Seconds since the epoch.",
    "operation.owner": "Host and process that runs it.",
    "operation.attempts": "How often it was begun.",
    "operation.last_error": "Why the last attempt failed.",
    "operation.size_gib": "Size in GiB that an expansion leads to.",
    "operation.snapshot_id": "Snapshot that the volume is reverted to.",
    "operation.wanted": "What else was asked: specs of a retype, reference of an import.",
    "encryption.provider": "luks or luks2.",
    "encryption.cipher": "Cipher, as cryptsetup names it.",
    "encryption.key_size": "Bits.",
    "encryption.key_id": "Name of the key, which is kept elsewhere.",
    "encryption.control_location": "front-end: the node encrypts.",
    "encryption.formatted": "It has a LUKS header, and none is ever made again.",
    "source.kind": "volume or snapshot; of a group: group or group_snapshot.",
    "source.id": "Its id.",
    "formatting.state": "never, formatted, raw or unknown; only never may become a filesystem.",
    "formatting.fs_type": "Type of the filesystem that it has or is to get.",
    "formatting.fs_uuid": "UUID of the filesystem that it has or is to get.",
}
"""What a field means, by its name in the record; of a nested one with its field before it."""

_INITIALS = {"id": "ID", "gib": "GiB", "uuid": "UUID", "csi": "csi"}


def camel(name: str) -> str:
    """A record's field as Kubernetes spells it: ``size_gib`` is ``sizeGiB``."""
    first, *rest = name.split("_")
    return first + "".join(_INITIALS.get(word, word.capitalize()) for word in rest)


_OF_STORES = ("version", "unknown_fields")
"""Fields of a record that an object has a place of its own for."""


def fields(record: type[Record]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """The fields that an object keeps.

    The version is the store's, and what a newer version of this program wrote stays in the
    object without being read.
    """
    others = ("version", "unknown_fields")
    return tuple(each for each in msgspec.structs.fields(record) if each.name not in others)
