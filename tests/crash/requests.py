"""CSI calls as values, so that a test can make the same one again and again."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import grpc

from csi_driver.base.values import GIB
from csi_driver.rpc._generated import administration_pb2
from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc._generated.administration_pb2_grpc import AdministrationStub
from csi_driver.rpc.client import Client
from csi_driver.rpc.errors import NON_FINAL
from tests.support.messages import mount
from tests.support.waiting import WAIT, look_again

NODE = "node-1"


@dataclass(frozen=True)
class Call:
    """A call of one of the two processes: of CSI, or of an administrator at the controller."""

    service: Literal["controller", "node", "administration"]
    method: str
    request: Any

    @property
    def role(self) -> str:
        """Which process it is for."""
        return "node" if self.service == "node" else "controller"


def begin(client: Client, call: Call) -> grpc.Future:
    """Make a call and do not wait for it."""
    administration = call.service == "administration"
    stub = AdministrationStub(client.channel) if administration else getattr(client, call.service)
    future: grpc.Future = getattr(stub, call.method).future(call.request, timeout=WAIT)
    return future


def refused(client: Client, call: Call) -> grpc.RpcError:
    """The error that a call is answered with."""
    error = begin(client, call).exception()
    assert error is not None, f"{call.method} was answered OK"
    return error


def until_ok(client: Client, call: Call) -> Any:
    """Make the call until it is answered OK; only codes that are not final may come before."""
    deadline = time.monotonic() + WAIT
    while True:
        future = begin(client, call)
        error = future.exception()
        if error is None:
            return future.result()
        if error.code() not in NON_FINAL or time.monotonic() > deadline:
            raise AssertionError(f"{call.method}: {error.code()}: {error.details()}")
        look_again()


def create(name: str, source: pb.VolumeContentSource | None = None, fs_type: str = "ext4") -> Call:
    """CreateVolume of 1 GiB, empty or from a source of :mod:`tests.support.messages`."""
    request = pb.CreateVolumeRequest(
        name=name,
        capacity_range=pb.CapacityRange(required_bytes=GIB),
        volume_capabilities=[mount(fs_type=fs_type)],
        volume_content_source=source,
    )
    return Call("controller", "CreateVolume", request)


def delete(volume_id: str) -> Call:
    """DeleteVolume."""
    return Call("controller", "DeleteVolume", pb.DeleteVolumeRequest(volume_id=volume_id))


def snapshot(name: str, volume_id: str) -> Call:
    """CreateSnapshot."""
    request = pb.CreateSnapshotRequest(name=name, source_volume_id=volume_id)
    return Call("controller", "CreateSnapshot", request)


def delete_snapshot(snapshot_id: str) -> Call:
    """DeleteSnapshot."""
    request = pb.DeleteSnapshotRequest(snapshot_id=snapshot_id)
    return Call("controller", "DeleteSnapshot", request)


def expand(volume_id: str, gib: int) -> Call:
    """ControllerExpandVolume."""
    request = pb.ControllerExpandVolumeRequest(
        volume_id=volume_id, capacity_range=pb.CapacityRange(required_bytes=gib * GIB)
    )
    return Call("controller", "ControllerExpandVolume", request)


def revert(volume_id: str, snapshot_id: str) -> Call:
    """What ``cinder-csi revert`` asks."""
    request = administration_pb2.RevertVolumeRequest(volume_id=volume_id, snapshot_id=snapshot_id)
    return Call("administration", "RevertVolume", request)


def publish(volume_id: str, fs_type: str = "ext4") -> Call:
    """ControllerPublishVolume."""
    request = pb.ControllerPublishVolumeRequest(
        volume_id=volume_id, node_id=NODE, volume_capability=mount(fs_type=fs_type)
    )
    return Call("controller", "ControllerPublishVolume", request)


def unpublish(volume_id: str) -> Call:
    """ControllerUnpublishVolume."""
    request = pb.ControllerUnpublishVolumeRequest(volume_id=volume_id, node_id=NODE)
    return Call("controller", "ControllerUnpublishVolume", request)


def node_stage(
    volume_id: str, publish_context: dict[str, str], staging: Path, fs_type: str = "ext4"
) -> Call:
    """NodeStageVolume."""
    request = pb.NodeStageVolumeRequest(
        volume_id=volume_id,
        publish_context=publish_context,
        staging_target_path=str(staging),
        volume_capability=mount(fs_type=fs_type),
    )
    return Call("node", "NodeStageVolume", request)


def node_unstage(volume_id: str, staging: Path) -> Call:
    """NodeUnstageVolume."""
    request = pb.NodeUnstageVolumeRequest(volume_id=volume_id, staging_target_path=str(staging))
    return Call("node", "NodeUnstageVolume", request)


def node_publish(
    volume_id: str, staging: Path, target: Path, fs_type: str = "ext4", *, readonly: bool = False
) -> Call:
    """NodePublishVolume."""
    request = pb.NodePublishVolumeRequest(
        volume_id=volume_id,
        staging_target_path=str(staging),
        target_path=str(target),
        volume_capability=mount(fs_type=fs_type),
        readonly=readonly,
    )
    return Call("node", "NodePublishVolume", request)


def node_unpublish(volume_id: str, target: Path) -> Call:
    """NodeUnpublishVolume."""
    request = pb.NodeUnpublishVolumeRequest(volume_id=volume_id, target_path=str(target))
    return Call("node", "NodeUnpublishVolume", request)


def node_expand(volume_id: str, path: Path, gib: int) -> Call:
    """NodeExpandVolume."""
    request = pb.NodeExpandVolumeRequest(
        volume_id=volume_id,
        volume_path=str(path),
        capacity_range=pb.CapacityRange(required_bytes=gib * GIB),
    )
    return Call("node", "NodeExpandVolume", request)
