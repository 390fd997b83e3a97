"""What Kubernetes has beside the records: volumes, snapshots and attachments that users see.

Used by ``cinder-csi records check`` in a cluster.  After a restoration the two differ by what
happened since the backup, and this tells where.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from csi_driver.base.values import GIB
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    Phase,
    Record,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.kube.api import Api, Object
from csi_driver.kube.errors import ApiError, ApiNotFound, ApiResourceMissing

_VOLUMES = "/api/v1/persistentvolumes"
_CONTENTS = "/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents"
_ATTACHMENTS = "/apis/storage.k8s.io/v1/volumeattachments"

SETTLED_SECONDS = 60.0
"""A record this young may be ahead of its object."""


@dataclass(frozen=True)
class Unmatched:
    """What has no counterpart, a sentence for each.

    :ivar problems: objects that users have, without a record.
    :ivar notes: records that nothing in the cluster stands for; that may be as somebody wants it.
    """

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Counterparts:
    """Volumes and snapshots by their CSI ids, attachments by CSI id and node, and their names.

    :ivar unread: why something of it could not be read.
    :ivar sizes: bytes of volumes by their CSI ids, as far as they are told in a usual way.
    """

    volumes: dict[str, str]
    snapshots: dict[str, str]
    attachments: dict[tuple[str, str], str]
    unread: tuple[str, ...]
    sizes: dict[str, int] = field(default_factory=dict)


def look(api: Api, driver: str) -> Counterparts:
    """What the cluster has of a driver now; to be asked before the records are read."""
    unread: list[str] = []
    objects = [
        each
        for each in _items(api, _VOLUMES, unread)
        if (each["spec"].get("csi") or {}).get("driver") == driver
    ]
    volumes = {each["metadata"]["name"]: each["spec"]["csi"]["volumeHandle"] for each in objects}
    sizes = {
        each["spec"]["csi"]["volumeHandle"]: size
        for each in objects
        if (size := bytes_of((each["spec"].get("capacity") or {}).get("storage", "")))
    }
    snapshots = {
        handle: each["metadata"]["name"]
        for each in _items(api, _CONTENTS, unread)
        if each["spec"]["driver"] == driver
        and (handle := (each.get("status") or {}).get("snapshotHandle"))
    }
    attachments = {}
    for each in _items(api, _ATTACHMENTS, unread):
        spec = each["spec"]
        handle = volumes.get(spec["source"].get("persistentVolumeName", ""))
        if spec["attacher"] == driver and handle and (each.get("status") or {}).get("attached"):
            attachments[handle, spec["nodeName"]] = each["metadata"]["name"]
    by_handle = {handle: name for name, handle in volumes.items()}
    return Counterparts(by_handle, snapshots, attachments, tuple(unread), sizes)


def compare(there: Counterparts, records: Sequence[Record], now: float) -> Unmatched:
    """What is on one side only.  Pure.

    :param now: seconds since the epoch.
    """
    known = {(type(each), each.id) for each in records}
    published = {
        (each.volume_id, each.node_id) for each in records if isinstance(each, ConnectionRecord)
    }
    problems = [
        f"The PersistentVolume {name} ({handle}) has no record"
        for handle, name in there.volumes.items()
        if (VolumeRecord, handle) not in known
    ]
    problems += [
        f"The VolumeSnapshotContent {name} ({handle}) has no record"
        for handle, name in there.snapshots.items()
        if (SnapshotRecord, handle) not in known
    ]
    problems += [
        f"The VolumeAttachment {name}, of volume {handle} to node {node}, has no record"
        for (handle, node), name in there.attachments.items()
        if (handle, node) not in published and (VolumeRecord, handle) in known
    ]
    problems += _extended_since(there, records)
    notes = list(there.unread)
    if not notes:
        old = [each for each in records if now - getattr(each, "created_at", now) > SETTLED_SECONDS]
        notes += _without_object(there, old)
    return Unmatched(tuple(problems), tuple(notes))


def bytes_of(quantity: str) -> int:
    """Bytes of a quantity of Kubernetes, as "5Gi"; 0 for one with a fraction or exponent."""
    found = re.fullmatch(r"(\d+)([KMGTPE]i|[kMGTPE]|)", quantity)
    if found is None:
        return 0
    prefix = found[2][:1].upper()
    base = 1024 if found[2].endswith("i") else 1000
    return int(found[1]) * int(base ** (" KMGTPE".index(prefix) if prefix else 0))


def _extended_since(there: Counterparts, records: Sequence[Record]) -> Iterator[str]:
    """Snapshots and copies of such a volume would get the size that the record says."""
    for each in records:
        if isinstance(each, VolumeRecord) and there.sizes.get(each.id, 0) > each.size_gib * GIB:
            name = there.volumes[each.id]
            yield (
                f"The PersistentVolume {name} ({each.id}) has {there.sizes[each.id]} bytes, its"
                f" record {each.size_gib} GiB"
            )


def _without_object(there: Counterparts, records: Sequence[Record]) -> Iterator[str]:
    for each in records:
        if isinstance(each, ConnectionRecord):
            if (each.volume_id, each.node_id) not in there.attachments:
                what = f"volume {each.volume_id} is published to {each.node_id}"
                yield f"{what} without a VolumeAttachment"
        elif getattr(each, "phase", None) is not Phase.AVAILABLE:
            continue
        elif isinstance(each, VolumeRecord) and each.id not in there.volumes:
            yield f"volume {each.id} ({each.name}) has no PersistentVolume"
        elif isinstance(each, SnapshotRecord) and each.id not in there.snapshots:
            yield f"snapshot {each.id} ({each.name}) has no VolumeSnapshotContent"


def _items(api: Api, path: str, unread: list[str]) -> list[Object]:
    try:
        return api.list(path)[0]
    except (ApiNotFound, ApiResourceMissing):  # the definitions of snapshots are not installed
        return []
    except ApiError as error:
        unread.append(f"not compared with {path.rpartition('/')[2]}: {error.message}")
        return []
