"""The CSI Controller service: messages in, typed calls on the controller, messages out.

The thread of the RPC plans (a few reads of the store) and does the work, if the backend
has a turn for it at once; else it waits for a thread of the backend.  A caller that gives
up leaves the work running, and the retry joins it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import Int64Value

from csi_driver.base.turns import lending, outcome
from csi_driver.base.values import GIB, Topology
from csi_driver.cinderlib.persistence.records import SnapshotRecord
from csi_driver.controller.service import ControllerService
from csi_driver.controller.values import VolumeAnswer
from csi_driver.rpc import controller_requests as requests
from csi_driver.rpc import fields
from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc._generated import csi_pb2_grpc
from csi_driver.rpc.handlers import Gate, rpc

T = TypeVar("T")

_RPC = pb.ControllerServiceCapability.RPC

CAPABILITIES = (
    _RPC.CREATE_DELETE_VOLUME,
    _RPC.PUBLISH_UNPUBLISH_VOLUME,
    _RPC.LIST_VOLUMES,
    _RPC.GET_CAPACITY,
    _RPC.CREATE_DELETE_SNAPSHOT,
    _RPC.LIST_SNAPSHOTS,
    _RPC.CLONE_VOLUME,
    _RPC.PUBLISH_READONLY,
    _RPC.EXPAND_VOLUME,
    _RPC.LIST_VOLUMES_PUBLISHED_NODES,
    _RPC.GET_VOLUME,
    _RPC.SINGLE_NODE_MULTI_WRITER,
    _RPC.GET_SNAPSHOT,
)


class Controller(csi_pb2_grpc.ControllerServicer):
    """CSI Controller.

    :param service: set when the controller is ready; the gate keeps calls out until then.
    """

    service: ControllerService

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    @rpc(effect=False, always=True)
    def ControllerGetCapabilities(self, request: Any) -> Any:
        """CSI ControllerGetCapabilities."""
        return pb.ControllerGetCapabilitiesResponse(
            capabilities=[
                pb.ControllerServiceCapability(rpc=_RPC(type=kind)) for kind in CAPABILITIES
            ]
        )

    @rpc(effect=True)
    def CreateVolume(self, request: Any) -> Any:
        """CSI CreateVolume."""
        wish = requests.create_volume(request)
        made = _do(self.service.volumes.create, wish)
        return pb.CreateVolumeResponse(volume=_volume(made))

    @rpc(effect=True)
    def DeleteVolume(self, request: Any) -> Any:
        """CSI DeleteVolume."""
        volume_id = fields.required(request.volume_id, "volume_id")
        _do(self.service.volumes.delete, volume_id)
        return pb.DeleteVolumeResponse()

    @rpc(effect=True)
    def ControllerPublishVolume(self, request: Any) -> Any:
        """CSI ControllerPublishVolume."""
        wish = requests.publish_volume(request)
        sealed = _do(self.service.attachments.publish, wish)
        return pb.ControllerPublishVolumeResponse(publish_context=sealed)

    @rpc(effect=True)
    def ControllerUnpublishVolume(self, request: Any) -> Any:
        """CSI ControllerUnpublishVolume."""
        volume_id = fields.required(request.volume_id, "volume_id")
        unpublish = self.service.attachments.unpublish
        if request.node_id:
            with lending():
                started = unpublish(volume_id, request.node_id)
        else:
            # Not on this thread, one after the other: a node that hangs would hold up the rest.
            started = unpublish(volume_id, "")
        for future in started:
            outcome(future)
        return pb.ControllerUnpublishVolumeResponse()

    @rpc(effect=False)
    def ValidateVolumeCapabilities(self, request: Any) -> Any:
        """CSI ValidateVolumeCapabilities."""
        volume_id = fields.required(request.volume_id, "volume_id")
        wanted = tuple(fields.capability(message) for message in request.volume_capabilities)
        reason = _do(self.service.listing.unsupported, volume_id, wanted, dict(request.parameters))
        if reason:
            return pb.ValidateVolumeCapabilitiesResponse(message=reason)
        return pb.ValidateVolumeCapabilitiesResponse(
            confirmed=pb.ValidateVolumeCapabilitiesResponse.Confirmed(
                volume_context=request.volume_context,
                volume_capabilities=request.volume_capabilities,
                parameters=request.parameters,
            )
        )

    @rpc(effect=False)
    def ListVolumes(self, request: Any) -> Any:
        """CSI ListVolumes."""
        page = self.service.listing.volumes(request.max_entries, request.starting_token)
        status = pb.ListVolumesResponse.VolumeStatus
        return pb.ListVolumesResponse(
            entries=[
                pb.ListVolumesResponse.Entry(
                    volume=_volume(found), status=status(published_node_ids=found.published_to)
                )
                for found in page.volumes
            ],
            next_token=page.next_token,
        )

    @rpc(effect=False)
    def ControllerGetVolume(self, request: Any) -> Any:
        """CSI ControllerGetVolume."""
        volume_id = fields.required(request.volume_id, "volume_id")
        found = self.service.listing.volume(volume_id)
        status = pb.ControllerGetVolumeResponse.VolumeStatus
        return pb.ControllerGetVolumeResponse(
            volume=_volume(found), status=status(published_node_ids=found.published_to)
        )

    @rpc(effect=False)
    def GetCapacity(self, request: Any) -> Any:
        """CSI GetCapacity."""
        wanted = tuple(fields.capability(message) for message in request.volume_capabilities)
        topology = None
        if request.HasField("accessible_topology"):
            topology = Topology(segments=dict(request.accessible_topology.segments))
        found = _do(self.service.listing.capacity, dict(request.parameters), wanted, topology)
        response = pb.GetCapacityResponse(
            available_capacity=found.available_bytes, minimum_volume_size=Int64Value(value=GIB)
        )
        if found.maximum_volume_bytes is not None:
            response.maximum_volume_size.value = found.maximum_volume_bytes
        return response

    @rpc(effect=True)
    def CreateSnapshot(self, request: Any) -> Any:
        """CSI CreateSnapshot."""
        wish = requests.create_snapshot(request)
        made = _do(self.service.snapshots.create, wish)
        return pb.CreateSnapshotResponse(snapshot=_snapshot(made))

    @rpc(effect=True)
    def DeleteSnapshot(self, request: Any) -> Any:
        """CSI DeleteSnapshot."""
        snapshot_id = fields.required(request.snapshot_id, "snapshot_id")
        _do(self.service.snapshots.delete, snapshot_id)
        return pb.DeleteSnapshotResponse()

    @rpc(effect=False)
    def GetSnapshot(self, request: Any) -> Any:
        """CSI GetSnapshot."""
        snapshot_id = fields.required(request.snapshot_id, "snapshot_id")
        found = self.service.listing.snapshot(snapshot_id)
        return pb.GetSnapshotResponse(snapshot=_snapshot(found))

    @rpc(effect=False)
    def ListSnapshots(self, request: Any) -> Any:
        """CSI ListSnapshots."""
        page = self.service.listing.snapshots(
            request.max_entries,
            request.starting_token,
            request.source_volume_id,
            request.snapshot_id,
        )
        return pb.ListSnapshotsResponse(
            entries=[
                pb.ListSnapshotsResponse.Entry(snapshot=_snapshot(record))
                for record in page.snapshots
            ],
            next_token=page.next_token,
        )

    @rpc(effect=True)
    def ControllerExpandVolume(self, request: Any) -> Any:
        """CSI ControllerExpandVolume; the node always has to see the new size too."""
        wish = requests.expand_volume(request)
        size = _do(self.service.volumes.expand, wish)
        return pb.ControllerExpandVolumeResponse(capacity_bytes=size, node_expansion_required=True)


def _do(start: Callable[..., Future[T]], *arguments: Any) -> T:
    """Start work, on this thread if it can, and wait for it."""
    with lending():
        future = start(*arguments)
    return outcome(future)


def _volume(found: VolumeAnswer) -> pb.Volume:
    record = found.volume
    source = None
    if record.source is not None and record.source.kind == "snapshot":
        source = pb.VolumeContentSource(
            snapshot=pb.VolumeContentSource.SnapshotSource(snapshot_id=record.source.id)
        )
    elif record.source is not None:
        source = pb.VolumeContentSource(
            volume=pb.VolumeContentSource.VolumeSource(volume_id=record.source.id)
        )
    return pb.Volume(
        volume_id=record.id,
        capacity_bytes=record.size_gib * GIB,
        volume_context={"backend": record.backend},
        content_source=source,
        accessible_topology=[
            pb.Topology(segments=topology.segments) for topology in found.accessible_from
        ],
    )


def _snapshot(record: SnapshotRecord) -> pb.Snapshot:
    created = Timestamp()
    created.FromNanoseconds(int(record.created_at * 1e9))
    return pb.Snapshot(
        snapshot_id=record.id,
        source_volume_id=record.volume_id,
        size_bytes=record.size_gib * GIB,
        creation_time=created,
        ready_to_use=True,
    )
