"""Which keys something is sealed with; for ``cinder-csi keys``.

A key that nothing here names may be removed from its ring.  Nothing is opened: sealed text
names its key, and an id is not secret.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from csi_driver.base import sealing
from csi_driver.base.errors import StateDirectoryError
from csi_driver.base.files import read_text
from csi_driver.base.publish_context import KEY
from csi_driver.cinderlib.persistence import importing
from csi_driver.cinderlib.persistence.kubernetes.reading import ClusterReader
from csi_driver.cinderlib.persistence.records import (
    RECORD_TYPES,
    ConnectionRecord,
    KeyValueRecord,
)
from csi_driver.cinderlib.persistence.sealed import keys_of
from csi_driver.cinderlib.persistence.store import RecordStore, StoreUnavailable
from csi_driver.kube.api import Api
from csi_driver.kube.errors import ApiError

_ATTACHMENTS = "/apis/storage.k8s.io/v1/volumeattachments"


def transport_keys_in_use(store: RecordStore, directory: Path) -> Counter[str]:
    """Ids of the transport keys that a publish_context is sealed with, and how often.

    Looks at connections, and at what a node of this state directory has staged: a
    volume that was unpublished by force is not unstaged yet.

    :raises CinderCSIError: store or node state cannot be read.
    """
    contexts = [record.publish_context for record in store.list(ConnectionRecord)]
    contexts += [_staged_context(path) for path in (directory / "node").glob("volumes/*.json")]
    return _of_contexts(contexts)


def in_cluster(api: Api, driver: str) -> tuple[Counter[str], Counter[str]]:
    """Ids of the records keys and of the transport keys in use in a cluster, and how often.

    Looks at all records, and at VolumeAttachments: one may outlive its connection, which
    somebody removed by hand, and is what kubelet stages and unstages from.

    :raises ConfigurationError: the cluster has no records of the driver, or an import of them
        was not finished.
    :raises CinderCSIError: they cannot be read.
    """
    reader = ClusterReader(api, driver)
    try:
        by_kind = {kind: reader.list(kind) for kind in RECORD_TYPES}
        # What is missing yet may need a key that seems to be in no use.
        importing.refuse(importing.marker_among(by_kind[KeyValueRecord]))
        contexts = [
            record.publish_context
            for record in by_kind[ConnectionRecord]
            if isinstance(record, ConnectionRecord)
        ]
        contexts += _attached_contexts(api, driver)
    finally:
        reader.close()
    records = keys_of(record for found in by_kind.values() for record in found)
    return records, _of_contexts(contexts)


def _attached_contexts(api: Api, driver: str) -> list[dict[str, str]]:
    try:
        items, _ = api.list(_ATTACHMENTS)
    except ApiError as error:
        raise StoreUnavailable(
            f"The VolumeAttachments cannot be read: {error.message}",
            advice="Give the --kubeconfig of somebody who may list them",
        ) from error
    return [
        (item.get("status") or {}).get("attachmentMetadata") or {}
        for item in items
        if item["spec"]["attacher"] == driver
    ]


def _of_contexts(contexts: Iterable[Mapping[str, str]]) -> Counter[str]:
    # Once per publication: others keep the context as the connection has it.
    return Counter(map(sealing.key_id_of, {c[KEY] for c in contexts if KEY in c}))


class _Staged(msgspec.Struct):
    """Of a node's state file only what is needed here."""

    publish_context: dict[str, str]


def _staged_context(path: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode(read_text(path) or "{}", type=_Staged).publish_context
    except msgspec.DecodeError as error:
        raise StateDirectoryError(
            f"{path} is damaged: {error}", advice="Unstage the volume, and prune then"
        ) from error
