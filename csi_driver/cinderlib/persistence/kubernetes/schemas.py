"""The custom resource definitions, made from the record types.

Called by ``tools/generate_manifests.py``, which writes them below ``charts/`` and
``manifests/``, and by ``store``, which compares their number with the installed ones.
The plugin itself never installs them.
"""

from __future__ import annotations

import enum
import types
import typing
from typing import Any

import msgspec

from csi_driver.base.values import FormattingState
from csi_driver.cinderlib.persistence.kubernetes.objects import struct_of
from csi_driver.cinderlib.persistence.kubernetes.resources import (
    ABOUT,
    AGE,
    RESOURCES,
    SCHEMA,
    SCHEMA_ANNOTATION,
    Column,
    Resource,
    camel,
    fields,
)
from csi_driver.kube.group import CATEGORY, GROUP, VERSION

Schema = dict[str, Any]

_FREE: Schema = {"x-kubernetes-preserve-unknown-fields": True}

_SCALARS: dict[Any, Schema] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer", "format": "int64"},
    float: {"type": "number"},
    Any: _FREE,
    dict[str, str]: {"type": "object", "additionalProperties": {"type": "string"}},
    dict[str, Any]: {"type": "object"} | _FREE,
    tuple[str, ...]: {"type": "array", "items": {"type": "string"}},
}


def definitions() -> list[Schema]:
    """Every definition: of the records, and of what a cluster keeps besides."""
    return [*map(_of_resource, RESOURCES), INSTALLATION, NODE, CONFIRMATION]


def _of_resource(resource: Resource) -> Schema:
    spec: Schema = {}
    status: Schema = {
        "recordVersion": {
            "type": "integer",
            "format": "int64",
            "description": "Drawn by the writer of each change of the record.",
        }
    }
    for info in fields(resource.record):
        section = status if resource.section(info.name) == "status" else spec
        section[camel(info.name)] = _schema(info, info.name)
    if "phase" in resource.status:
        status["conditions"] = _CONDITIONS
    for name, about in resource.extra_status.items():
        status[name] = {"type": "string", "description": about}
    return _definition(
        resource.kind, resource.plural, resource.short, resource.about, spec, status,
        resource.columns,
    )  # fmt: skip


def _schema(info: msgspec.structs.FieldInfo, place: str) -> Schema:
    about = {"description": ABOUT[place]}
    struct = struct_of(info.type)
    if struct is None:
        return about | _scalar(info.type)
    properties = {
        camel(inner.name): _schema(inner, f"{place}.{inner.name}")
        for inner in msgspec.structs.fields(struct)
    }
    return about | {"type": "object", "properties": properties}


def _scalar(annotation: Any) -> Schema:
    if isinstance(annotation, type) and issubclass(annotation, enum.StrEnum):
        return {"type": "string", "enum": [each.value for each in annotation]}
    if isinstance(annotation, types.UnionType):
        (annotation,) = (each for each in typing.get_args(annotation) if each is not type(None))
    return _SCALARS[annotation]


def _definition(
    kind: str,
    plural: str,
    short: str,
    about: str,
    spec: Schema,
    status: Schema,
    columns: tuple[Column, ...],
) -> Schema:
    top: Schema = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": {"type": "object", "properties": spec},
    }
    if status:
        top["status"] = {"type": "object", "properties": status}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{GROUP}",
            "annotations": {SCHEMA_ANNOTATION: str(SCHEMA)},
        },
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": [CATEGORY],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "description": about,
                            "required": ["spec"],
                            "properties": top,
                        }
                    },
                    "additionalPrinterColumns": [_column(each) for each in columns],
                }
            ],
        },
    }


def _column(column: Column) -> Schema:
    made: Schema = {"name": column.name, "type": column.type, "jsonPath": column.path}
    return made | {"priority": 1} if column.wide else made


_CONDITIONS: Schema = {
    "type": "array",
    "description": "Ready tells whether the object can be used, and if not, why.",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["type"],
    "items": {
        "type": "object",
        "required": ["type", "status"],
        "properties": {
            "type": {"type": "string"},
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "reason": {"type": "string"},
            "message": {"type": "string"},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
        },
    },
}

INSTALLATION = _definition(
    "CinderInstallation",
    "cinderinstallations",
    "clinst",
    "The identity of one installation of the driver, from which all ids are made; its name is"
    " the CSI driver name. Losing it makes every volume of the cluster unknown: keep a backup.",
    {"installationID": {"type": "string", "description": "Random, made once."}},
    {},
    (Column("Installation", ".spec.installationID"), AGE),
)
"""Written once, by the first controller that starts."""

_TEXT: Schema = {"type": "string"}

NODE = _definition(
    "CinderNode",
    "cindernodes",
    "clnode",
    "A node that volumes can be published to, as it registered itself.",
    {
        "nodeID": _TEXT | {"description": "CSI node id: the Kubernetes node's name."},
        "driver": _TEXT | {"description": "CSI driver name."},
        "connector": {"type": "object", "description": ABOUT["connector"]} | _FREE,
        "topology": _SCALARS[dict[str, str]] | {"description": "CSI topology segments."},
        "maxVolumes": _SCALARS[int] | {"description": "Volumes that it takes at most; 0: any."},
        "version": _TEXT | {"description": "Version of the plugin on the node."},
    },
    {},
    (
        Column("Node", ".spec.nodeID"),
        Column("Driver", ".spec.driver"),
        Column("Address", ".spec.connector.ip"),
        Column("Initiator", ".spec.connector.initiator", wide=True),
        Column("Max volumes", ".spec.maxVolumes", "integer", wide=True),
        Column("Version", ".spec.version"),
        AGE,
    ),
)
"""Written by nodes, see :mod:`csi_driver.kube.node_objects`."""

CONFIRMATION = _definition(
    "CinderConfirmation",
    "cinderconfirmations",
    "clconf",
    "What a node proved about the bytes on a volume; decides whether mkfs may ever run on it.",
    {
        "volumeID": _TEXT | {"description": "CSI id of the volume."},
        "nodeID": _TEXT | {"description": "The node that says so."},
        "state": _scalar(FormattingState) | {"description": ABOUT["formatting.state"]},
        "fsType": _TEXT | {"description": "Type of the filesystem that it has."},
        "fsUUID": _TEXT | {"description": "UUID of the filesystem that it has."},
        "identity": _TEXT | {"description": ABOUT["identity"]},
    },
    {},
    (
        Column("Volume", ".spec.volumeID"),
        Column("State", ".spec.state"),
        Column("Filesystem", ".spec.fsType"),
        Column("Node", ".spec.nodeID"),
        AGE,
    ),
)
"""Written by nodes, see :mod:`csi_driver.kube.node_objects`."""
