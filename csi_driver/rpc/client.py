"""A client of a CSI socket, for the demo, the benchmarks and the tests.

It waits for the socket without polling the clock: gRPC connects when the socket
appears, and :meth:`Client.wait_ready` asks Probe until it answers ready.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

import grpc

from csi_driver.base.errors import CinderCSIError
from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc._generated import csi_pb2_grpc


class NotServing(CinderCSIError):
    """Nothing ready answered on the socket in time."""

    advice = "Read the log of the driver process"


class Client:
    """Stubs of the three services on one channel.

    :param path: the socket's path, without ``unix:``.
    """

    def __init__(self, path: str) -> None:
        self.channel = grpc.insecure_channel(
            f"unix:{path}",
            options=[
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 200),
            ],
        )
        self.identity = csi_pb2_grpc.IdentityStub(self.channel)
        self.controller = csi_pb2_grpc.ControllerStub(self.channel)
        self.node = csi_pb2_grpc.NodeStub(self.channel)

    def wait_ready(self, seconds: float) -> None:
        """Wait until Probe answers ready.

        :raises NotServing: it did not within ``seconds``.
        """
        deadline = time.monotonic() + seconds
        pause = 0.02
        while (left := deadline - time.monotonic()) > 0:
            try:
                answer = self.identity.Probe(pb.ProbeRequest(), timeout=left, wait_for_ready=True)
            except grpc.RpcError:
                break
            if answer.ready.value:
                return
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, 0.5)
        raise NotServing(f"No ready answer within {seconds:.0f} s")

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
