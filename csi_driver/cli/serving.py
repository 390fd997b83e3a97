"""The serving process: starts the server, puts the parts together, drains at SIGTERM.

The socket answers Identity from the first moment, with ``ready=false``; the parts
of the role are made beside it (importing Cinder takes a second), and then the gate
opens.  A node process imports neither Cinder nor the controller.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from csi_driver.base import sealing
from csi_driver.base.errors import ConfigurationError, StateDirectoryError
from csi_driver.config import Settings, StoreKind
from csi_driver.rpc.handlers import Gate, Readiness
from csi_driver.rpc.identity import Identity
from csi_driver.rpc.server import Server, socket_path

if TYPE_CHECKING:
    from csi_driver.cli.cluster import Replica
    from csi_driver.cli.health import Health

LOG = logging.getLogger("csi_driver.serve")

_M_ARENA_MAX = -8
"""Parameter of mallopt(3), from malloc.h."""


class Parts:
    """What a process serves with, made for its role.

    Each part is told to drain within the same seconds; ``close`` comes last.

    :param replica: this process among the controllers of a cluster; None where it is alone.
    """

    def __init__(self, settings: Settings, gate: Gate, replica: Replica | None) -> None:
        self._settings = settings
        self._replica = replica
        self._drains: list[Callable[[float], bool]] = []
        self._closes: list[Callable[[], None]] = []
        self._running: list[Callable[[], list[str]]] = []
        self.controller = None
        self.node = None
        if settings.role.controller:
            from csi_driver.rpc.controller import Controller

            self.controller = Controller(gate)
        if settings.role.node:
            from csi_driver.rpc.node import Node

            self.node = Node(gate)

    def make(self, stopped: Callable[[], bool]) -> None:
        """Make the services of the role; slow.

        The node comes first: it registers, and the controller finds it.  A controller of
        several replicas is made when this one leads.

        :param stopped: whether the process was told to end meanwhile.
        :raises CinderCSIError: the configuration or the state cannot be used.
        """
        settings = self._settings
        keys = sealing.KeyFile(settings.transport_keys, shared=settings.shares_keys)
        if self.node is not None:
            from csi_driver.cli.assembly_node import make_node

            node = make_node(self._settings, keys)
            self.node.service = node
            self._drains.append(node.drain)
        if self.controller is not None:
            from csi_driver.cli.assembly_controller import make_controller, make_replica

            if self._replica is None:
                controller = make_controller(self._settings, keys)
            elif (made := make_replica(self._settings, keys, self._replica, stopped)) is None:
                return
            else:
                controller = made
            self.controller.service = controller
            self._drains.append(controller.drain)
            self._closes.append(controller.close)
            self._running.append(controller.running)
            controller.start()

    def drain(self, seconds: float) -> bool:
        """Wait for running work; False when some still runs."""
        finished = [drain(seconds) for drain in self._drains]  # every part, not up to the first
        return all(finished)

    def running(self) -> list[str]:
        """One sentence per operation that runs."""
        return [sentence for part in self._running for sentence in part()]

    def close(self) -> None:
        """Release stores and pools; then another replica may lead."""
        for close in self._closes:
            close()
        if self._replica is not None:
            self._replica.stop()


class StopSignals:
    """SIGTERM and SIGINT, from now on; for the main thread.

    The waiting is on a socket: a thread that waits for a lock does not notice a signal
    that comes just before it begins to, or that the kernel gives to another thread.
    """

    def __init__(self) -> None:
        self.came = False
        self._woken, self._waking = socket.socketpair()
        self._waking.setblocking(False)
        signal.set_wakeup_fd(self._waking.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def wait(self) -> None:
        """Wait until one has come."""
        while not self.came:
            self._woken.recv(1)

    def _note(self, *_: object) -> None:
        self.came = True


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; the exit code.

    :raises CinderCSIError: the process cannot serve with these settings.
    """
    if not settings.role.controller:
        _share_one_heap()
    path = socket_path(settings.endpoint)
    prepare_state_dir(settings)
    replica = _replica(settings)
    gate = Gate(replica.admit) if replica else Gate()
    parts = Parts(settings, gate, replica)
    server = Server(path, gate, Identity(settings.driver_name, gate), parts.controller, parts.node)
    stop = StopSignals()
    health = _health(settings, gate, replica)
    server.start()
    try:
        _make(parts, lambda: stop.came)
        if not stop.came:
            gate.state = Readiness.READY
            LOG.info("Ready: role %s, node id %s", settings.role, settings.node_id)
        stop.wait()
        finished = _drain(settings, server, parts)
    finally:
        server.stop()
        if health is not None:
            health.close()
    if not finished:
        # A backend call hangs.  It is recorded, and the next process takes it up;
        # a normal exit would wait for its thread for ever.
        logging.shutdown()
        os._exit(0)
    parts.close()
    return 0


def _health(settings: Settings, gate: Gate, replica: Replica | None) -> Health | None:
    """The HTTP endpoints, if they are asked for.

    :raises ConfigurationError: their port cannot be listened on.
    """
    if not settings.health_port:
        return None
    from csi_driver.cli.health import Health

    return Health(settings.health_address, settings.health_port, gate, replica)


def _replica(settings: Settings) -> Replica | None:
    """This process in the election of controllers; None where there is none.

    :raises ConfigurationError: the API server cannot be reached as configured.
    """
    if settings.store is not StoreKind.KUBERNETES or not settings.role.controller:
        return None
    if settings.role.node:
        raise ConfigurationError(
            "Controller and node do not share a process when records are in Kubernetes",
            advice="Run --role controller in a Deployment and --role node in a DaemonSet",
        )
    from csi_driver.cli.cluster import Replica, connection
    from csi_driver.kube.api import Api

    # Another connection than the records': an election does not wait behind them.
    api = Api(connection(settings), connections=2)
    return Replica(api, settings.driver_name, settings.node_id)


def _share_one_heap() -> None:
    """Let all threads allocate from one heap of the C library.

    glibc gives threads heaps of their own, which keep what was freed in them: 10 MiB after a
    hundred stages, four at a time.  Python runs one thread at a time anyway.
    """
    import ctypes

    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _make(parts: Parts, stopped: Callable[[], bool]) -> None:
    """Make the parts without the garbage collector.

    Importing Cinder makes 140,000 objects that live as long as the process.
    The collector would look at them again and again while they are made, and
    whenever it looks at everything later.
    """
    gc.disable()
    try:
        parts.make(stopped)
    finally:
        gc.freeze()
        gc.enable()


def _drain(settings: Settings, server: Server, parts: Parts) -> bool:
    LOG.info("Draining: new calls are refused, running work has %g s", settings.drain_seconds)
    calls = server.drain(settings.drain_seconds)
    work = parts.drain(settings.drain_seconds if calls else 0.0)
    for sentence in parts.running():
        LOG.warning("Left to the next process, as recorded: %s", sentence)
    LOG.info("Drained" if work else "Stopping with work left")
    return work


def prepare_state_dir(settings: Settings) -> None:
    """Make the state directory and prove that it can be written.

    :raises StateDirectoryError: it cannot.
    """
    directory = settings.state_dir
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StateDirectoryError(f"{directory} cannot be made: {error}") from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise StateDirectoryError(f"{directory} is not writable")


def run(settings: Settings) -> int:
    """Run :func:`serve`; the exit code of the command.

    :raises CinderCSIError: the process cannot serve with these settings.
    """
    try:
        return serve(settings)
    except KeyboardInterrupt:
        return 130
