"""From the Controller service's messages to the controller's typed requests."""

from __future__ import annotations

from csi_driver.base.errors import InvalidRequest
from csi_driver.base.values import Topology
from csi_driver.cinderlib.persistence.records import Source
from csi_driver.controller.values import (
    CreateSnapshot,
    CreateVolume,
    ExpandVolume,
    PublishVolume,
)
from csi_driver.rpc import fields
from csi_driver.rpc._generated import csi_pb2 as pb


def create_volume(request: pb.CreateVolumeRequest) -> CreateVolume:
    """CreateVolumeRequest.

    :raises InvalidRequest: says which field is wrong.
    """
    if not request.volume_capabilities:
        raise InvalidRequest("volume_capabilities is missing")
    if request.mutable_parameters:
        raise InvalidRequest(
            "mutable_parameters are not supported",
            advice="Remove volumeAttributesClassName from the claim",
        )
    return CreateVolume(
        name=fields.name(request.name),
        capabilities=tuple(fields.capability(message) for message in request.volume_capabilities),
        parameters=fields.string_map(request.parameters.items(), "parameters"),
        source=_source(request),
        requisite=tuple(
            Topology(segments=dict(topology.segments))
            for topology in request.accessibility_requirements.requisite
        ),
        **fields.capacity_range(request),
    )


def publish_volume(request: pb.ControllerPublishVolumeRequest) -> PublishVolume:
    """ControllerPublishVolumeRequest.

    :raises InvalidRequest: says which field is wrong.
    """
    return PublishVolume(
        volume_id=fields.required(request.volume_id, "volume_id"),
        node_id=fields.required(request.node_id, "node_id"),
        capability=fields.one_capability(request),
        readonly=request.readonly,
    )


def expand_volume(request: pb.ControllerExpandVolumeRequest) -> ExpandVolume:
    """ControllerExpandVolumeRequest.

    :raises InvalidRequest: says which field is wrong.
    """
    fields.required(request.volume_id, "volume_id")
    if not request.HasField("capacity_range"):
        raise InvalidRequest("capacity_range is missing")
    return ExpandVolume(volume_id=request.volume_id, **fields.capacity_range(request))


def create_snapshot(request: pb.CreateSnapshotRequest) -> CreateSnapshot:
    """CreateSnapshotRequest.

    :raises InvalidRequest: says which field is wrong.
    """
    return CreateSnapshot(
        name=fields.name(request.name),
        volume_id=fields.required(request.source_volume_id, "source_volume_id"),
        parameters=fields.string_map(request.parameters.items(), "parameters"),
    )


def _source(request: pb.CreateVolumeRequest) -> Source | None:
    if not request.HasField("volume_content_source"):
        return None
    content = request.volume_content_source
    kind = content.WhichOneof("type")
    if kind == "snapshot":
        found = Source(kind="snapshot", id=content.snapshot.snapshot_id)
    elif kind == "volume":
        found = Source(kind="volume", id=content.volume.volume_id)
    else:
        raise InvalidRequest("volume_content_source names neither a snapshot nor a volume")
    fields.required(found.id, f"volume_content_source.{kind}.{kind}_id")
    return found
