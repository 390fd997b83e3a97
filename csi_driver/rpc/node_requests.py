"""From the Node service's messages to the node's typed requests."""

from __future__ import annotations

from csi_driver.node.requests import ExpandRequest, PublishRequest, StageRequest
from csi_driver.rpc import fields
from csi_driver.rpc._generated import csi_pb2 as pb


def stage(request: pb.NodeStageVolumeRequest) -> StageRequest:
    """NodeStageVolumeRequest.

    :raises InvalidRequest: says which field is wrong.
    """
    return StageRequest(
        volume_id=fields.required(request.volume_id, "volume_id"),
        publish_context=dict(request.publish_context),
        staging_path=fields.path(request.staging_target_path, "staging_target_path"),
        capability=fields.one_capability(request),
        volume_context=dict(request.volume_context),
        secrets=dict(request.secrets),
    )


def publish(request: pb.NodePublishVolumeRequest) -> PublishRequest:
    """NodePublishVolumeRequest; an absent staging path is for the node to refuse.

    :raises InvalidRequest: says which field is wrong.
    """
    staging = request.staging_target_path
    return PublishRequest(
        volume_id=fields.required(request.volume_id, "volume_id"),
        publish_context=dict(request.publish_context),
        staging_path=fields.path(staging, "staging_target_path") if staging else "",
        target_path=fields.path(request.target_path, "target_path"),
        capability=fields.one_capability(request),
        readonly=request.readonly,
        volume_context=dict(request.volume_context),
    )


def node_expand(request: pb.NodeExpandVolumeRequest) -> ExpandRequest:
    """NodeExpandVolumeRequest.

    :raises InvalidRequest: says which field is wrong.
    """
    staging = request.staging_target_path
    has_capability = request.HasField("volume_capability")
    return ExpandRequest(
        volume_id=fields.required(request.volume_id, "volume_id"),
        volume_path=fields.required(request.volume_path, "volume_path"),
        staging_path=fields.path(staging, "staging_target_path") if staging else "",
        capability=fields.capability(request.volume_capability) if has_capability else None,
        **fields.capacity_range(request),
    )
