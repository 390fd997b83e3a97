"""The serving process: starts the server, puts the parts together, drains at SIGTERM.

The socket answers Identity from the first moment, with ``ready=false``; the parts
of the role are made beside it (importing Cinder takes a second), and then the gate
opens.  A node process imports neither Cinder nor the controller.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from csi_driver.base import sealing
from csi_driver.base.errors import StateDirectoryError
from csi_driver.config import Settings
from csi_driver.rpc.handlers import Gate, Readiness
from csi_driver.rpc.identity import Identity
from csi_driver.rpc.server import Server, socket_path

LOG = logging.getLogger("csi_driver.serve")


class Parts:
    """What a process serves with, made for its role.

    Each part is told to drain within the same seconds; ``close`` comes last.
    """

    def __init__(self, settings: Settings, gate: Gate) -> None:
        self._settings = settings
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

    def make(self) -> None:
        """Make the services of the role; slow.

        The node comes first: it registers, and the controller finds it.

        :raises CinderCSIError: the configuration or the state cannot be used.
        """
        keys = sealing.KeyFile(transport_key_path(self._settings.state_dir))
        if self.node is not None:
            from csi_driver.cli.assembly_node import make_node

            node = make_node(self._settings, keys)
            self.node.service = node
            self._drains.append(node.drain)
        if self.controller is not None:
            from csi_driver.cli.assembly_controller import make_controller

            controller = make_controller(self._settings, keys)
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
        """Release stores and pools."""
        for close in self._closes:
            close()


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
    path = socket_path(settings.endpoint)
    prepare_state_dir(settings)
    gate = Gate()
    parts = Parts(settings, gate)
    server = Server(path, gate, Identity(settings.driver_name, gate), parts.controller, parts.node)
    stop = StopSignals()
    server.start()
    try:
        _make(parts)
        if not stop.came:
            gate.state = Readiness.READY
            LOG.info("Ready: role %s, node id %s", settings.role, settings.node_id)
        stop.wait()
        finished = _drain(settings, server, parts)
    finally:
        server.stop()
    if not finished:
        # A backend call hangs.  It is recorded, and the next process takes it up;
        # a normal exit would wait for its thread for ever.
        logging.shutdown()
        os._exit(0)
    parts.close()
    return 0


def _make(parts: Parts) -> None:
    """Make the parts without the garbage collector.

    Importing Cinder makes 140,000 objects that live as long as the process.
    The collector would look at them again and again while they are made, and
    whenever it looks at everything later.
    """
    gc.disable()
    try:
        parts.make()
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


def transport_key_path(state_dir: Path) -> Path:
    """Where the keys are that seal the publish_context; controller and nodes have them."""
    return state_dir / "keys" / "transport.json"


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
