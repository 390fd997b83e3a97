"""The controller against a model: any order of calls, repeated, doubled and conflicting.

The model is what CSI promises: a dictionary of volumes by name, and who has them.  After
every step the lists tell what the model holds, and the backend holds nothing else.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from csi_driver.base.values import GIB
from csi_driver.rpc._generated import csi_pb2 as pb
from tests.doubles.faults import VendorError
from tests.support.controller_bench import (
    WAIT,
    Code,
    ControllerBench,
    Refused,
)
from tests.support.messages import block, from_snapshot

NODES = ("n1", "n2")
NAMES = ("a", "b", "c")


@dataclass
class Volume:
    """What the model knows of a volume."""

    id: str
    gib: int
    sealed: dict[str, dict[str, str]] = field(default_factory=dict)
    snapshots: dict[str, str] = field(default_factory=dict)


class Controller(RuleBasedStateMachine):
    """One controller on a memory store; every rule is one or two calls."""

    def __init__(self) -> None:
        super().__init__()
        self._directory = tempfile.TemporaryDirectory()
        self.bench = ControllerBench(Path(self._directory.name))
        self.bench.__enter__()
        self.bench.register(*NODES)
        self.volumes: dict[str, Volume] = {}
        self.gone: set[str] = set()

    def teardown(self) -> None:
        self.bench.__exit__(None, None, None)
        self._directory.cleanup()

    def some(self, data: st.DataObject) -> tuple[str, Volume]:
        name = data.draw(st.sampled_from(sorted(self.volumes)))
        return name, self.volumes[name]

    # -- volumes ----------------------------------------------------------------

    def request(self, name: str, gib: int):
        return self.bench.create_request(name, gib, volume_capabilities=[block()])

    @rule(name=st.sampled_from(NAMES), gib=st.integers(1, 3), twice=st.booleans())
    def create(self, name: str, gib: int, twice: bool) -> None:
        known = self.volumes.get(name)
        if known is not None and known.gib < gib:
            with Refused(Code.ALREADY_EXISTS):
                self.bench.create(name, gib, volume_capabilities=[block()])
            return
        calls = [
            self.bench.stub.CreateVolume.future(self.request(name, gib), timeout=WAIT)
            for _ in range(2 if twice else 1)
        ]
        answers = [call.result().volume for call in calls]
        assert all(answer == answers[0] for answer in answers)
        if known is None:
            assert answers[0].volume_id not in self.gone
            self.volumes[name] = Volume(answers[0].volume_id, gib)
        assert answers[0].volume_id == self.volumes[name].id
        assert answers[0].capacity_bytes == self.volumes[name].gib * GIB

    @rule(name=st.sampled_from(NAMES), undo_fails=st.booleans())
    def create_fails(self, name: str, undo_fails: bool) -> None:
        if name in self.volumes:
            return
        self.bench.faults().fail("create_volume", VendorError("no"), "after")
        if undo_fails:
            self.bench.faults().fail("delete_volume", VendorError("no"))
        with Refused(Code.ABORTED if undo_fails else Code.INTERNAL):
            self.bench.create(name, 1, volume_capabilities=[block()])
        if undo_fails:
            # As a provisioner does after a code that is not final.
            answer = self.bench.create(name, 1, volume_capabilities=[block()])
            self.volumes[name] = Volume(answer.volume_id, 1)

    @precondition(lambda self: self.volumes)
    @rule(data=st.data(), twice=st.booleans())
    def delete(self, data: st.DataObject, twice: bool) -> None:
        name, volume = self.some(data)
        if volume.sealed or volume.snapshots:
            with Refused(Code.FAILED_PRECONDITION):
                self.bench.delete(volume.id)
            return
        request = pb.DeleteVolumeRequest(volume_id=volume.id)
        calls = [
            self.bench.stub.DeleteVolume.future(request, timeout=WAIT)
            for _ in range(2 if twice else 1)
        ]
        for call in calls:
            call.result()
        self.gone.add(volume.id)
        del self.volumes[name]

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def delete_again(self, data: st.DataObject) -> None:
        self.bench.delete(data.draw(st.sampled_from(sorted(self.gone))))

    @precondition(lambda self: self.volumes)
    @rule(data=st.data(), gib=st.integers(1, 5))
    def expand(self, data: st.DataObject, gib: int) -> None:
        _, volume = self.some(data)
        volume.gib = max(volume.gib, gib)
        assert self.bench.expand(volume.id, gib * GIB) == volume.gib * GIB

    # -- nodes ------------------------------------------------------------------

    @precondition(lambda self: self.volumes)
    @rule(data=st.data(), node=st.sampled_from(NODES))
    def publish(self, data: st.DataObject, node: str) -> None:
        _, volume = self.some(data)
        if set(volume.sealed) - {node}:
            with Refused(Code.FAILED_PRECONDITION):
                self.bench.publish(volume.id, node, volume_capability=block())
            return
        sealed = self.bench.publish(volume.id, node, volume_capability=block())
        assert volume.sealed.setdefault(node, sealed) == sealed

    @precondition(lambda self: self.volumes)
    @rule(data=st.data(), node=st.sampled_from((*NODES, "")))
    def unpublish(self, data: st.DataObject, node: str) -> None:
        _, volume = self.some(data)
        self.bench.unpublish(volume.id, node)
        for each in NODES if node == "" else (node,):
            volume.sealed.pop(each, None)

    # -- snapshots --------------------------------------------------------------

    @precondition(lambda self: self.volumes)
    @rule(data=st.data(), name=st.sampled_from(("s", "t")))
    def snapshot(self, data: st.DataObject, name: str) -> None:
        _, volume = self.some(data)
        owner = next((v for v in self.volumes.values() if name in v.snapshots), None)
        if owner not in (None, volume):
            with Refused(Code.ALREADY_EXISTS):
                self.bench.snapshot(volume.id, name)
            return
        cut = self.bench.snapshot(volume.id, name)
        assert volume.snapshots.setdefault(name, cut.snapshot_id) == cut.snapshot_id

    @precondition(lambda self: any(v.snapshots for v in self.volumes.values()))
    @rule(data=st.data())
    def delete_snapshot(self, data: st.DataObject) -> None:
        owners = [v for v in self.volumes.values() if v.snapshots]
        volume = data.draw(st.sampled_from(owners))
        name = data.draw(st.sampled_from(sorted(volume.snapshots)))
        self.bench.delete_snapshot(volume.snapshots.pop(name))

    @precondition(lambda self: any(v.snapshots for v in self.volumes.values()))
    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def restore(self, data: st.DataObject, name: str) -> None:
        volume = data.draw(st.sampled_from([v for v in self.volumes.values() if v.snapshots]))
        cut = data.draw(st.sampled_from(sorted(volume.snapshots.values())))
        wish = {
            "gib": 9,
            "volume_capabilities": [block()],
            "volume_content_source": from_snapshot(cut),
        }
        if name in self.volumes:
            with Refused(Code.ALREADY_EXISTS):
                self.bench.create(name, **wish)
        else:
            self.volumes[name] = Volume(self.bench.create(name, **wish).volume_id, 9)
            # Its name now means "from this snapshot": another wish must not meet it.
            self.unpublish_and_delete(name)

    def unpublish_and_delete(self, name: str) -> None:
        volume = self.volumes.pop(name)
        self.bench.delete(volume.id)
        self.gone.add(volume.id)

    # -- crashes ----------------------------------------------------------------

    @rule()
    def restart(self) -> None:
        self.bench.restart()

    # -- what is always true ----------------------------------------------------

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
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
