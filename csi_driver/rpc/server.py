"""The gRPC server on its unix socket: start, serve, drain, stop.

Each call has a thread, made when none is idle, and there are more of them than calls may
wait (:data:`~csi_driver.rpc.handlers.MOST_CALLS`); Identity needs
none.  An event loop instead would have to hand every other call to a thread and back, which
costs more than gRPC itself.  The socket is there from the first moment (sidecars give up
after 30 s without it) and goes last.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from csi_driver.base.errors import CinderCSIError, ConfigurationError
from csi_driver.rpc._generated import csi_pb2_grpc
from csi_driver.rpc.handlers import MOST_CALLS, Gate
from csi_driver.rpc.identity import Identity
from csi_driver.rpc.threads import Threads
from csi_driver.rpc.unary import UnaryServer

if TYPE_CHECKING:
    # A node process must not import the controller's rooms.
    from csi_driver.rpc.controller import Controller
    from csi_driver.rpc.node import Node

LOG = logging.getLogger("csi_driver.rpc")

_PATH_BYTES = 107
"""Longest path of a unix socket (sockaddr_un.sun_path without its NUL)."""

_THREADS = MOST_CALLS + 32
"""Threads at most: one for each call, and some for calls that never wait."""

_STOP_SECONDS = 0.5

_OPTIONS = (
    ("grpc.so_reuseport", 0),
    # A page of a list is bounded; a single answer may still pass gRPC's 4 MiB.
    ("grpc.max_send_message_length", -1),
)


class SocketInUse(CinderCSIError):
    """Another process serves on the socket."""

    advice = "Stop that process, or name another socket with --endpoint"


def socket_path(endpoint: str) -> Path:
    """The path of a CSI endpoint such as ``unix:///csi/csi.sock``.

    :raises ConfigurationError: not a unix socket, relative, too long, or not ``.sock``.
    """
    if not endpoint.startswith("unix:"):
        raise ConfigurationError(
            f"The endpoint {endpoint!r} is no unix socket",
            advice="CSI allows unix sockets only: unix:///path/csi.sock",
        )
    text = endpoint.removeprefix("unix:")
    text = text.removeprefix("//") if text.startswith("///") else text
    if not text.startswith("/") or text.startswith("//") or not text.endswith(".sock"):
        raise ConfigurationError(
            f"The endpoint {endpoint!r} names no absolute path that ends in .sock",
            advice="Write it as unix:///path/csi.sock",
        )
    if len(os.fsencode(text)) > _PATH_BYTES:
        raise ConfigurationError(
            f"The socket path {text!r} has more than {_PATH_BYTES} bytes",
            advice="The kernel allows no longer one: use a shorter directory",
        )
    return Path(text)


def claim_socket(path: Path) -> None:
    """Make room for the socket: a dead process's one is removed, a living one's is not.

    :raises SocketInUse: somebody answers there.
    :raises ConfigurationError: something else is there, or it cannot be made there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigurationError(f"The socket {path} cannot be made: {error}") from error
    if not stat.S_ISSOCK(mode):
        raise ConfigurationError(f"{path} exists and is no socket", advice="Remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            raise ConfigurationError(f"The socket {path} cannot be used: {error}") from error
    raise SocketInUse(f"Another process serves on {path}")


class Server:
    """The server of one process.

    :param controller: None in a node process.
    :param node: None in a controller process.
    """

    def __init__(
        self,
        path: Path,
        gate: Gate,
        identity: Identity,
        controller: Controller | None,
        node: Node | None,
    ) -> None:
        self._path = path
        self._gate = gate
        self._threads = Threads(_THREADS, "rpc")
        self._server = UnaryServer(self._threads, _OPTIONS)
        csi_pb2_grpc.add_IdentityServicer_to_server(identity, self._server)
        if controller is not None:
            # Here, because a node process does without.
            from csi_driver.rpc import administration

            csi_pb2_grpc.add_ControllerServicer_to_server(controller, self._server)
            administration.add_to_server(controller, self._server)
        if node is not None:
            csi_pb2_grpc.add_NodeServicer_to_server(node, self._server)

    def start(self) -> None:
        """Claim the socket and serve; Identity answers from now on.

        :raises SocketInUse: another process serves there.
        :raises ConfigurationError: the socket cannot be made.
        """
        claim_socket(self._path)
        try:
            self._server.add_insecure_port(f"unix:{self._path}")
        except RuntimeError as error:
            raise ConfigurationError(
                f"The socket {self._path} cannot be made: {error}",
                advice="Check that its directory exists and is writable",
            ) from error
        self._server.start()
        LOG.info("Serving CSI on %s", self._path)

    def drain(self, seconds: float) -> bool:
        """Refuse new calls and wait for the running; False when some still run."""
        return self._gate.drain(seconds)

    def stop(self) -> None:
        """Stop serving; the socket goes now."""
        self._server.stop(_STOP_SECONDS)
        self._threads.shutdown()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
