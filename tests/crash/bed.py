"""A controller process and a node process on one state directory, to be broken at will.

The processes are the real ones, each in its role, with the ``db`` store.  Faults are armed in a
directory while they run, so that one start serves every fault that does not end the process.
What is compared is looked up from outside: records, files, confirmations, node state, mounts and
loop devices.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from csi_driver.rpc.client import Client
from tests.crash import requests
from tests.crash.requests import NODE, Call
from tests.support import state
from tests.support.driver_process import DriverProcess
from tests.support.leftovers import loop_devices_below, mounts_below, release
from tests.support.messages import from_volume
from tests.support.waiting import look_again, wait_until

DATA = "what somebody wrote"
ROOT = Path(__file__).resolve().parents[2]

RUNS: Counter[str] = Counter()
"""How often each kind of test ran, for the end of the session."""


def counted(how: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Count the runs of a test."""

    def wrap(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(*args: Any, **kwargs: Any) -> None:
            RUNS[how] += 1
            test(*args, **kwargs)

        return run

    return wrap


class Faults:
    """The directory of armed faults; see :mod:`csi_driver.base.faults`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self._paused = directory / "paused"

    def arm(self, point: str, action: str) -> None:
        """Let ``action`` happen when the work comes to ``point``."""
        file = self.directory / point
        file.parent.mkdir(parents=True, exist_ok=True)
        # Under another name first: a process must not read half of it.
        file.with_suffix(".new").write_text(action)
        file.with_suffix(".new").rename(file)

    def armed(self) -> list[str]:
        """The points that were not reached yet."""
        files = (path for path in self.directory.rglob("*") if path.is_file())
        files = (path for path in files if path != self._paused)
        return sorted(str(path.relative_to(self.directory)) for path in files)

    def wait_until_paused(self, call: grpc.Future) -> None:
        """Until the work stands at its point; fails when the call ends before."""
        while not self._paused.exists():
            assert not call.done(), f"ended before {self.armed()}: {call.exception()}"
            look_again()

    def resume(self) -> None:
        """Let the work go on."""
        self._paused.unlink()


@dataclass(frozen=True)
class Inventory:
    """All that there is of a driver on a machine, but for tombstones."""

    records: frozenset[tuple[str, ...]]
    pending: tuple[str, ...]
    files: frozenset[str]
    strange_files: frozenset[str]
    confirmations: frozenset[str]
    node_states: frozenset[str]
    mounts: tuple[str, ...]
    loop_devices: tuple[str, ...]


@dataclass
class Bed:
    """The processes below ``directory``, and calls on them.

    :param driver: a driver class by its name, instead of the embedded file driver;
        its option ``double_directory`` says where its volumes are.
    """

    directory: Path
    driver: str = ""
    clients: dict[str, Client] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.faults = Faults(self.directory / "faults")
        self.state = self.directory / "state"
        self.environment = {
            "CINDER_CSI_TEST_FAULT_DIR": str(self.faults.directory),
            "PYTHONPATH": str(ROOT),
        }
        self.processes: dict[str, DriverProcess] = {}
        for role in ("node", "controller"):
            (self.directory / role).mkdir()
            special = {"command": self._command()} if self.driver and role == "controller" else {}
            self.processes[role] = self.make_process(
                role,
                arguments=("--state-dir", str(self.state)),
                environment=self.environment,
                **special,
            )
        try:
            for role in self.processes:
                self.start(role)
            self._make_golden()
        except BaseException:
            self.end()
            raise
        self.baseline = self.inventory()

    # -- where the records are: tests/cluster has another place -------------------

    def make_process(self, role: str, **options: Any) -> DriverProcess:
        """The process of a role, not started."""
        return DriverProcess(self.directory / role, role=role, node_id=NODE, **options)

    def kept(self, kind: str) -> list[dict[str, Any]]:
        """The records of a kind."""
        return state.records(self.state, kind)

    def confirmations(self) -> frozenset[str]:
        """What nodes confirmed, by names."""
        return _names(self.state / "confirmations")

    # -- the processes --------------------------------------------------------------

    def _command(self) -> tuple[str, ...]:
        backends = self.directory / "backends.json"
        options = {"double_directory": str(self.state / "volumes")}
        backends.write_text(
            json.dumps([{"name": "double", "driver": self.driver, "options": options}])
        )
        return (sys.executable, "-m", "tests.support.serve_backend", str(backends))

    def start(self, role: str) -> None:
        """Start a process, with a new connection to it."""
        self.processes[role].start()
        if role in self.clients:
            self.clients[role].close()
        self.clients[role] = Client(str(self.processes[role].socket))

    def stop(self, role: str) -> None:
        """Stop a process; :meth:`start` starts it again."""
        assert self.processes[role].stop() == 0

    def end(self) -> None:
        """Kill both processes and release what is left on the machine."""
        for role, process in self.processes.items():
            if role in self.clients:
                self.clients[role].close()
            with contextlib.suppress(RuntimeError):  # it does not run
                process.kill()
        release(self.directory)

    def is_tidy(self) -> bool:
        """Whether the next test can use it as it is."""
        alive = all(process.is_running() for process in self.processes.values())
        return alive and not self.faults.armed() and self.inventory() == self.baseline

    # -- calls --------------------------------------------------------------------

    def begin(self, call: Call) -> grpc.Future:
        """See :func:`tests.crash.requests.begin`."""
        return requests.begin(self.clients[call.role], call)

    def refused(self, call: Call) -> grpc.RpcError:
        """See :func:`tests.crash.requests.refused`."""
        return requests.refused(self.clients[call.role], call)

    def until_ok(self, call: Call) -> Any:
        """See :func:`tests.crash.requests.until_ok`."""
        return requests.until_ok(self.clients[call.role], call)

    # -- what there is ------------------------------------------------------------

    def records(self, kind: str, name: str = "data", phase: str = "") -> list[dict[str, Any]]:
        """The volumes or snapshots of a CSI name, in a phase if one is given."""
        found = (r for r in self.kept(kind) if r["name"] == name)
        return [record for record in found if phase in ("", record["phase"])]

    def orphans(self) -> set[str]:
        """The Cinder ids that are reported as orphans."""
        return {record["id"] for record in self.kept("orphan")}

    def connections(self) -> list[dict[str, Any]]:
        """The connections that are attached."""
        return [record for record in self.kept("connection") if record["phase"] == "attached"]

    def inventory(self) -> Inventory:
        """What there is now."""
        files = frozenset(state.backend_files(self.state))
        kept = {kind: self.kept(kind) for kind in ("volume", "snapshot", "connection")}
        return Inventory(
            records=frozenset(
                (kind, record.get("name", ""), record["id"])
                for kind, records in kept.items()
                for record in records
            ),
            pending=tuple(sorted(r["id"] for r in state.unfinished(*kept.values()))),
            files=files,
            strange_files=files ^ state.files_of(kept["volume"], kept["snapshot"]),
            confirmations=self.confirmations(),
            node_states=_names(self.state / "node" / "volumes"),
            mounts=tuple(str(point) for point in mounts_below(self.directory)),
            loop_devices=tuple(loop_devices_below(self.directory)),
        )

    def wait_until_repaired(self) -> None:
        """Until no record has an operation in progress."""
        wait_until("repair", lambda: not self.inventory().pending)

    def clear(self) -> None:
        """Delete everything that a test made, and see that nothing of it is left."""
        new = sorted(self.inventory().records - self.baseline.records)
        for kind, _, record_id in new:
            if kind == "connection":
                self.unpublish(record_id.partition("/")[0])
        for kind, _, record_id in sorted(new):
            if kind == "snapshot":
                self.until_ok(requests.delete_snapshot(record_id))
        for kind, _, record_id in new:
            if kind == "volume":
                self.until_ok(requests.delete(record_id))
        assert self.inventory() == self.baseline
        assert self.faults.armed() == []

    # -- a volume's life ----------------------------------------------------------

    def _make_golden(self) -> None:
        """A volume with data, and a snapshot of it, that tests make copies of."""
        self.golden = self.until_ok(requests.create("golden")).volume.volume_id
        staging = self.stage(self.golden)
        (staging / "data").write_text(DATA)
        self.unstage(self.golden)
        self.golden_cut = self.until_ok(
            requests.snapshot("golden-cut", self.golden)
        ).snapshot.snapshot_id

    def copy_of_golden(self) -> str:
        """The id of a new volume ``data`` with data."""
        answer = self.until_ok(requests.create("data", source=from_volume(self.golden)))
        return str(answer.volume.volume_id)

    def new_volume(self, fs_type: str = "ext4") -> str:
        """The id of a new volume ``data`` that was never formatted."""
        answer = self.until_ok(requests.create("data", fs_type=fs_type))
        return str(answer.volume.volume_id)

    def publish(self, volume_id: str, fs_type: str = "ext4") -> dict[str, str]:
        """Publish to the node; the publish_context."""
        return dict(self.until_ok(requests.publish(volume_id, fs_type)).publish_context)

    def unpublish(self, volume_id: str) -> None:
        """Unpublish from the node."""
        self.until_ok(requests.unpublish(volume_id))

    def staging(self, volume_id: str) -> Path:
        """Where a volume is staged."""
        return self.directory / "staging" / volume_id

    def target(self, volume_id: str) -> Path:
        """Where a volume is published on the node."""
        return self.directory / "pods" / volume_id / "mount"

    def stage_call(self, volume_id: str, fs_type: str = "ext4") -> Call:
        """The call that stages a volume, which is published for it."""
        context = self.publish(volume_id, fs_type)
        return requests.node_stage(volume_id, context, self.staging(volume_id), fs_type)

    def stage(self, volume_id: str, fs_type: str = "ext4") -> Path:
        """Publish and stage; the staging path."""
        self.until_ok(self.stage_call(volume_id, fs_type))
        return self.staging(volume_id)

    def unstage(self, volume_id: str) -> None:
        """Unstage and unpublish."""
        self.until_ok(requests.node_unstage(volume_id, self.staging(volume_id)))
        self.unpublish(volume_id)

    def read(self, volume_id: str, fs_type: str = "ext4") -> str:
        """What is on the volume; "" when it has none of our data."""
        file = self.stage(volume_id, fs_type) / "data"
        text = file.read_text() if file.exists() else ""
        self.unstage(volume_id)
        return text


def _names(directory: Path) -> frozenset[str]:
    if not directory.is_dir():
        return frozenset()
    return frozenset(path.name for path in directory.iterdir() if path.suffix != ".damaged")
