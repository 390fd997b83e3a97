"""The controller against a model: calls in any order, repeated, at once, given up, and broken.

The model is what CSI promises: a dictionary of volumes by name, and who has them.  After
every step the lists tell what the model holds, and the backend holds nothing else.

Calls are made as sidecars make them: again, while the answer is not final.  So a store that
fails at any write of the table of operations, with or without a restart of the controller
after it, changes nothing of what the model says.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from csi_driver.base import faults
from csi_driver.base.values import GIB
from csi_driver.controller.operations import WRITE, fault_points
from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc.errors import NON_FINAL
from tests.doubles.faults import VendorError
from tests.support.controller_bench import WAIT, Code, ControllerBench
from tests.support.messages import block, from_snapshot, mount

NODES = ("n1", "n2")
NAMES = ("a", "b", "c")
WRITES = [str(point) for point in fault_points() if point.moment == WRITE]
TRIES = 1000
"""Non-final answers to one call after which it is stuck."""


@dataclass
class Volume:
    """What the model knows of a volume."""

    id: str
    gib: int
    sealed: dict[str, dict[str, str]] = field(default_factory=dict)
    snapshots: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """A call, and the driver's method that it leads to."""

    method: str
    request: Any
    driver: str = ""


def create(name: str, gib: int, capability: Any = None, source: Any = None) -> Call:
    request = pb.CreateVolumeRequest(
        name=name,
        capacity_range=pb.CapacityRange(required_bytes=gib * GIB),
        volume_capabilities=[capability or block()],
        volume_content_source=source,
    )
    return Call("CreateVolume", request, "create_volume")


def delete(volume_id: str) -> Call:
    return Call("DeleteVolume", pb.DeleteVolumeRequest(volume_id=volume_id), "delete_volume")


def expand(volume_id: str, gib: int) -> Call:
    request = pb.ControllerExpandVolumeRequest(
        volume_id=volume_id, capacity_range=pb.CapacityRange(required_bytes=gib * GIB)
    )
    return Call("ControllerExpandVolume", request, "extend_volume")


def publish(volume_id: str, node: str) -> Call:
    request = pb.ControllerPublishVolumeRequest(
        volume_id=volume_id, node_id=node, volume_capability=block()
    )
    return Call("ControllerPublishVolume", request, "initialize_connection")


def unpublish(volume_id: str, node: str) -> Call:
    request = pb.ControllerUnpublishVolumeRequest(volume_id=volume_id, node_id=node)
    return Call("ControllerUnpublishVolume", request, "terminate_connection")


def snapshot(volume_id: str, name: str) -> Call:
    request = pb.CreateSnapshotRequest(source_volume_id=volume_id, name=name)
    return Call("CreateSnapshot", request, "create_snapshot")


def delete_snapshot(snapshot_id: str) -> Call:
    request = pb.DeleteSnapshotRequest(snapshot_id=snapshot_id)
    return Call("DeleteSnapshot", request, "delete_snapshot")


class Controller(RuleBasedStateMachine):
    """One controller on a memory store."""

    def __init__(self) -> None:
        super().__init__()
        self._directory = tempfile.TemporaryDirectory()
        self.bench = ControllerBench(Path(self._directory.name))
        self.bench.__enter__()
        self.bench.register(*NODES)
        self.volumes: dict[str, Volume] = {}
        self.gone: set[str] = set()
        self.restart_after_failure = False

    def teardown(self) -> None:
        faults._faults = None
        self.bench.__exit__(None, None, None)
        self._directory.cleanup()

    # -- calls as sidecars make them ----------------------------------------------

    def begin(self, call: Call) -> grpc.Future:
        future: grpc.Future = getattr(self.bench.stub, call.method).future(
            call.request, timeout=WAIT
        )
        return future

    def answers(self, *calls: Call) -> list[Any]:
        """The final answers, or final codes, of calls that are made at once.

        Those whose answer is not final are made again, together.
        """
        found: dict[int, Any] = {}
        for _ in range(TRIES):
            futures = {n: self.begin(call) for n, call in enumerate(calls) if n not in found}
            errors = {n: future.exception() for n, future in futures.items()}
            for n, error in errors.items():
                if error is None:
                    found[n] = futures[n].result()
                elif error.code() not in NON_FINAL:
                    found[n] = error.code()
            if len(found) == len(calls):
                return [found[n] for n in range(len(calls))]
            unavailable = any(e and e.code() is Code.UNAVAILABLE for e in errors.values())
            if unavailable and self.restart_after_failure:
                self.bench.restart()
        raise AssertionError([str(error and error.details()) for error in errors.values()])

    def answer(self, call: Call, *, twice: bool = False) -> Any:
        """The final answer or code; of two equal calls at once both get the same."""
        answers = self.answers(*([call] * (2 if twice else 1)))
        assert all(answer == answers[0] for answer in answers)
        return answers[0]

    def some(self, data: st.DataObject) -> tuple[str, Volume]:
        name = data.draw(st.sampled_from(sorted(self.volumes)))
        return name, self.volumes[name]

    # -- what breaks ----------------------------------------------------------------

    @rule(point=st.sampled_from(WRITES), restart=st.booleans())
    def the_store_will_fail(self, point: str, restart: bool) -> None:
        """At its next write of this step, whichever call comes by."""
        faults._faults = faults.Faults({"CINDER_CSI_TEST_FAULT": f"{point}=fail"})
        self.restart_after_failure = restart

    @rule()
    def restart(self) -> None:
        self.bench.restart()

    # -- volumes --------------------------------------------------------------------

    @rule(name=st.sampled_from(NAMES), gib=st.integers(1, 3), twice=st.booleans())
    def create(self, name: str, gib: int, twice: bool) -> None:
        known = self.volumes.get(name)
        answer = self.answer(create(name, gib), twice=twice)
        if known is not None and known.gib < gib:
            assert answer is Code.ALREADY_EXISTS
            return
        if known is None:
            assert answer.volume.volume_id not in self.gone
            known = self.volumes[name] = Volume(answer.volume.volume_id, gib)
        assert answer.volume.volume_id == known.id
        assert answer.volume.capacity_bytes == known.gib * GIB

    @rule(name=st.sampled_from(NAMES), undo_fails=st.booleans())
    def create_fails(self, name: str, undo_fails: bool) -> None:
        if name in self.volumes:
            return
        faults._faults = None
        self.bench.faults().fail("create_volume", VendorError("no"), "after")
        if undo_fails:
            self.bench.faults().fail("delete_volume", VendorError("no"))
        answer = self.answer(create(name, 1))
        if not undo_fails:
            assert answer is Code.INTERNAL
        else:
            # ABORTED came first, and a provisioner repeats the call after that.
            self.volumes[name] = Volume(answer.volume.volume_id, 1)

    @precondition(lambda self: self.volumes)
    @rule(data=st.data())
    def create_with_a_name_that_is_taken_by_something_else(self, data: st.DataObject) -> None:
        name, volume = self.some(data)
        answer = self.answer(create(name, volume.gib, capability=mount()))
        assert answer is Code.ALREADY_EXISTS

    @rule(name=st.sampled_from(NAMES))
    def create_two_sizes_at_once(self, name: str) -> None:
        """The first to come decides; the smaller wish is content with the larger volume."""
        if name in self.volumes:
            return
        small, large = self.answers(create(name, 1), create(name, 3))
        if large is Code.ALREADY_EXISTS:
            assert small.volume.capacity_bytes == GIB
        else:
            assert small == large
            assert large.volume.capacity_bytes == 3 * GIB
        self.remove(Volume(small.volume.volume_id, 0))

    @precondition(lambda self: self.volumes)
    @rule(data=st.data(), twice=st.booleans())
    def delete(self, data: st.DataObject, twice: bool) -> None:
        name, volume = self.some(data)
        answer = self.answer(delete(volume.id), twice=twice)
        if volume.sealed or volume.snapshots:
            assert answer is Code.FAILED_PRECONDITION
            return
        assert answer == pb.DeleteVolumeResponse()
        self.gone.add(volume.id)
        del self.volumes[name]

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def calls_that_come_late(self, data: st.DataObject) -> None:
        """Their volume is deleted, and another one may have its name."""
        late = data.draw(st.sampled_from(sorted(self.gone)))
        assert self.answer(delete(late)) == pb.DeleteVolumeResponse()
        assert self.answer(unpublish(late, "n1")) == pb.ControllerUnpublishVolumeResponse()
        for call in (publish(late, "n1"), expand(late, 9), snapshot(late, "late")):
            assert self.answer(call) is Code.NOT_FOUND

    @precondition(lambda self: self.volumes)
    @rule(data=st.data(), gib=st.integers(1, 5), twice=st.booleans())
    def expand(self, data: st.DataObject, gib: int, twice: bool) -> None:
        _, volume = self.some(data)
        volume.gib = max(volume.gib, gib)
        answer = self.answer(expand(volume.id, gib), twice=twice)
        assert answer.capacity_bytes == volume.gib * GIB

    # -- nodes ----------------------------------------------------------------------

    @precondition(lambda self: self.volumes)
    @rule(data=st.data(), node=st.sampled_from(NODES), twice=st.booleans())
    def publish(self, data: st.DataObject, node: str, twice: bool) -> None:
        _, volume = self.some(data)
        answer = self.answer(publish(volume.id, node), twice=twice)
        if set(volume.sealed) - {node}:
            assert answer is Code.FAILED_PRECONDITION
            return
        sealed = dict(answer.publish_context)
        assert volume.sealed.setdefault(node, sealed) == sealed

    @precondition(lambda self: self.volumes)
    @rule(data=st.data(), node=st.sampled_from((*NODES, "")), twice=st.booleans())
    def unpublish(self, data: st.DataObject, node: str, twice: bool) -> None:
        _, volume = self.some(data)
        answer = self.answer(unpublish(volume.id, node), twice=twice)
        assert answer == pb.ControllerUnpublishVolumeResponse()
        for each in NODES if node == "" else (node,):
            volume.sealed.pop(each, None)

    # -- snapshots ------------------------------------------------------------------

    @precondition(lambda self: self.volumes)
    @rule(data=st.data(), name=st.sampled_from(("s", "t")), twice=st.booleans())
    def snapshot(self, data: st.DataObject, name: str, twice: bool) -> None:
        _, volume = self.some(data)
        owner = next((v for v in self.volumes.values() if name in v.snapshots), None)
        answer = self.answer(snapshot(volume.id, name), twice=twice)
        if owner not in (None, volume):
            assert answer is Code.ALREADY_EXISTS
            return
        made = answer.snapshot.snapshot_id
        assert volume.snapshots.setdefault(name, made) == made

    @precondition(lambda self: any(v.snapshots for v in self.volumes.values()))
    @rule(data=st.data(), twice=st.booleans())
    def delete_snapshot(self, data: st.DataObject, twice: bool) -> None:
        owners = [v for v in self.volumes.values() if v.snapshots]
        volume = data.draw(st.sampled_from(owners))
        name = data.draw(st.sampled_from(sorted(volume.snapshots)))
        call = delete_snapshot(volume.snapshots.pop(name))
        assert self.answer(call, twice=twice) == pb.DeleteSnapshotResponse()

    @precondition(lambda self: any(v.snapshots for v in self.volumes.values()))
    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def restore(self, data: st.DataObject, name: str) -> None:
        volume = data.draw(st.sampled_from([v for v in self.volumes.values() if v.snapshots]))
        cut = data.draw(st.sampled_from(sorted(volume.snapshots.values())))
        answer = self.answer(create(name, 9, source=from_snapshot(cut)))
        if name in self.volumes:
            assert answer is Code.ALREADY_EXISTS
        else:
            # Its name now means "from this snapshot": another wish must not meet it.
            self.remove(Volume(answer.volume.volume_id, 9))

    def remove(self, volume: Volume) -> None:
        """Take everything of a volume away."""
        self.answer(unpublish(volume.id, ""))
        for cut in volume.snapshots.values():
            self.answer(delete_snapshot(cut))
        assert self.answer(delete(volume.id)) == pb.DeleteVolumeResponse()
        self.gone.add(volume.id)

    # -- callers that give up, and calls that cross -----------------------------------

    @precondition(lambda self: self.volumes)
    @rule(
        data=st.data(),
        what=st.sampled_from(("expand", "publish", "unpublish", "delete")),
        when=st.sampled_from(("before", "after")),
    )
    def the_caller_gives_up(self, data: st.DataObject, what: str, when: Any) -> None:
        """Its deadline passes while the driver works; other calls wait; the retry gets it."""
        faults._faults = None
        name, volume = self.some(data)
        call, change = self.possible(what, name, volume)
        if call is None:
            return
        gate = self.bench.faults().hold(call.driver, when)
        given_up = self.begin(call)
        gate.wait_until_entered()
        given_up.cancel()
        other = expand(volume.id, 6) if what != "expand" else delete(volume.id)
        assert self.begin(other).code() is Code.ABORTED
        retry = self.begin(call)
        self.bench.faults().let_go(call.driver, when)
        change(retry.result())

    def possible(
        self, what: str, name: str, volume: Volume
    ) -> tuple[Call | None, Callable[[Any], None]]:
        """A call that leads to the driver now, and what its answer changes in the model."""

        def grown(answer: Any) -> None:
            volume.gib += 1
            assert answer.capacity_bytes == volume.gib * GIB

        def published(answer: Any) -> None:
            volume.sealed["n1"] = dict(answer.publish_context)

        def unpublished(answer: Any) -> None:
            volume.sealed.clear()

        def deleted(answer: Any) -> None:
            self.gone.add(volume.id)
            del self.volumes[name]

        if what == "expand":
            return expand(volume.id, volume.gib + 1), grown
        if what == "publish" and not volume.sealed:
            return publish(volume.id, "n1"), published
        if what == "unpublish" and volume.sealed:
            return unpublish(volume.id, next(iter(volume.sealed))), unpublished
        if what == "delete" and not volume.sealed and not volume.snapshots:
            return delete(volume.id), deleted
        return None, deleted

    @rule(
        name=st.sampled_from(NAMES),
        kinds=st.permutations(("expand", "publish", "snapshot", "delete")),
    )
    def calls_cross(self, name: str, kinds: list[str]) -> None:
        """All at once on a new volume: what is answered must fit together, in some order."""
        if name in self.volumes:
            return
        volume = Volume(self.answer(create(name, 1)).volume.volume_id, 1)
        calls = {
            "expand": expand(volume.id, 2),
            "publish": publish(volume.id, "n1"),
            "snapshot": snapshot(volume.id, "crossing"),
            "delete": delete(volume.id),
        }
        answers = dict(zip(kinds, self.answers(*(calls[kind] for kind in kinds)), strict=True))
        refused = {kind for kind, answer in answers.items() if isinstance(answer, Code)}
        if "delete" in refused:
            assert answers["delete"] is Code.FAILED_PRECONDITION
            assert refused == {"delete"}
            volume.snapshots["crossing"] = answers["snapshot"].snapshot.snapshot_id
        else:
            # It came before whatever keeps a volume from being deleted.
            assert {"publish", "snapshot"} <= refused <= {"publish", "snapshot", "expand"}
            assert {answers[kind] for kind in refused} == {Code.NOT_FOUND}
        self.remove(volume)

    # -- what is always true ----------------------------------------------------------

    @invariant()
    def the_list_is_the_model(self) -> None:
        told = {
            entry.volume.volume_id: (
                entry.volume.capacity_bytes,
                set(entry.status.published_node_ids),
            )
            for entry in self.bench.volumes()
        }
        assert told == {
            volume.id: (volume.gib * GIB, set(volume.sealed)) for volume in self.volumes.values()
        }

    @invariant()
    def nothing_leaks_on_the_backend(self) -> None:
        snapshots = sum(len(volume.snapshots) for volume in self.volumes.values())
        assert len(self.bench.on_backend()) == len(self.volumes) + snapshots
        published = sum(len(volume.sealed) for volume in self.volumes.values())
        assert len(self.bench.managers[0].driver.connected) == published


TestController = Controller.TestCase
TestController.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
