"""The power fails: whatever the disk kept of the record store, nothing leaks and nothing doubles.

One run of the real process under strace is the source of everything: its writes and flushes are
replayed up to every moment between two flushes, and the driver is started on what is left.  The
order that makes it safe is proved for every moment, from the records alone:

- an answer is given only after what it says is flushed
- whatever is made on the backend has its id flushed before the call
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from csi_driver.config import FILE_DRIVER
from tests.support import power, state
from tests.support.controller_bench import ControllerBench
from tests.support.driver_process import DriverProcess
from tests.support.power import Moment, Recording
from tests.support.sidecar import Sidecar
from tests.support.tracing import CannotTrace, Tracing

NODE = "node-1"
# Method of the sidecar, name of the object, and what else it takes: GiB, then a source.
SCRIPT: list[tuple] = [
    ("create", "a", 1),
    ("snapshot", "cut", "a"),
    ("clone", "b", 2, "a"),
    ("expand", "a", 2),
    ("restore", "c", 2, "cut"),
    ("publish", "a"),
    ("unpublish", "a"),
    ("delete", "b"),
    ("delete_snapshot", "cut"),
    ("delete", "a"),
    ("create", "a", 1),  # the name again, another object
    ("snapshot", "cut", "a"),
    ("delete", "c"),
    ("clone", "b", 3, "a"),
    ("publish", "b"),
]


@dataclass(frozen=True)
class Call:
    """A call that a client made: when (seconds since the epoch), and what came of it.

    ``id`` is the object that it made or changed.
    """

    method: str
    arguments: tuple
    id: str
    gib: int
    asked: float
    answered: float


@dataclass
class World:
    """What callers know to be there."""

    volumes: dict[str, int] = field(default_factory=dict)
    snapshots: dict[str, str] = field(default_factory=dict)
    published: set[str] = field(default_factory=set)

    def after(self, call: Call) -> None:
        """Take an answer over."""
        if call.method in ("create", "clone", "restore", "expand"):
            self.volumes[call.id] = call.gib
        elif call.method == "snapshot":
            self.snapshots[call.id] = call.arguments[1]
        elif call.method == "publish":
            self.published.add(call.id)
        elif call.method == "unpublish":
            self.published.discard(call.id)
        elif call.method == "delete":
            del self.volumes[call.id]
        elif call.method == "delete_snapshot":
            del self.snapshots[call.id]


def play(path: Path, client: int) -> list[Call]:
    """Make the calls of the script, with names of this client's own."""
    ids: dict[str, str] = {}
    calls = []
    with Sidecar(str(path)) as sidecar:
        for method, name, *rest in SCRIPT:
            arguments = _arguments(client, method, name, rest, ids)
            asked = time.time()
            body = getattr(sidecar, method)(*arguments).expect().body
            answered = time.time()
            ids[name] = _id_in(method, body) or ids[name]
            gib = rest[0] if method in ("create", "clone", "restore", "expand") else 0
            calls.append(Call(method, arguments, ids[name], gib, asked, answered))
    return calls


def _arguments(client: int, method: str, name: str, rest: list, ids: dict[str, str]) -> tuple:
    own = f"client{client}-{name}"
    if method in ("create", "clone", "restore"):
        return (own, rest[0], *(ids[source] for source in rest[1:]))
    if method == "snapshot":
        return (own, ids[rest[0]])
    if method in ("publish", "unpublish"):
        return (ids[name], NODE)
    return (ids[name], *rest)


def _id_in(method: str, body) -> str:
    if method in ("create", "clone", "restore"):
        return body.volume.volume_id
    return body.snapshot.snapshot_id if method == "snapshot" else ""


@dataclass(frozen=True)
class Run:
    """The recorded run and its calls, in the order of their answers."""

    recording: Recording
    calls: list[Call]

    def world(self, moment: Moment) -> World:
        """What had been answered when the power failed."""
        world = World()
        for call in self.calls:
            if call.answered <= moment.time:
                world.after(call)
        return world

    def unanswered(self, moment: Moment) -> list[Call]:
        """What callers were waiting for when the power failed."""
        return [call for call in self.calls if call.asked <= moment.time < call.answered]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Four clients at once, once, for all tests."""
    with tempfile.TemporaryDirectory(prefix="power-") as name:
        directory = Path(name)
        with DriverProcess(directory, node_id=NODE) as process:
            before = power.record_files(process.state_directory)
            try:
                with Tracing(process.pid, directory / "trace") as tracing:
                    with ThreadPoolExecutor(4) as pool:
                        played = pool.map(lambda client: play(process.socket, client), range(4))
                    process.kill()
            except CannotTrace as error:
                pytest.skip(f"no tracing: {error}")
        recording = Recording(process.state_directory, before, tracing.calls())
        calls = sorted((c for calls in played for c in calls), key=lambda call: call.answered)
        yield Run(recording, calls)


@pytest.fixture
def records_after(run, tmp_path):
    """The state directory that holds the records after so many flushes, and nothing else."""

    def lay_out(flushes: int) -> Path:
        directory = tmp_path / str(flushes)
        if not directory.exists():
            power.lay_out(directory, run.recording.files(flushes))
        return directory

    return lay_out


# -- the order, proved at every moment --------------------------------------------


def test_what_is_made_on_the_backend_has_its_id_flushed_before(run, records_after):
    made = run.recording.made()
    assert len(made) >= 4 * sum(step[0] in ("create", "clone", "restore") for step in SCRIPT)
    for name, began in made:
        assert name in power.unfinished(records_after(run.recording.flushed_before(began)))


def test_at_no_moment_is_anything_on_the_backend_that_no_record_knows(run, records_after):
    for moment in run.recording.moments():
        there = run.recording.on_backend(moment)
        assert there.keys() <= power.recorded(records_after(moment.flushes))


def test_an_answer_is_given_after_its_effect_is_flushed(run, records_after):
    for call in run.calls:
        directory = records_after(run.recording.flushed_at(call.answered))
        assert has_effect(call, directory), call


def has_effect(call: Call, directory: Path) -> bool:
    """Whether the records say what the answer said."""
    kind = {"publish": "connection", "unpublish": "connection"}.get(call.method, "volume")
    if "snapshot" in call.method:
        kind = "snapshot"
    known = f"{call.id}/{NODE}" if kind == "connection" else call.id
    found = {record["id"]: record for record in state.records(directory, kind)}.get(known)
    if call.method in ("delete", "delete_snapshot", "unpublish"):
        return found is None
    if found is None or found["phase"] not in ("available", "attached"):
        return False
    return found.get("size_gib", 0) >= call.gib


# -- the driver, started on what is left -------------------------------------------


def restore(run: Run, moment: Moment, dice: random.Random, directory: Path) -> Path:
    """Make the state directory that the loss of power leaves."""
    files = run.recording.files(moment.flushes, tail=dice if dice.random() < 0.5 else None)
    scratch = directory / "scratch"
    power.lay_out(scratch, files)
    finishing = power.unfinished(scratch) if dice.random() < 0.5 else power.NOTHING
    state_directory = directory / "state"
    run.recording.restore(state_directory, files, run.recording.on_backend(moment, finishing))
    return state_directory


def finish(run: Run, moment: Moment, sidecar: Sidecar, left: Path) -> None:
    """What was asked is asked again, what is there is compared, then all is deleted."""
    world = run.world(moment)
    for call in run.unanswered(moment):
        ask_again(sidecar, call)
        world.after(call)
    state.wait_until_nothing_is_pending(left)
    assert sidecar.volumes() == world.volumes
    assert sidecar.snapshots() == world.snapshots
    connected = {record["volume_id"] for record in state.records(left, "connection")}
    assert connected == world.published
    assert state.backend_files(left) == state.expected_files(left)
    delete_all(sidecar, world)
    assert state.objects(left) == []
    assert state.backend_files(left) == set()


def ask_again(sidecar: Sidecar, call: Call) -> None:
    """Make the call once more; it is about the same object."""
    body = getattr(sidecar, call.method)(*call.arguments).expect().body
    assert _id_in(call.method, body) in ("", call.id)


def delete_all(sidecar: Sidecar, world: World) -> None:
    for volume_id in world.published:
        sidecar.unpublish(volume_id, NODE).expect()
    for snapshot_id in world.snapshots:
        sidecar.delete_snapshot(snapshot_id).expect()
    for volume_id in world.volumes:
        sidecar.delete(volume_id).expect()


@pytest.fixture
def dice():
    """Choices that ``CINDER_CSI_POWER_SEED`` repeats."""
    seed = os.environ.get("CINDER_CSI_POWER_SEED") or str(random.SystemRandom().getrandbits(32))
    print(f"CINDER_CSI_POWER_SEED={seed}")
    return random.Random(seed)


@pytest.mark.timeout(900)
def test_after_a_loss_of_power_at_any_moment_nothing_leaks_or_is_made_twice(run, dice, capsys):
    """The controller alone is started, in this process: a start of the whole takes seconds."""
    began = time.monotonic()
    moments = run.recording.moments()
    for moment in moments:
        print(moment)
        with tempfile.TemporaryDirectory(prefix="power-") as name:
            left = restore(run, moment, dice, Path(name))
            options = {"volume_driver": FILE_DRIVER, "file_volume_directory": left / "volumes"}
            with ControllerBench(Path(name), store="db", options=options, name="file") as bench:
                bench.service.start()
                with Sidecar(str(bench.socket)) as sidecar:
                    finish(run, moment, sidecar, left)
    with capsys.disabled():
        print(f"\npower loss: {len(moments)} moments, {time.monotonic() - began:.0f} s")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("moments", [3, pytest.param(None, marks=pytest.mark.full)])
def test_the_whole_process_starts_after_a_loss_of_power(run, moments, dice):
    every = run.recording.moments()
    for moment in dice.sample(every, moments or len(every)):
        print(moment)
        with tempfile.TemporaryDirectory(prefix="power-") as name:
            left = restore(run, moment, dice, Path(name))
            with DriverProcess(Path(name), node_id=NODE) as process:
                with Sidecar(str(process.socket)) as sidecar:
                    finish(run, moment, sidecar, left)
                process.kill()
