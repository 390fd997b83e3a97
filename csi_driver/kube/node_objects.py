"""What nodes tell, as Kubernetes objects: CinderNode and CinderConfirmation.

Made and read by the node's ledger and by the controller, both in ``cli``; knows neither of
them, and no record: a node process loads nothing else of the store.  Nodes write these two
kinds and no other.  Their own name stands in ``spec.nodeID``, by which an admission policy
holds each of them to what is its own; no secret is in either, for every node may read them.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from csi_driver.base import decoding
from csi_driver.base.values import Confirmation, NodeRegistration
from csi_driver.kube.api import Object
from csi_driver.kube.group import API_VERSION, DRIVER_LABEL, collection

NODES = collection("cindernodes")
CONFIRMATIONS = collection("cinderconfirmations")


class CinderNode(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The ``spec`` of a CinderNode; see :class:`csi_driver.base.values.NodeRegistration`."""

    node_id: str = msgspec.field(name="nodeID")
    driver: str
    connector: dict[str, Any]
    topology: dict[str, str] = {}
    max_volumes: int = 0
    version: str = ""


class CinderConfirmation(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True
):
    """The ``spec`` of a CinderConfirmation; see :class:`csi_driver.base.values.Confirmation`."""

    volume_id: str = msgspec.field(name="volumeID")
    node_id: str = msgspec.field(name="nodeID")
    state: str
    fs_type: str = ""
    fs_uuid: str = msgspec.field(name="fsUUID", default="")
    identity: str = ""


S = TypeVar("S", CinderNode, CinderConfirmation)


def node_name(node_id: str, driver: str) -> str:
    """The name of a node's object: several drivers may run on one node."""
    return f"{node_id}.{driver}".lower()


def node_object(registration: NodeRegistration, driver: str) -> Object:
    """The object that registers a node."""
    spec = CinderNode(
        node_id=registration.node_id,
        driver=driver,
        connector=registration.connector,
        topology=registration.topology,
        max_volumes=registration.max_volumes,
        version=registration.version,
    )
    return _object("CinderNode", node_name(registration.node_id, driver), driver, spec)


def confirmation_object(confirmation: Confirmation, node_id: str, driver: str) -> Object:
    """The object that tells what a node proved about a volume."""
    spec = CinderConfirmation(
        volume_id=confirmation.volume_id,
        node_id=node_id,
        state=confirmation.formatting.state.value,
        fs_type=confirmation.formatting.fs_type,
        fs_uuid=confirmation.formatting.fs_uuid,
        identity=confirmation.identity,
    )
    return _object("CinderConfirmation", confirmation.volume_id, driver, spec)


def registration_of(item: Object) -> NodeRegistration | None:
    """The registration that an object tells; None when somebody wrote something else."""
    spec = _spec(item, CinderNode)
    if spec is None:
        return None
    return NodeRegistration(
        node_id=spec.node_id,
        connector=spec.connector,
        topology=spec.topology,
        max_volumes=spec.max_volumes,
        version=spec.version,
    )


def confirmation_of(item: Object) -> tuple[Confirmation, str] | None:
    """What an object confirms, and which node says so; None when it says something else."""
    spec = _spec(item, CinderConfirmation)
    if spec is None:
        return None
    formatting = {"state": spec.state, "fs_type": spec.fs_type, "fs_uuid": spec.fs_uuid}
    told = {"volume_id": spec.volume_id, "formatting": formatting, "identity": spec.identity}
    try:
        return msgspec.convert(told, Confirmation), spec.node_id
    except msgspec.ValidationError:
        return None


def _object(kind: str, name: str, driver: str, spec: msgspec.Struct) -> Object:
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name, "labels": {DRIVER_LABEL: driver}},
        "spec": msgspec.to_builtins(spec),
    }


def _spec(item: Object, kind: type[S]) -> S | None:
    try:
        return msgspec.convert(item.get("spec"), kind)
    except msgspec.ValidationError:
        return None


decoding.prepare(__name__)
