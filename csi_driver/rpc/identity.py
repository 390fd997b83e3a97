"""The CSI Identity service.

It answers from constants and the gate's state: no backend, store or API server is
ever waited for, since sidecars take an error here for the end.

So it needs no thread of its own either: gRPC's serving thread answers as soon as it sees
the call, which takes half the CPU of handing it over, and whatever other calls do.  The
requests have no fields, and are not read: to wait for one would hold up every call.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from operator import methodcaller
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import BoolValue

from csi_driver import __version__
from csi_driver.base.turns import Submitted
from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc._generated import csi_pb2_grpc
from csi_driver.rpc.handlers import Gate, Readiness

_SERVICES = (
    pb.PluginCapability.Service.CONTROLLER_SERVICE,
    pb.PluginCapability.Service.VOLUME_ACCESSIBILITY_CONSTRAINTS,
)


def _plugin_capabilities() -> pb.GetPluginCapabilitiesResponse:
    # The same for every role: CSI asks it of all instances of one vendor_version.
    services = [
        pb.PluginCapability(service=pb.PluginCapability.Service(type=kind)) for kind in _SERVICES
    ]
    online = pb.PluginCapability.VolumeExpansion(type=pb.PluginCapability.VolumeExpansion.ONLINE)
    return pb.GetPluginCapabilitiesResponse(
        capabilities=[*services, pb.PluginCapability(volume_expansion=online)]
    )


class _AtOnce(ThreadPoolExecutor):
    """Calls what is submitted on the thread that submits it.

    A pool by class only, since gRPC asks for one; its threads never start.
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call ``fn``, and answer a future that is done."""
        call = Submitted(fn, args, kwargs)
        call.run()  # whatever it raises, the thread serves on
        return call.future


_AT_ONCE = _AtOnce(1)


def _at_once(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let gRPC's serving thread call a method, which must not wait for anything."""
    method.experimental_thread_pool = _AT_ONCE  # type: ignore[attr-defined]  # grpc's own name
    return method


class Identity(csi_pb2_grpc.IdentityServicer):
    """CSI Identity.

    Its methods get no request: what comes as ``requests`` waits when it is read.
    """

    def __init__(self, driver_name: str, gate: Gate) -> None:
        self._info = pb.GetPluginInfoResponse(name=driver_name, vendor_version=__version__)
        self._capabilities = _plugin_capabilities()
        self._gate = gate

    @_at_once
    def GetPluginInfo(self, requests: Any, context: Any) -> Any:
        """CSI GetPluginInfo."""
        return self._info

    @_at_once
    def GetPluginCapabilities(self, requests: Any, context: Any) -> Any:
        """CSI GetPluginCapabilities."""
        return self._capabilities

    @_at_once
    def Probe(self, requests: Any, context: Any) -> Any:
        """CSI Probe: ready when calls are served; ``false`` at start and while draining."""
        return pb.ProbeResponse(ready=BoolValue(value=self._gate.state is Readiness.READY))

    def add_to(self, server: grpc.Server) -> None:
        """Register the methods; what calls them sees no difference to unary ones."""
        service = pb.DESCRIPTOR.services_by_name["Identity"]
        handlers = {
            method.name: grpc.stream_unary_rpc_method_handler(
                getattr(self, method.name), response_serializer=methodcaller("SerializeToString")
            )
            for method in service.methods
        }
        server.add_registered_method_handlers(service.full_name, handlers)
