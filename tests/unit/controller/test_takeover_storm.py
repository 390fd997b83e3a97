"""Controllers that replace each other at random, while driver calls of the earlier still run.

Every seed makes calls of all kinds, lets driver calls fail before or after their effect, or
holds one of them, has the next controller take over, and lets the held call have its effect
later, within the time for which it is reckoned with.  At each step what is recorded as usable
is so on the backend; in the end nothing is pending, and of what is deleted nothing is left.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from csi_driver.base.errors import CinderCSIError
from csi_driver.base.values import GIB
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    OrphanRecord,
    Phase,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.kube.errors import NotLeading
from tests.doubles.faults import Gate, VendorError
from tests.support.controller_bench import WAIT, Code
from tests.support.messages import block, from_snapshot, from_volume
from tests.support.takeover_bench import ATTACH_GRACE, GRACE, Clock, Cluster

SHARED = block("MULTI_NODE_MULTI_WRITER")
STEPS = 50
SEEDS = 60

DRIVER_CALLS = {
    "create": ("create_volume",),
    "clone": ("create_cloned_volume",),
    "restore": ("create_volume_from_snapshot",),
    "delete": ("delete_volume",),
    "snapshot": ("create_snapshot",),
    "delete_snapshot": ("delete_snapshot",),
    "expand": ("extend_volume",),
    "revert": ("revert_to_snapshot",),
    "publish": ("create_export", "initialize_connection"),
    "unpublish": ("terminate_connection", "remove_export"),
}
WEIGHTS = dict.fromkeys(DRIVER_CALLS, 3) | {"create": 5, "delete": 1, "delete_snapshot": 1}
WEIGHTS |= {"publish": 12, "unpublish": 6, "revert": 5, "look": 5, "wait": 4}
UNDO = ("delete_volume", "delete_snapshot", "terminate_connection")


@dataclass(frozen=True)
class Late:
    """A driver call that is held; it has its effect before ``until``."""

    name: str
    gate: Gate
    answer: Future[object]
    until: float


class Storm:
    """The calls, and what is true after each."""

    def __init__(self, seed: int, cluster: Cluster, deposed: set[int]) -> None:
        self.random = random.Random(seed)
        self.cluster = cluster
        self.driver = cluster.managers[0].driver
        self._deposed = deposed
        """Threads of controllers that were replaced: they may make no further driver call."""
        self._late: list[Late] = []
        self._callers = ThreadPoolExecutor(16)
        self._owners = 1
        self._held = ""
        """The volume of the last call that was held: most is done with it, while it may spoil."""

    def step(self) -> None:
        (name,) = self.random.choices(list(WEIGHTS), list(WEIGHTS.values()))
        if name == "look":
            self.cluster.look()
        elif name == "wait":
            self._advance(self.random.choice((1, 5, 30, 70, 300, 1000)))
        else:
            call = self._call(name)
            self._make(*(("create", self._create()) if call is None else (name, call)))
        if self._late and self.random.random() < 0.15:
            self._finish(self.random.choice(self._late))

    def end(self) -> None:
        """Let every late call end, repair, and delete everything."""
        for late in list(self._late):
            self._finish(late)
        self._callers.shutdown()
        for _ in range(12):
            self.cluster.clock.now += 1000
            self.cluster.look()
            self.check()
        for connection in self._records(ConnectionRecord):
            self.cluster.unpublish(connection.volume_id, connection.node_id)
        for snapshot in self._records(SnapshotRecord):
            self.cluster.delete_snapshot(snapshot.id)
        for volume in self._records(VolumeRecord):
            self.cluster.delete(volume.id)

    def check(self) -> None:
        """What is recorded as usable is so on the backend."""
        volumes = {volume.id: volume for volume in self._records(VolumeRecord)}
        for connection in self._records(ConnectionRecord):
            if connection.phase is Phase.ATTACHED:
                cinder_id = volumes[connection.volume_id].cinder_id
                assert (cinder_id, connection.node_id) in self.driver.connected
                assert cinder_id in self.driver.exported
        there = self.driver.shelf.names()
        for volume in volumes.values():
            if volume.phase is Phase.AVAILABLE:
                (size,) = (size for name, size in there.items() if volume.cinder_id in name)
                assert size >= volume.size_gib * GIB

    # -- calls ------------------------------------------------------------------

    def _call(self, name: str) -> Callable[[], object] | None:
        """A call of this kind on something; None where there is nothing."""
        choice = self.random.choice
        if name == "create":
            return self._create()
        kind: Any = {"unpublish": ConnectionRecord}.get(name, VolumeRecord)
        if name in ("restore", "revert", "delete_snapshot"):
            kind = SnapshotRecord
        found = self._records(kind)
        if not found:
            return None
        same = [each for each in found if volume_of(each) == self._held]
        on = choice(same if same and self.random.random() < 0.7 else found)
        if not self._late:
            self._held = volume_of(on)
        return self._call_on(name, on)

    def _create(self) -> Callable[[], object]:
        of = self.random.choice("abc")
        return lambda: self.cluster.create(of, volume_capabilities=[SHARED])

    def _call_on(self, name: str, on: Any) -> Callable[[], object]:
        cluster, choice = self.cluster, self.random.choice
        if name in ("clone", "restore"):
            source = from_volume(on.id) if name == "clone" else from_snapshot(on.id)
            options = {"volume_content_source": source, "volume_capabilities": [SHARED]}
            of = f"{name} {choice('ab')}"
            return lambda: cluster.create(of, 4, **options)
        node, gib, cut = choice(("n1", "n2")), choice((2, 3, 4)), choice("abcd")
        return {
            "delete": lambda: cluster.delete(on.id),
            "snapshot": lambda: cluster.snapshot(on.id, cut),
            "delete_snapshot": lambda: cluster.delete_snapshot(on.id),
            "expand": lambda: cluster.expand(on.id, gib * GIB),
            "revert": lambda: cluster.service.reverts.revert(on.volume_id, on.id).result(WAIT),
            "publish": lambda: cluster.publish(on.id, node, volume_capability=SHARED),
            "unpublish": lambda: cluster.unpublish(on.volume_id, on.node_id),
        }[name]

    def _make(self, name: str, call: Callable[[], object]) -> None:
        operation = self.random.choice(DRIVER_CALLS[name])
        when = self.random.choice(("before", "after"))
        fate = self.random.choice(("well", "well", "fails", "is lost", "is late", "is late"))
        if fate == "is late" and len(self._late) < 6:
            self._replace_controller_in(name, call, operation, when)
            return
        if fate in ("fails", "is lost"):
            self.cluster.faults().fail(operation, VendorError("no"), when)
        if fate == "is lost":
            self._fail_undo()
        answered(call)
        self.cluster.faults().forget()

    def _replace_controller_in(
        self, name: str, call: Callable[[], object], operation: str, when: Any
    ) -> None:
        gate = self.cluster.faults().hold_next(operation, when)
        answer = self._callers.submit(answered, call)
        answer.add_done_callback(lambda done: gate.entered.set())
        gate.wait_until_entered()
        self.cluster.faults().forget()
        if answer.done():
            return  # refused before
        grace = ATTACH_GRACE if name in ("publish", "unpublish") else GRACE
        until = self.cluster.clock.now + grace
        self._late.append(Late(name, gate, answer, until))
        self._deposed.update(late.gate.thread for late in self._late)
        if self.random.random() < 0.3:
            self._fail_undo()
        self.cluster.take_over(f"controller {self._owners}")
        self._owners += 1
        self.cluster.faults().forget()

    def _fail_undo(self) -> None:
        for operation in UNDO:
            self.cluster.faults().fail(operation, VendorError("not now"))

    def _advance(self, seconds: float) -> None:
        target = self.cluster.clock.now + seconds
        for late in sorted(self._late, key=lambda each: each.until):
            if late.until <= target:
                self.cluster.clock.now = max(self.cluster.clock.now, late.until - 1)
                self._finish(late)
        self.cluster.clock.now = target

    def _finish(self, late: Late) -> None:
        late.gate.release()
        late.answer.result(WAIT)
        self._late.remove(late)
        self._deposed.discard(late.gate.thread)

    def _records(self, kind: Any) -> list[Any]:
        return list(self.cluster.store.list(kind))


def volume_of(record: Any) -> str:
    return str(getattr(record, "volume_id", record.id))


def answered(call: Callable[[], object]) -> None:
    """Make a call; an error is an answer, but for one that nobody foresaw."""
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() is not Code.UNKNOWN, error.details()
    except CinderCSIError:
        pass


def as_an_array(driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it delete nothing that is exported, and export nothing that is not there."""
    delete, export, connect = (
        driver.delete_volume,
        driver.create_export,
        driver.initialize_connection,
    )

    def is_there(volume: Any) -> bool:
        return any(volume.id in name for name in driver.shelf.names())

    def delete_volume(volume: Any) -> None:
        if volume.id in driver.exported or any(volume.id == each for each, _ in driver.connected):
            raise VendorError("it is exported")
        delete(volume)

    def create_export(context: Any, volume: Any, connector: Any) -> Any:
        update = export(context, volume, connector)
        if not is_there(volume):
            driver.exported.discard(volume.id)
            raise VendorError("it is gone")
        return update

    def initialize_connection(volume: Any, connector: Any) -> Any:
        info = connect(volume, connector)
        if not is_there(volume):
            driver.connected.remove((volume.id, connector["host"]))
            raise VendorError("it is gone")
        return info

    monkeypatch.setattr(driver, "delete_volume", delete_volume)
    monkeypatch.setattr(driver, "create_export", create_export)
    monkeypatch.setattr(driver, "initialize_connection", initialize_connection)


@contextmanager
def a_cluster(directory: Path, deposed: set[int]) -> Iterator[Cluster]:
    def permit() -> None:
        if threading.get_ident() in deposed:
            raise NotLeading("Another controller leads")

    cluster = Cluster(directory, permit=permit)
    cluster.clock = Clock()
    with cluster:
        cluster.register("n1", "n2")
        cluster.take_over("controller 0")
        yield cluster


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_is_lost_doubled_or_cut(seed: int, tmp_path: Path, monkeypatch):
    deposed: set[int] = set()
    with a_cluster(tmp_path, deposed) as cluster:
        driver = cluster.managers[0].driver
        as_an_array(driver, monkeypatch)
        storm = Storm(seed, cluster, deposed)
        for _ in range(STEPS):
            storm.step()
            storm.check()
        storm.end()
        for kind in (VolumeRecord, SnapshotRecord, ConnectionRecord, OrphanRecord):
            assert cluster.store.list(kind) == []
        assert cluster.expected() == []
        assert (cluster.on_backend(), driver.connected, driver.exported) == (set(), [], set())
