"""A whole controller in the test process: real store, real driver double, real gRPC socket.

Used by the behaviour tests of the controller.  Calls go over the socket, so that a test
sees the codes that a sidecar would see; faults and gates are set in the double's driver
(:mod:`tests.doubles.faults`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from csi_driver.base.sealing import KeyRing
from csi_driver.base.values import GIB, NodeRegistration
from csi_driver.cinderlib.lookup import StoreLookup
from csi_driver.cinderlib.manager import VolumeManager
from csi_driver.cinderlib.persistence.factory import StoreKind, open_store
from csi_driver.cinderlib.persistence.records import VolumeRecord
from csi_driver.cli.shared_directory import SharedDirectory
from csi_driver.controller.backends import Backends, ControllerBackend
from csi_driver.controller.context import ControllerContext
from csi_driver.controller.service import ControllerService
from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc.client import Client
from csi_driver.rpc.controller import Controller
from csi_driver.rpc.handlers import Gate, Readiness
from csi_driver.rpc.identity import Identity
from csi_driver.rpc.server import Server
from tests.doubles import faults as doubles
from tests.support import cinder_process
from tests.support.messages import mount

WAIT = 60.0
"""Seconds after which a call that hangs fails its test; never waited for when all is well."""

DRIVER_NAME = "csi.example.org"
TOPOLOGY_KEY = "topology.csi.example.org/node"

Code = grpc.StatusCode

_numbers = itertools.count()


class ControllerBench:
    """One controller; as a context manager it serves until the end.

    :param backends: how many backends, each with a driver double of its own.
    :param options: options of the double, for every backend; ``volume_driver`` chooses
        another driver.
    :param name: the name of the one backend; without it names are new ones.
    :param permit: asked before driver calls.
    """

    def __init__(
        self,
        directory: Path,
        *,
        store: StoreKind = "memory",
        backends: int = 1,
        options: Mapping[str, Any] | None = None,
        name: str = "",
        permit: Callable[[], None] = lambda: None,
    ) -> None:
        cinder_process.set_up()
        self.store = open_store(store, directory / "state")
        self.nodes = SharedDirectory(directory / "state")
        self.keys = KeyRing.generate()
        lookup = StoreLookup(self.store)
        self.managers = [
            VolumeManager(
                name or f"bench{next(_numbers)}",
                {"volume_driver": "tests.doubles.driver.DoubleDriver", **(options or {})},
                lookup,
                permit,
            )
            for _ in range(backends)
        ]
        self._gates: list[doubles.Gate] = []
        self.context_options: dict[str, Any] = {}
        """What else the context of the next controller is made with; see :meth:`restart`."""
        self.socket = directory / "csi.sock"
        self.service = self._make_service()

    def _make_service(self) -> ControllerService:
        backends = [
            ControllerBackend(manager, self.nodes, TOPOLOGY_KEY) for manager in self.managers
        ]
        self.context = ControllerContext(
            store=self.store,
            backends=Backends(backends),
            nodes=self.nodes,
            keys=lambda: self.keys,
            driver_name=DRIVER_NAME,
            topology_key=TOPOLOGY_KEY,
            **self.context_options,
        )
        return ControllerService(self.context)

    def __enter__(self) -> Self:
        self._start()
        self.client = Client(str(self.socket))
        self.identity = self.client.identity
        self.stub = self.client.controller
        return self

    def _start(self) -> None:
        gate = Gate()
        gate.state = Readiness.READY
        self._servicer = Controller(gate)
        self._servicer.service = self.service
        identity = Identity(DRIVER_NAME, gate)
        self._server = Server(self.socket, gate, identity, self._servicer, None)
        self._server.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.client.close()
        self._server.stop()
        for gate in self._gates:
            gate.release()
        self.service.drain(WAIT)
        self.service.close()
        for manager in self.managers:
            manager.close()

    def restart(self) -> None:
        """A new controller on the same store and backends, as after a crash: nothing in flight."""
        for backend in self.context.backends:
            backend.close()
        self.service = self._make_service()
        self._servicer.service = self.service
        for future in self.service.exports.begin():
            future.result(WAIT)
        for future in self.service.repair.round(float("inf")):
            future.exception(WAIT)

    # -- the backend's side -----------------------------------------------------

    @property
    def backend(self) -> str:
        """The name of the first backend."""
        return self.managers[0].name

    def faults(self, backend: str = "") -> doubles.Faults:
        """What the driver of a backend is told to do wrong, and what it was asked."""
        return doubles.of_backend(backend or self.backend)

    def hold(self, operation: str, when: doubles.When = "before") -> doubles.Gate:
        """Let the first backend's calls of an operation stop; released at the latest at the end."""
        gate = self.faults().hold(operation, when)
        self._gates.append(gate)
        return gate

    def on_backend(self) -> set[str]:
        """Names of what is on the first backend."""
        return set(self.managers[0].driver.shelf.names())

    # -- the node's side --------------------------------------------------------

    def register(self, *node_ids: str, max_volumes: int = 0) -> None:
        """Let nodes tell about themselves."""
        for node_id in node_ids:
            self.nodes.register(
                NodeRegistration(
                    node_id=node_id,
                    connector={"host": node_id, "ip": "192.0.2.1", "initiator": f"iqn.{node_id}"},
                    topology={TOPOLOGY_KEY: node_id},
                    max_volumes=max_volumes,
                )
            )

    # -- calls ------------------------------------------------------------------

    def create_request(self, name: str = "data", gib: float = 1, **fields: Any) -> Any:
        """A CreateVolumeRequest."""
        given: dict[str, Any] = {
            "volume_capabilities": [mount()],
            "capacity_range": pb.CapacityRange(required_bytes=int(gib * GIB)),
        }
        return pb.CreateVolumeRequest(name=name, **given | fields)

    def create(self, name: str = "data", gib: float = 1, **fields: Any) -> Any:
        """CreateVolume; the answer's volume."""
        request = self.create_request(name, gib, **fields)
        return self.stub.CreateVolume(request, timeout=WAIT).volume

    def delete(self, volume_id: str) -> None:
        """DeleteVolume."""
        self.stub.DeleteVolume(pb.DeleteVolumeRequest(volume_id=volume_id), timeout=WAIT)

    def publish_request(self, volume_id: str, node_id: str = "n1", **fields: Any) -> Any:
        """A ControllerPublishVolumeRequest."""
        given: dict[str, Any] = {"volume_capability": mount()}
        return pb.ControllerPublishVolumeRequest(
            volume_id=volume_id, node_id=node_id, **given | fields
        )

    def publish(self, volume_id: str, node_id: str = "n1", **fields: Any) -> dict[str, str]:
        """ControllerPublishVolume; the publish_context."""
        request = self.publish_request(volume_id, node_id, **fields)
        return dict(self.stub.ControllerPublishVolume(request, timeout=WAIT).publish_context)

    def unpublish(self, volume_id: str, node_id: str = "n1") -> None:
        """ControllerUnpublishVolume."""
        request = pb.ControllerUnpublishVolumeRequest(volume_id=volume_id, node_id=node_id)
        self.stub.ControllerUnpublishVolume(request, timeout=WAIT)

    def snapshot(self, volume_id: str, name: str = "cut", **fields: Any) -> Any:
        """CreateSnapshot; the answer's snapshot."""
        request = pb.CreateSnapshotRequest(source_volume_id=volume_id, name=name, **fields)
        return self.stub.CreateSnapshot(request, timeout=WAIT).snapshot

    def delete_snapshot(self, snapshot_id: str) -> None:
        """DeleteSnapshot."""
        request = pb.DeleteSnapshotRequest(snapshot_id=snapshot_id)
        self.stub.DeleteSnapshot(request, timeout=WAIT)

    def expand(self, volume_id: str, required: int, limit: int = 0) -> int:
        """ControllerExpandVolume, sizes in bytes; the new size."""
        request = pb.ControllerExpandVolumeRequest(
            volume_id=volume_id,
            capacity_range=pb.CapacityRange(required_bytes=required, limit_bytes=limit),
        )
        size: int = self.stub.ControllerExpandVolume(request, timeout=WAIT).capacity_bytes
        return size

    def volumes(self) -> Sequence[Any]:
        """ListVolumes without paging."""
        found: Sequence[Any] = self.stub.ListVolumes(pb.ListVolumesRequest(), timeout=WAIT).entries
        return found

    def record(self, volume_id: str) -> VolumeRecord:
        """The stored record of a volume."""
        record = self.store.get(VolumeRecord, volume_id)
        assert record is not None
        return record


class Refused:
    """``with Refused(Code.NOT_FOUND, "text")``: the call inside answers so."""

    def __init__(self, code: grpc.StatusCode, text: str = "") -> None:
        self._code = code
        self._text = text
        self.message = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, grpc.RpcError):
            if error is None:
                raise AssertionError(f"answered OK instead of {self._code}")
            return False
        code, self.message = error.code(), error.details() or ""
        if code is not self._code or self._text not in self.message:
            raise AssertionError(f"{code}: {self.message}") from error
        return True
