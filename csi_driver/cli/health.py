"""Liveness and readiness over HTTP, for kubelet.  Made by ``serving`` with ``--health-port``.

``/healthz`` fails when only a new process helps: the thread of the election hangs.  Neither
a backend nor the API server is asked: a restart would mend neither, and lose what a leader
has in memory while the server is away.

``/readyz`` succeeds when the process serves, or stands by and could take over; its text
says which, and who leads.  No Service is behind it: it holds up rollouts and rings alarms.
So it fails where both are wanted: for a standby that cannot see the Lease (a rollout would
go on until nobody can lead), and for a leader that cannot renew it (nothing is provisioned).
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from csi_driver.base.errors import ConfigurationError
from csi_driver.rpc.handlers import Gate, Readiness

if TYPE_CHECKING:
    from csi_driver.cli.cluster import Replica

_REQUEST_SECONDS = 5.0


class Health:
    """The server; it runs from here to :meth:`close`.

    :param replica: this process among the controllers of a cluster; None where it is alone.
    :raises ConfigurationError: the port cannot be listened on.
    """

    def __init__(self, address: str, port: int, gate: Gate, replica: Replica | None) -> None:
        self._gate = gate
        self._replica = replica
        health = self

        class Handler(BaseHTTPRequestHandler):
            timeout = _REQUEST_SECONDS

            def do_GET(self) -> None:
                code, text = health.answer(self.path)
                self.send_response(code)
                self.send_header("Content-Type", "text/plain; charset=utf-8")
                self.end_headers()
                self.wfile.write(f"{text}\n".encode())

            def log_message(self, *_: object) -> None:
                """Say nothing: kubelet asks every few seconds."""

        try:
            self._server = ThreadingHTTPServer((address, port), Handler)
        except OSError as error:
            raise ConfigurationError(
                f"--health-port: {address} port {port} cannot be listened on: {error}",
                advice="Choose another port, or end the process that has it",
            ) from error
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()

    def answer(self, path: str) -> tuple[int, str]:
        """The HTTP code and the text for a path."""
        if path == "/healthz":
            if self._replica is not None and not self._replica.is_alive():
                return 503, "the election has not looked at its Lease for long"
            return 200, "alive"
        if path == "/readyz":
            return self._readiness()
        return 404, "/healthz or /readyz"

    def _readiness(self) -> tuple[int, str]:
        state = self._gate.state
        if state is Readiness.DRAINING:
            return 503, "draining"
        if self._replica is None:
            return (200, "serving") if state is Readiness.READY else (503, "starting")
        standing, who = self._replica.standing.value, self._replica.explain()
        if standing == "standby" and self._replica.is_prepared:
            return (200 if self._replica.can_take_over() else 503), f"standby: {who}"
        if standing in ("standby", "leading") and state is Readiness.STARTING:
            return 503, f"starting: {who}"
        return (200 if standing == "leading" else 503), f"{standing}: {who}"

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()
