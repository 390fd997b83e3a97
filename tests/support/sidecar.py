"""CSI calls as the sidecars of Kubernetes make them: the same call again until a final answer.

Used by the storm, the power loss and the soak tests.  A caller survives any number of ends of the
process behind the socket: an answer that is lost is asked for again, with the same arguments.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc

from csi_driver.base.values import GIB
from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc.client import Client
from csi_driver.rpc.errors import NON_FINAL
from tests.support.messages import from_snapshot, from_volume, mount

Code = grpc.StatusCode

TRY_SECONDS = 60.0
"""Deadline of one try."""

PATIENCE_SECONDS = 180.0
"""After so long without a final answer the test fails: something is stuck."""

PAUSE_SECONDS = 0.02
"""Between two tries; the sidecars begin with a second."""


class NoFinalAnswer(AssertionError):
    """The driver kept answering that the call should be repeated."""


@dataclass(frozen=True)
class Answer:
    """A final answer: ``body`` is None when ``code`` is not OK."""

    code: grpc.StatusCode
    body: Any
    details: str = ""

    def expect(self, *accepted: grpc.StatusCode) -> Answer:
        """The answer, if it is OK or one of the codes that are accepted here."""
        if self.code not in (Code.OK, *accepted):
            raise AssertionError(f"{self.code.name}: {self.details}")
        return self


class Sidecar:
    """Calls over one channel; for one thread.

    :param told: called before every try.
    """

    def __init__(self, path: str, told: Callable[[], None] = lambda: None) -> None:
        self._client = Client(path)
        self._told = told
        self._never = threading.Event()

    def close(self) -> None:
        """Close the channel."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def until_final(self, method: str, request: Any) -> Answer:
        """Make the controller, or the node, the same call until its answer is final.

        :raises NoFinalAnswer: there was none within :data:`PATIENCE_SECONDS`.
        """
        service = self._client.node if method.startswith("Node") else self._client.controller
        stub = getattr(service, method)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            self._told()
            try:
                return Answer(Code.OK, stub(request, timeout=TRY_SECONDS, wait_for_ready=True))
            except grpc.RpcError as error:
                code, details = error.code(), error.details() or ""
            if code not in NON_FINAL:
                return Answer(code, None, details)
            if time.monotonic() > deadline:
                raise NoFinalAnswer(f"{method}: {code.name}: {details}")
            self._never.wait(PAUSE_SECONDS)

    # -- the calls --------------------------------------------------------------

    def create(self, name: str, gib: int, source: Any = None) -> Answer:
        """CreateVolume, empty or from a source of :mod:`tests.support.messages`."""
        return self.until_final("CreateVolume", create_request(name, gib, source))

    def clone(self, name: str, gib: int, volume_id: str) -> Answer:
        """CreateVolume from a volume."""
        return self.create(name, gib, from_volume(volume_id))

    def restore(self, name: str, gib: int, snapshot_id: str) -> Answer:
        """CreateVolume from a snapshot."""
        return self.create(name, gib, from_snapshot(snapshot_id))

    def delete(self, volume_id: str) -> Answer:
        """DeleteVolume."""
        return self.until_final("DeleteVolume", pb.DeleteVolumeRequest(volume_id=volume_id))

    def expand(self, volume_id: str, gib: int) -> Answer:
        """ControllerExpandVolume."""
        request = pb.ControllerExpandVolumeRequest(
            volume_id=volume_id, capacity_range=pb.CapacityRange(required_bytes=gib * GIB)
        )
        return self.until_final("ControllerExpandVolume", request)

    def snapshot(self, name: str, volume_id: str) -> Answer:
        """CreateSnapshot."""
        request = pb.CreateSnapshotRequest(name=name, source_volume_id=volume_id)
        return self.until_final("CreateSnapshot", request)

    def delete_snapshot(self, snapshot_id: str) -> Answer:
        """DeleteSnapshot."""
        request = pb.DeleteSnapshotRequest(snapshot_id=snapshot_id)
        return self.until_final("DeleteSnapshot", request)

    def publish(self, volume_id: str, node_id: str) -> Answer:
        """ControllerPublishVolume."""
        request = pb.ControllerPublishVolumeRequest(
            volume_id=volume_id, node_id=node_id, volume_capability=mount()
        )
        return self.until_final("ControllerPublishVolume", request)

    def unpublish(self, volume_id: str, node_id: str) -> Answer:
        """ControllerUnpublishVolume."""
        request = pb.ControllerUnpublishVolumeRequest(volume_id=volume_id, node_id=node_id)
        return self.until_final("ControllerUnpublishVolume", request)

    # -- what there is ----------------------------------------------------------

    def volumes(self) -> dict[str, int]:
        """ListVolumes: GiB of every volume, by id."""
        answer = self.until_final("ListVolumes", pb.ListVolumesRequest()).expect()
        return {
            entry.volume.volume_id: entry.volume.capacity_bytes // GIB
            for entry in answer.body.entries
        }

    def snapshots(self) -> dict[str, str]:
        """ListSnapshots: the volume of every snapshot, by id."""
        answer = self.until_final("ListSnapshots", pb.ListSnapshotsRequest()).expect()
        return {
            entry.snapshot.snapshot_id: entry.snapshot.source_volume_id
            for entry in answer.body.entries
        }


def create_request(name: str, gib: int, source: Any = None) -> Any:
    """A CreateVolumeRequest for a filesystem."""
    return pb.CreateVolumeRequest(
        name=name,
        capacity_range=pb.CapacityRange(required_bytes=gib * GIB),
        volume_capabilities=[mount()],
        volume_content_source=source,
    )
