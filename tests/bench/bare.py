"""A bare grpcio server of the calls that are measured: constant answers, nothing behind.

It shows what grpcio's own server on an event loop costs on this machine.  Started by
``processes.bare`` with the arguments of ``cinder-csi serve``, of which it reads the
endpoint only.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from typing import Any

import grpc.aio
from google.protobuf.wrappers_pb2 import BoolValue

from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc._generated import csi_pb2_grpc


class BareIdentity(csi_pb2_grpc.IdentityServicer):
    """Probe."""

    async def Probe(self, request: Any, context: Any) -> Any:
        """Always ready."""
        return pb.ProbeResponse(ready=BoolValue(value=True))


class BareController(csi_pb2_grpc.ControllerServicer):
    """CreateVolume and DeleteVolume."""

    async def CreateVolume(self, request: Any, context: Any) -> Any:
        """An answer of the size of a real one."""
        return pb.CreateVolumeResponse(
            volume=pb.Volume(
                volume_id="6b1f7c0e-6d0a-4b6e-9a0e-0a6f7a1f5a11",
                capacity_bytes=request.capacity_range.required_bytes,
                volume_context={"backend": "file"},
            )
        )

    async def DeleteVolume(self, request: Any, context: Any) -> Any:
        """Nothing to delete."""
        return pb.DeleteVolumeResponse()


async def serve(endpoint: str) -> None:
    """Serve until SIGTERM."""
    server = grpc.aio.server()
    csi_pb2_grpc.add_IdentityServicer_to_server(BareIdentity(), server)
    csi_pb2_grpc.add_ControllerServicer_to_server(BareController(), server)
    server.add_insecure_port(endpoint)
    await server.start()
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await stopping.wait()
    await server.stop(grace=0.5)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--endpoint", required=True)
    asyncio.run(serve(parser.parse_known_args()[0].endpoint))
