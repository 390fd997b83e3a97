"""StorageClass parameters: which there are, and what is made of them.  Pure.

The tables here are the one list of what is accepted; ``docs/parameters.md`` is
generated from them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import msgspec

from csi_driver.base.errors import InvalidRequest

KUBERNETES_PREFIX = "csi.storage.k8s.io/"
"""Keys that Kubernetes' sidecars add; accepted, and kept as metadata where known."""

VOLUME_PARAMETERS: dict[str, str] = {
    "backend": "Name of the backend that makes the volume; default: the only or the first one",
    "pool": "Name of a pool of that backend; default: the pool with the most free space",
}
"""StorageClass parameter -> what it means."""

SNAPSHOT_PARAMETERS: dict[str, str] = {}
"""VolumeSnapshotClass parameter -> what it means."""

METADATA_KEYS: dict[str, str] = {
    KUBERNETES_PREFIX + "pvc/name": "PVC name",
    KUBERNETES_PREFIX + "pvc/namespace": "PVC namespace",
    KUBERNETES_PREFIX + "pv/name": "PV name",
    KUBERNETES_PREFIX + "volumesnapshot/name": "VolumeSnapshot name",
    KUBERNETES_PREFIX + "volumesnapshot/namespace": "VolumeSnapshot namespace",
    KUBERNETES_PREFIX + "volumesnapshotcontent/name": "VolumeSnapshotContent name",
}
"""Kubernetes' keys that are kept as the object's metadata."""


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of a class, understood.

    ``chosen`` are ours as given, to recognise an equal call; ``metadata`` and
    ``description`` carry Kubernetes' names to the backend.
    """

    chosen: dict[str, str]
    metadata: dict[str, str]
    description: str

    @property
    def backend(self) -> str:
        """The backend asked for, '' for the default."""
        return self.chosen.get("backend", "")

    @property
    def pool(self) -> str:
        """The pool asked for, '' for any."""
        return self.chosen.get("pool", "")


def parse(given: Mapping[str, str], accepted: Mapping[str, str]) -> Parameters:
    """Understand the parameters of a class.

    :param accepted: :data:`VOLUME_PARAMETERS` or :data:`SNAPSHOT_PARAMETERS`.
    :raises InvalidRequest: an unknown parameter, with the nearest right name.
    """
    chosen: dict[str, str] = {}
    metadata: dict[str, str] = {}
    for key, value in given.items():
        if key.startswith(KUBERNETES_PREFIX):
            if key in METADATA_KEYS:
                metadata[key] = value
        elif key in accepted:
            chosen[key] = value
        else:
            raise _unknown(key, accepted)
    return Parameters(chosen=chosen, metadata=metadata, description=describe(metadata))


def describe(metadata: Mapping[str, str]) -> str:
    """One line for a backend's description field; '' without Kubernetes' names."""
    names = []
    for prefix, label in (("pvc", "PVC"), ("volumesnapshot", "VolumeSnapshot")):
        name = metadata.get(f"{KUBERNETES_PREFIX}{prefix}/name")
        if name:
            namespace = metadata.get(f"{KUBERNETES_PREFIX}{prefix}/namespace", "")
            names.append(f"{label} {namespace}/{name}" if namespace else f"{label} {name}")
    volume = metadata.get(f"{KUBERNETES_PREFIX}pv/name")
    if volume:
        names.append(f"PV {volume}")
    return ", ".join(names)


def _unknown(key: str, accepted: Mapping[str, str]) -> InvalidRequest:
    known = [*accepted, *METADATA_KEYS]
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    names = ", ".join(sorted(accepted)) or "none"
    return InvalidRequest(
        f"Unknown parameter {key!r}",
        advice=f"Did you mean {nearest[0]!r}?" if nearest else f"Accepted parameters: {names}",
    )
