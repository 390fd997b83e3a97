"""The driver process that the demo starts, and stops whatever happens.

The demo talks to a real process over its real socket, as a cluster would; hence
this one place outside ``attach`` and ``node`` that starts a program: ourselves.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from csi_driver.base.errors import CinderCSIError
from csi_driver.rpc.client import Client, NotServing

_START_SECONDS = 60.0
_STOP_SECONDS = 40.0


class DriverFailed(CinderCSIError):
    """The driver process ended, or did not become ready."""


class DriverProcess:
    """``cinder-csi serve`` with the embedded defaults, its log beside its state.

    :param directory: a new directory; the socket is ``csi.sock`` in it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state_dir = directory / "state"
        self.log = directory / "driver.log"
        self.socket = directory / "csi.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id, 0 before the start."""
        return self._process.pid if self._process else 0

    def start(self) -> Client:
        """Start it and wait until it is ready.

        :raises DriverFailed: with the end of its log.
        """
        arguments = ["serve", "--endpoint", f"unix://{self.socket}"]
        arguments += ["--state-dir", str(self.state_dir)]
        try:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "csi_driver.cli", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
        except OSError as error:
            raise DriverFailed(f"The driver could not be started: {error}") from error
        client = Client(str(self.socket))
        try:
            client.wait_ready(_START_SECONDS)
        except NotServing as error:
            client.close()
            raise DriverFailed(f"The driver did not start: {self._log_end()}") from error
        return client

    def stop(self) -> int:
        """Stop it by SIGTERM and wait; its exit code.

        :raises DriverFailed: it did not stop and was killed.
        """
        if self._process is None:
            return 0
        process, self._process = self._process, None
        process.terminate()
        try:
            return process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise DriverFailed(f"The driver did not stop: {self._log_end()}") from None

    def _log_end(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:]) or "it logged nothing"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
