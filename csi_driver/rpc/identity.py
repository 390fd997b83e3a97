"""The CSI Identity service.

It answers from constants and the gate's state: no backend, store or API server is
ever waited for, since sidecars take an error here for the end.

So it needs no thread of its own either: gRPC's serving thread answers as soon as it sees
the call, which takes half the CPU of handing it over, and whatever other calls do.  The
requests have no fields, and are not read.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.wrappers_pb2 import BoolValue

from csi_driver import __version__
from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc._generated import csi_pb2_grpc
from csi_driver.rpc.handlers import Gate, Readiness
from csi_driver.rpc.unary import at_once

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


class Identity(csi_pb2_grpc.IdentityServicer):
    """CSI Identity; its methods get no request."""

    def __init__(self, driver_name: str, gate: Gate) -> None:
        self._info = pb.GetPluginInfoResponse(name=driver_name, vendor_version=__version__)
        self._capabilities = _plugin_capabilities()
        self._gate = gate

    @at_once
    def GetPluginInfo(self, request: None, context: Any) -> Any:
        """CSI GetPluginInfo."""
        return self._info

    @at_once
    def GetPluginCapabilities(self, request: None, context: Any) -> Any:
        """CSI GetPluginCapabilities."""
        return self._capabilities

    @at_once
    def Probe(self, request: None, context: Any) -> Any:
        """CSI Probe: ready when calls are served; ``false`` at start and while draining."""
        return pb.ProbeResponse(ready=BoolValue(value=self._gate.state is Readiness.READY))
