"""Processes under measurement: the driver itself, and a bare gRPC server.

Both are started and found ready in the same way, so that their figures compare.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from csi_driver.config import FILE_DRIVER, BackendSettings
from csi_driver.rpc.client import Client
from tests.bench.configured import VARIABLE
from tests.support.driver_process import COMMAND, DriverProcess

SERVE = (str(COMMAND), "serve")
CONFIGURED = (sys.executable, "-m", "tests.bench.configured")
BARE = (sys.executable, "-m", "tests.bench.bare")

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Process:
    """A process whose use of the machine is measured."""

    pid: int

    def cpu_seconds(self) -> float:
        """CPU time of all its threads so far, dead ones included; in nanosecond steps."""
        # The clock of a process, as clock_getcpuclockid(3) makes it from a process id.
        return time.clock_gettime((~self.pid << 3) | 2)

    def memory_mib(self) -> float:
        """Resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@dataclass(frozen=True)
class Subject(Process):
    """A process that serves, with a client on its socket."""

    client: Client


@contextlib.contextmanager
def serving(
    directory: Path,
    *,
    role: str = "all",
    store: str = "db",
    backend: BackendSettings | None = None,
    state: Path | None = None,
    command: Sequence[str] = SERVE,
) -> Iterator[Subject]:
    """A process that is ready, with its socket, its log and its state below ``directory``.

    :param backend: instead of the one that the driver has without configuration.
    :param state: its state directory, when it shares one.
    """
    environment = {"PYTHONPATH": str(ROOT)}
    if backend is not None:
        command = CONFIGURED
        environment[VARIABLE] = msgspec.json.encode(backend).decode()
    process = DriverProcess(
        directory,
        role=role,
        store=store,
        command=command,
        arguments=("--state-dir", str(state)) if state else (),
        environment=environment,
    )
    with process, Client(str(process.socket)) as client:
        yield Subject(process.pid, client)


@contextlib.contextmanager
def bare() -> Iterator[Subject]:
    """The bare gRPC server."""
    with TemporaryDirectory() as directory, serving(Path(directory), command=BARE) as subject:
        yield subject


def roomy(directory: Path) -> BackendSettings:
    """The default backend, but allowed to promise more than the disk of this machine has."""
    return BackendSettings(
        name="file",
        driver=FILE_DRIVER,
        options={
            "file_volume_directory": str(directory / "state" / "volumes"),
            "max_over_subscription_ratio": "100000",
        },
    )


def slow(seconds: float) -> BackendSettings:
    """The driver double of the tests: its volumes are numbers, its calls take their time."""
    return BackendSettings(
        name="slow",
        driver="tests.doubles.driver.DoubleDriver",
        options={"double_delay": str(seconds)},
    )
