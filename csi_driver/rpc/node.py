"""The CSI Node service: messages in, calls on the node room, messages out.

The node room works synchronously with real devices, on the threads of the RPCs.
"""

from __future__ import annotations

from typing import Any

from csi_driver.node.service import NodeService
from csi_driver.rpc import fields
from csi_driver.rpc import node_requests as requests
from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc._generated import csi_pb2_grpc
from csi_driver.rpc.handlers import Gate, rpc

_RPC = pb.NodeServiceCapability.RPC

CAPABILITIES = (
    _RPC.STAGE_UNSTAGE_VOLUME,
    _RPC.GET_VOLUME_STATS,
    _RPC.EXPAND_VOLUME,
    _RPC.SINGLE_NODE_MULTI_WRITER,
)


class Node(csi_pb2_grpc.NodeServicer):
    """CSI Node.

    :param service: set when the node is ready; the gate keeps calls out until then.
    """

    service: NodeService

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    @rpc(effect=False, always=True)
    def NodeGetCapabilities(self, request: Any) -> Any:
        """CSI NodeGetCapabilities."""
        return pb.NodeGetCapabilitiesResponse(
            capabilities=[pb.NodeServiceCapability(rpc=_RPC(type=kind)) for kind in CAPABILITIES]
        )

    @rpc(effect=False)
    def NodeGetInfo(self, request: Any) -> Any:
        """CSI NodeGetInfo."""
        info = self.service.info()
        return pb.NodeGetInfoResponse(
            node_id=info.node_id,
            max_volumes_per_node=info.max_volumes,
            accessible_topology=pb.Topology(segments=info.topology),
        )

    @rpc(effect=True)
    def NodeStageVolume(self, request: Any) -> Any:
        """CSI NodeStageVolume."""
        self.service.stage(requests.stage(request))
        return pb.NodeStageVolumeResponse()

    @rpc(effect=True)
    def NodeUnstageVolume(self, request: Any) -> Any:
        """CSI NodeUnstageVolume."""
        volume_id = fields.required(request.volume_id, "volume_id")
        staging = fields.path(request.staging_target_path, "staging_target_path")
        self.service.unstage(volume_id, staging)
        return pb.NodeUnstageVolumeResponse()

    @rpc(effect=True)
    def NodePublishVolume(self, request: Any) -> Any:
        """CSI NodePublishVolume."""
        self.service.publish(requests.publish(request))
        return pb.NodePublishVolumeResponse()

    @rpc(effect=True)
    def NodeUnpublishVolume(self, request: Any) -> Any:
        """CSI NodeUnpublishVolume."""
        volume_id = fields.required(request.volume_id, "volume_id")
        target = fields.path(request.target_path, "target_path")
        self.service.unpublish(volume_id, target)
        return pb.NodeUnpublishVolumeResponse()

    @rpc(effect=False)
    def NodeGetVolumeStats(self, request: Any) -> Any:
        """CSI NodeGetVolumeStats."""
        volume_id = fields.required(request.volume_id, "volume_id")
        path = fields.required(request.volume_path, "volume_path")
        usage = self.service.stats(volume_id, path, request.staging_target_path)
        return pb.NodeGetVolumeStatsResponse(
            usage=[
                pb.VolumeUsage(
                    unit=entry.unit,  # by its name in the protocol
                    total=entry.total,
                    available=entry.available,
                    used=entry.used,
                )
                for entry in usage
            ]
        )

    @rpc(effect=True)
    def NodeExpandVolume(self, request: Any) -> Any:
        """CSI NodeExpandVolume."""
        size = self.service.expand(requests.node_expand(request))
        return pb.NodeExpandVolumeResponse(capacity_bytes=size)
