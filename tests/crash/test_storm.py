"""A random storm: eight clients at once, a process that is killed again and again, no leak.

Every client makes calls as a sidecar does: the same call until a final answer, whatever becomes
of the process meanwhile.  Names are few, so that they are used again and again, and some volumes
are cloned by clients that do not own them.  In the end there must be exactly what was answered,
and after everything was deleted nothing at all.

``CINDER_CSI_STORM_SEED`` repeats the choices of a run that failed.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import state
from tests.support.driver_process import DriverProcess
from tests.support.sidecar import Code, Sidecar

CLIENTS = 8
NODE = "node-1"
LARGEST_GIB = 3
PATIENCE_SECONDS = 120.0


class Tries:
    """Counts the tries of all clients; the storm kills the process after so many."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.count = 0

    def one_more(self) -> None:
        with self._changed:
            self.count += 1
            self._changed.notify_all()

    def wait_for_more(self, number: int) -> None:
        with self._changed:
            goal = self.count + number
            assert self._changed.wait_for(lambda: self.count >= goal, PATIENCE_SECONDS)


@dataclass
class Volume:
    """A volume as its client knows it: by what was answered."""

    id: str
    gib: int
    snapshots: dict[str, str] = field(default_factory=dict)


class StormClient:
    """One client, its objects, and its random choices.

    :param shop: volumes of all clients that anybody may clone, by name.
    """

    no_clone: tuple[Code, ...] = (Code.NOT_FOUND,)
    """Codes for a volume that cannot be cloned: its owner may have deleted it meanwhile."""

    def __init__(self, number: int, seed: str, path: Path, tries: Tries, shop: dict[str, str]):
        self._random = random.Random(f"{seed}/{number}")
        self._sidecar = Sidecar(str(path), tries.one_more)
        self._shop = shop
        self._number = number
        self.volumes: dict[str, Volume] = {}
        self.operations = 0

    def run(self, stop: threading.Event) -> None:
        """Make one operation after the other until told to stop."""
        while not stop.is_set():
            self._random.choice(self._possible())()
            self.operations += 1

    def delete_all(self) -> None:
        """Delete everything that this client owns."""
        for name, volume in list(self.volumes.items()):
            for cut in list(volume.snapshots):
                self._delete_snapshot(volume, cut)
            self._delete(name)
        self._sidecar.close()

    # -- choices ------------------------------------------------------------------

    def _possible(self) -> list[Callable[[], None]]:
        possible: list[Callable[[], None]] = []
        free = [name for name in self._names() if name not in self.volumes]
        if free:
            name = self._random.choice(free)
            possible += [lambda: self._create(name), lambda: self._clone(name)]
        if not self.volumes:
            return possible
        owned = self._random.choice(sorted(self.volumes))
        volume = self.volumes[owned]
        possible += [lambda: self._expand(volume), lambda: self._attach(volume)]
        if len(volume.snapshots) < 2:
            possible.append(lambda: self._snapshot(owned, volume))
        if volume.snapshots:
            cut = self._random.choice(sorted(volume.snapshots))
            possible.append(lambda: self._delete_snapshot(volume, cut))
            if free:
                possible.append(lambda: self._restore(name, volume, cut))
        else:
            possible += [lambda: self._delete(owned)] * 2
        return possible

    def _names(self) -> list[str]:
        return [f"client{self._number}-volume{index}" for index in range(3)]

    # -- operations ---------------------------------------------------------------

    def _create(self, name: str) -> None:
        body = self._sidecar.create(name, 1).expect().body
        self._own(name, body.volume)

    def _clone(self, name: str) -> None:
        offered = sorted(self._shop.items())
        if not offered:
            return
        _, source = self._random.choice(offered)
        answer = self._sidecar.clone(name, LARGEST_GIB, source).expect(*self.no_clone)
        if answer.code is Code.OK:
            self._own(name, answer.body.volume)

    def _restore(self, name: str, volume: Volume, cut: str) -> None:
        answer = self._sidecar.restore(name, LARGEST_GIB, volume.snapshots[cut])
        self._own(name, answer.expect().body.volume)

    def _own(self, name: str, made) -> None:
        self.volumes[name] = Volume(made.volume_id, made.capacity_bytes >> 30)
        self._shop[name] = made.volume_id

    def _expand(self, volume: Volume) -> None:
        if volume.gib < LARGEST_GIB:
            body = self._sidecar.expand(volume.id, volume.gib + 1).expect().body
            volume.gib = body.capacity_bytes >> 30

    def _attach(self, volume: Volume) -> None:
        self._sidecar.publish(volume.id, NODE).expect()
        self._sidecar.unpublish(volume.id, NODE).expect()

    def _snapshot(self, owned: str, volume: Volume) -> None:
        cut = next(f"{owned}-cut{i}" for i in range(2) if f"{owned}-cut{i}" not in volume.snapshots)
        body = self._sidecar.snapshot(cut, volume.id).expect().body
        volume.snapshots[cut] = body.snapshot.snapshot_id

    def _delete_snapshot(self, volume: Volume, cut: str) -> None:
        self._sidecar.delete_snapshot(volume.snapshots[cut]).expect()
        del volume.snapshots[cut]

    def _delete(self, name: str) -> None:
        self._shop.pop(name, None)
        self._sidecar.delete(self.volumes[name].id).expect()
        del self.volumes[name]


@contextmanager
def clients_at_work(clients: list[StormClient]) -> Iterator[list[Future[None]]]:
    """The clients, each on a thread; at the end they finish what they do and stop."""
    stop = threading.Event()
    with ThreadPoolExecutor(len(clients)) as pool:
        working = [pool.submit(client.run, stop) for client in clients]
        try:
            yield working
        finally:
            stop.set()
    for client in working:
        client.result()


def storm(
    process: DriverProcess, clients: list[StormClient], tries: Tries, rounds: int, dice
) -> None:
    """Kill the process ``rounds`` times at random moments while the clients go on."""
    moment = threading.Event()
    with clients_at_work(clients) as working:
        for _ in range(rounds):
            tries.wait_for_more(dice.randint(0, 150))
            moment.wait(dice.uniform(0, 0.02))  # within an operation, not at its beginning
            process.kill()
            process.start()
            failed = [client for client in working if client.done()]
            assert not failed, failed[0].exception()
        tries.wait_for_more(100)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", [3, pytest.param(20, marks=pytest.mark.full)])
def test_a_storm_leaves_what_was_answered_and_nothing_else(rounds, tmp_path, capsys):
    seed = os.environ.get("CINDER_CSI_STORM_SEED") or str(random.SystemRandom().getrandbits(32))
    print(f"CINDER_CSI_STORM_SEED={seed}")
    tries, shop = Tries(), {}
    began = time.monotonic()
    with DriverProcess(tmp_path, node_id=NODE) as process:
        clients = [StormClient(n, seed, process.socket, tries, shop) for n in range(CLIENTS)]
        storm(process, clients, tries, rounds, random.Random(seed))
        state.wait_until_nothing_is_pending(process.state_directory)
        owned = [volume for client in clients for volume in client.volumes.values()]
        with Sidecar(str(process.socket)) as look:
            assert look.volumes() == {volume.id: volume.gib for volume in owned}
            assert look.snapshots() == {
                cut: volume.id for volume in owned for cut in volume.snapshots.values()
            }
        directory = process.state_directory
        assert state.backend_files(directory) == state.expected_files(directory)
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(StormClient.delete_all, clients))
        assert state.objects(directory) == []
        assert state.backend_files(directory) == set()
        assert state.lock_files(directory) == set()
    with capsys.disabled():
        operations = sum(client.operations for client in clients)
        seconds = time.monotonic() - began
        print(f"\nstorm: {operations} operations, {rounds} kills, {seconds:.0f} s, seed {seed}")
