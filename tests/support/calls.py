"""CSI calls on a driver process, as short as a test wants them."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import grpc

from csi_driver.base.values import GIB
from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc.client import Client
from tests.support.driver_process import DriverProcess
from tests.support.messages import mount

WAIT = 60.0
"""Seconds after which a call that hangs fails its test."""


class Calls(Client):
    """A client of one driver process."""

    def __init__(self, process: DriverProcess) -> None:
        super().__init__(str(process.socket))

    def create_request(self, name: str, gib: int = 1) -> Any:
        """A CreateVolumeRequest for a filesystem."""
        return pb.CreateVolumeRequest(
            name=name,
            volume_capabilities=[mount()],
            capacity_range=pb.CapacityRange(required_bytes=gib * GIB),
        )

    def create(self, name: str, gib: int = 1) -> Any:
        """CreateVolume; the answer's volume."""
        return self.controller.CreateVolume(self.create_request(name, gib), timeout=WAIT).volume

    def delete(self, volume_id: str) -> None:
        """DeleteVolume."""
        self.controller.DeleteVolume(pb.DeleteVolumeRequest(volume_id=volume_id), timeout=WAIT)

    def snapshot(self, volume_id: str, name: str) -> Any:
        """CreateSnapshot; the answer's snapshot."""
        request = pb.CreateSnapshotRequest(source_volume_id=volume_id, name=name)
        return self.controller.CreateSnapshot(request, timeout=WAIT).snapshot

    def delete_snapshot(self, snapshot_id: str) -> None:
        """DeleteSnapshot."""
        request = pb.DeleteSnapshotRequest(snapshot_id=snapshot_id)
        self.controller.DeleteSnapshot(request, timeout=WAIT)

    def publish(self, volume_id: str, node_id: str) -> dict[str, str]:
        """ControllerPublishVolume; the publish_context."""
        request = pb.ControllerPublishVolumeRequest(
            volume_id=volume_id, node_id=node_id, volume_capability=mount()
        )
        answer = self.controller.ControllerPublishVolume(request, timeout=WAIT)
        return dict(answer.publish_context)

    def unpublish(self, volume_id: str, node_id: str) -> None:
        """ControllerUnpublishVolume."""
        request = pb.ControllerUnpublishVolumeRequest(volume_id=volume_id, node_id=node_id)
        self.controller.ControllerUnpublishVolume(request, timeout=WAIT)

    def probe(self) -> bool | None:
        """Probe: whether the process is ready; None when it does not answer."""
        try:
            return bool(self.identity.Probe(pb.ProbeRequest(), timeout=WAIT).ready.value)
        except grpc.RpcError:
            return None

    def published(self) -> dict[str, list[str]]:
        """ListVolumes: the nodes that have each volume."""
        answer = self.controller.ListVolumes(pb.ListVolumesRequest(), timeout=WAIT)
        return {
            entry.volume.volume_id: list(entry.status.published_node_ids)
            for entry in answer.entries
        }

    def stage(self, volume_id: str, publish_context: dict[str, str], staging: str) -> None:
        """NodeStageVolume."""
        request = pb.NodeStageVolumeRequest(
            volume_id=volume_id,
            publish_context=publish_context,
            staging_target_path=staging,
            volume_capability=mount(),
        )
        self.node.NodeStageVolume(request, timeout=WAIT)

    def unstage(self, volume_id: str, staging: str) -> None:
        """NodeUnstageVolume."""
        request = pb.NodeUnstageVolumeRequest(volume_id=volume_id, staging_target_path=staging)
        self.node.NodeUnstageVolume(request, timeout=WAIT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
