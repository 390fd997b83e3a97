"""The real `cinder-csi serve` as a child process, for tests that talk to it over its socket.

Used by the csi-sanity, end-to-end and crash tests. A test that needs the process in an unusual
state gets it through `arguments` and `environment`, never by reaching inside.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from csi_driver.rpc._generated import csi_pb2, csi_pb2_grpc

COMMAND = Path(sys.executable).with_name("cinder-csi")
START_SECONDS = 60.0
STOP_SECONDS = 30.0
PROBE_SECONDS = 0.5
PROBE_INTERVAL_SECONDS = 0.05

# gRPC waits a second and more between attempts to connect; a socket on this machine needs less.
CONNECT_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
]


class DriverDidNotStart(Exception):
    """The process ended, or was not ready in time; the message ends with what it logged."""


class DriverProcess:
    """One `cinder-csi serve`: `start()` returns when it is ready, `stop()` when it is gone.

    As a context manager it does both. The same object can be started again after `stop()` or
    `kill()`, on the same state directory: this is how a restart is tested.
    """

    def __init__(
        self,
        directory: Path,
        *,
        role: str = "all",
        store: str = "db",
        node_id: str = "node-1",
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = (str(COMMAND), "serve"),
    ) -> None:
        """`directory` takes the socket, the log and the state; keep its path below 90 characters,
        because the kernel limits that of a socket to 107. `command` takes the same arguments as
        `cinder-csi serve`."""
        self.socket = directory / "csi.sock"
        self.state_directory = directory / "state"
        self.log = directory / "driver.log"
        self._command = [
            *command,
            "--role", role,
            "--endpoint", self.endpoint,
            "--state-dir", str(self.state_directory),
            "--store", store,
            "--node-id", node_id,
            *arguments,
        ]  # fmt: skip
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """The address of the socket as gRPC and csi-sanity want it."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        """The process id; only while the process runs."""
        return self._running().pid

    def memory_mib(self) -> float:
        """Resident memory, pages of libraries that processes share included."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def channel(self) -> grpc.Channel:
        """A new connection to the socket; the caller closes it."""
        return grpc.insecure_channel(self.endpoint, options=CONNECT_OPTIONS)

    def logs(self) -> str:
        """What the process has written to stdout and stderr since its first start."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def start(self) -> None:
        """Start the process and wait until Probe says ready. Raises DriverDidNotStart."""
        self.spawn()
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def spawn(self) -> None:
        """Start the process, for one that may not become ready."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def stop(self) -> int:
        """End the process by SIGTERM, by SIGKILL if it does not obey, and return its exit code."""
        process = self._running()
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return self.kill()
        finally:
            self._process = None

    def kill(self) -> int:
        """End the process by SIGKILL, as a power failure would, and return its exit code."""
        process = self._running()
        process.kill()
        self._process = None
        return process.wait()

    def is_running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def wait(self) -> int:
        """Wait for the process to end by itself, and return its exit code."""
        code = self._running().wait(STOP_SECONDS)
        self._process = None
        return code

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the driver process is not running; call start() first")
        return self._process

    def _wait_until_ready(self) -> None:
        process = self._running()
        deadline = time.monotonic() + START_SECONDS
        with self.channel() as channel:
            identity = csi_pb2_grpc.IdentityStub(channel)
            while time.monotonic() < deadline:
                if _is_ready(identity):
                    return
                if _has_exited(process):
                    raise self._failure(f"exited with code {process.returncode}")
        raise self._failure(f"was not ready after {START_SECONDS:.0f} s")

    def _failure(self, reason: str) -> DriverDidNotStart:
        return DriverDidNotStart(f"cinder-csi serve {reason}; it logged:\n{self.logs()}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self.stop()


_NOT_SERVING = (
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,  # the call arrived while the process ends
)


def _is_ready(identity: csi_pb2_grpc.IdentityStub) -> bool:
    """One Probe, which waits for the socket. An answer without `ready` means ready (CSI, Probe)."""
    try:
        answer = identity.Probe(csi_pb2.ProbeRequest(), timeout=PROBE_SECONDS, wait_for_ready=True)
    except grpc.RpcError as error:
        if error.code() in _NOT_SERVING:
            return False
        raise
    return not answer.HasField("ready") or answer.ready.value


def _has_exited(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process has ended, or does within the interval between two Probes."""
    try:
        process.wait(PROBE_INTERVAL_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True
