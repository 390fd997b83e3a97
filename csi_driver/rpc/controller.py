"""The CSI Controller service: messages in, typed calls on the controller, messages out.

Planning (a few reads of the store) runs on a small pool of threads, so that the
event loop never waits for a store.  The work runs on the backends' pools; a
caller that gives up leaves it running, and the retry joins it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import Int64Value

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

_PLANNING_THREADS = 8


class Controller(csi_pb2_grpc.ControllerServicer):
    """CSI Controller.

    :param service: set when the controller is ready; the gate keeps calls out until then.
    """

    service: ControllerService

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self._planning = ThreadPoolExecutor(_PLANNING_THREADS, "planning")

    async def _plan(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._planning, call, *arguments)

    async def _work(self, start: Callable[..., Future[T]], *arguments: Any) -> T:
        """Plan, and wait for the work that was started.

        The event loop is woken once, when the work is done: another time for the plan
        would be a tenth of what a call costs.
        """
        done: Future[T] = Future()
        # A caller that gives up cancels its own waiting, not what others may join.
        done.set_running_or_notify_cancel()
        self._planning.submit(_start, done, start, arguments)
        return await asyncio.wrap_future(done)

    @rpc(effect=False, always=True)
    async def ControllerGetCapabilities(self, request: Any) -> Any:
        """CSI ControllerGetCapabilities."""
        return pb.ControllerGetCapabilitiesResponse(
            capabilities=[
                pb.ControllerServiceCapability(rpc=_RPC(type=kind)) for kind in CAPABILITIES
            ]
        )

    @rpc(effect=True)
    async def CreateVolume(self, request: Any) -> Any:
        """CSI CreateVolume."""
        wish = requests.create_volume(request)
        made = await self._work(self.service.volumes.create, wish)
        return pb.CreateVolumeResponse(volume=_volume(made))

    @rpc(effect=True)
    async def DeleteVolume(self, request: Any) -> Any:
        """CSI DeleteVolume."""
        volume_id = fields.required(request.volume_id, "volume_id")
        await self._work(self.service.volumes.delete, volume_id)
        return pb.DeleteVolumeResponse()

    @rpc(effect=True)
    async def ControllerPublishVolume(self, request: Any) -> Any:
        """CSI ControllerPublishVolume."""
        wish = requests.publish_volume(request)
        sealed = await self._work(self.service.attachments.publish, wish)
        return pb.ControllerPublishVolumeResponse(publish_context=sealed)

    @rpc(effect=True)
    async def ControllerUnpublishVolume(self, request: Any) -> Any:
        """CSI ControllerUnpublishVolume."""
        volume_id = fields.required(request.volume_id, "volume_id")
        futures = await self._plan(self.service.attachments.unpublish, volume_id, request.node_id)
        await asyncio.gather(*(asyncio.wrap_future(future) for future in futures))
        return pb.ControllerUnpublishVolumeResponse()

    @rpc(effect=False)
    async def ValidateVolumeCapabilities(self, request: Any) -> Any:
        """CSI ValidateVolumeCapabilities."""
        volume_id = fields.required(request.volume_id, "volume_id")
        wanted = tuple(fields.capability(message) for message in request.volume_capabilities)
        future = await self._plan(
            self.service.listing.unsupported, volume_id, wanted, dict(request.parameters)
        )
        reason = await asyncio.wrap_future(future)
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
    async def ListVolumes(self, request: Any) -> Any:
        """CSI ListVolumes."""
        page = await self._plan(
            self.service.listing.volumes, request.max_entries, request.starting_token
        )
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
    async def ControllerGetVolume(self, request: Any) -> Any:
        """CSI ControllerGetVolume."""
        volume_id = fields.required(request.volume_id, "volume_id")
        found = await self._plan(self.service.listing.volume, volume_id)
        status = pb.ControllerGetVolumeResponse.VolumeStatus
        return pb.ControllerGetVolumeResponse(
            volume=_volume(found), status=status(published_node_ids=found.published_to)
        )

    @rpc(effect=False)
    async def GetCapacity(self, request: Any) -> Any:
        """CSI GetCapacity."""
        wanted = tuple(fields.capability(message) for message in request.volume_capabilities)
        topology = None
        if request.HasField("accessible_topology"):
            topology = Topology(segments=dict(request.accessible_topology.segments))
        future = await self._plan(
            self.service.listing.capacity, dict(request.parameters), wanted, topology
        )
        found = await asyncio.wrap_future(future)
        response = pb.GetCapacityResponse(
            available_capacity=found.available_bytes, minimum_volume_size=Int64Value(value=GIB)
        )
        if found.maximum_volume_bytes is not None:
            response.maximum_volume_size.value = found.maximum_volume_bytes
        return response

    @rpc(effect=True)
    async def CreateSnapshot(self, request: Any) -> Any:
        """CSI CreateSnapshot."""
        wish = requests.create_snapshot(request)
        made = await self._work(self.service.snapshots.create, wish)
        return pb.CreateSnapshotResponse(snapshot=_snapshot(made))

    @rpc(effect=True)
    async def DeleteSnapshot(self, request: Any) -> Any:
        """CSI DeleteSnapshot."""
        snapshot_id = fields.required(request.snapshot_id, "snapshot_id")
        await self._work(self.service.snapshots.delete, snapshot_id)
        return pb.DeleteSnapshotResponse()

    @rpc(effect=False)
    async def GetSnapshot(self, request: Any) -> Any:
        """CSI GetSnapshot."""
        snapshot_id = fields.required(request.snapshot_id, "snapshot_id")
        found = await self._plan(self.service.listing.snapshot, snapshot_id)
        return pb.GetSnapshotResponse(snapshot=_snapshot(found))

    @rpc(effect=False)
    async def ListSnapshots(self, request: Any) -> Any:
        """CSI ListSnapshots."""
        page = await self._plan(
            self.service.listing.snapshots,
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
    async def ControllerExpandVolume(self, request: Any) -> Any:
        """CSI ControllerExpandVolume; the node always has to see the new size too."""
        wish = requests.expand_volume(request)
        size = await self._work(self.service.volumes.expand, wish)
        return pb.ControllerExpandVolumeResponse(capacity_bytes=size, node_expansion_required=True)


def _start(done: Future[T], start: Callable[..., Future[T]], arguments: tuple[Any, ...]) -> None:
    """Start work; ``done`` ends as it ends, or as its start failed."""
    try:
        start(*arguments).add_done_callback(lambda work: _hand_over(work, done))
    except BaseException as error:  # whoever waits must learn it
        done.set_exception(error)


def _hand_over(work: Future[T], done: Future[T]) -> None:
    error = work.exception()
    if error is None:
        done.set_result(work.result())
    else:
        done.set_exception(error)


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
