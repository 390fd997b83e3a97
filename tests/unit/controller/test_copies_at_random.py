"""Volumes are used, copied, reverted and torn from nodes at random: no data is ever formatted.

A model knows where somebody's data is.  Nodes decide by the rules of the real ones, and as in a
cluster a node's word counts only while it has the volume.  A node that lost the volume goes on
with it: its storage is not always cut off.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from csi_driver.base import publish_context
from csi_driver.base.values import Confirmation, Formatting, FormattingState, PublishContext
from csi_driver.cinderlib.persistence.records import ConnectionRecord, SnapshotRecord, VolumeRecord
from csi_driver.cli.shared_directory import SharedDirectory
from csi_driver.controller import ids
from csi_driver.node import rules
from tests.support.controller_bench import DRIVER_NAME, Code, ControllerBench
from tests.support.messages import from_snapshot, from_volume

NEVER = FormattingState.NEVER
NODES = ("n1", "n2")
STEPS = 60
MOST_VOLUMES = 6


class CountingWords(SharedDirectory):
    """A ledger whose words count, for the controller, while the volume is published."""

    def __init__(self, directory: Path, bench: ControllerBench) -> None:
        super().__init__(directory)
        self._bench = bench
        self._speakers: dict[str, str] = {}

    def confirm_as(self, node: str, confirmation: Confirmation) -> None:
        self._speakers[confirmation.volume_id] = node
        self.confirm(confirmation)

    def word(self, volume_id: str) -> Confirmation | None:
        """What a node reads."""
        return super().confirmation(volume_id)

    def confirmation(self, volume_id: str) -> Confirmation | None:
        connection = ids.connection_id(volume_id, self._speakers.get(volume_id, ""))
        counts = self._bench.store.get(ConnectionRecord, connection) is not None
        return self.word(volume_id) if counts else None


class World:
    """The controller, the nodes, and what is on the volumes."""

    def __init__(self, bench: ControllerBench, words: CountingWords, seed: int) -> None:
        self.random = random.Random(seed)
        self.bench = bench
        self.words = words
        self.data: set[str] = set()
        """Cinder ids of what holds somebody's data."""
        self.contexts: dict[tuple[str, str], PublishContext] = {}
        self.staging: dict[tuple[str, str], Confirmation | None] = {}
        self.staged: set[tuple[str, str]] = set()
        self.made = 0
        self.retries = 0
        manager = bench.managers[0]
        for name in ("create_volume", "create_snapshot"):
            setattr(manager, name, self._disturbed(getattr(manager, name)))

    def _disturbed(self, call: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """The driver call, with use of the source before and after the cut."""

        def disturbed(copy: Any, source: Any) -> Any:
            if source is None:
                return call(copy, source)
            volume_id = source.id if isinstance(source, VolumeRecord) else source.volume_id
            self.use(volume_id)
            made = call(copy, source)
            if source.cinder_id in self.data:
                self.data.add(copy.cinder_id)
            self.use(volume_id)
            return made

        return disturbed

    def volumes(self) -> list[VolumeRecord]:
        return self.bench.store.list(VolumeRecord)

    def step(self) -> None:
        volumes = self.volumes()
        if not volumes:
            self._make(self.bench.create)
            return
        fresh = [each for each in volumes if each.formatting.state is NEVER]
        volume = self.random.choice(fresh if fresh and self.random.random() < 0.8 else volumes)
        snapshots = self.bench.store.list(SnapshotRecord)
        copies = [self._snapshot, self._revert]
        if len(volumes) < MOST_VOLUMES:
            copies += [self._clone, self._restore]
        if len(snapshots) > MOST_VOLUMES:
            copies = [self._revert]
        if self.random.random() < 0.5:
            self.use(volume.id)
        else:
            self.random.choice(copies)(volume)

    # -- copies -------------------------------------------------------------------

    def _make(self, call: Callable[[str], object]) -> None:
        self.made += 1
        for _ in range(4):
            try:
                call(f"made-{self.made}")
            except grpc.RpcError as error:
                if error.code() is not Code.ABORTED:
                    raise
                self.retries += 1
            else:
                return
        raise AssertionError("It ends in no other way than ABORTED")

    def _clone(self, volume: VolumeRecord) -> None:
        source = from_volume(volume.id)
        self._make(lambda name: self.bench.create(name, volume_content_source=source))

    def _snapshot(self, volume: VolumeRecord) -> None:
        self._make(lambda name: self.bench.snapshot(volume.id, name))

    def _restore(self, volume: VolumeRecord) -> None:
        for each in self.bench.store.list(SnapshotRecord, where={"volume_id": volume.id}):
            source = from_snapshot(each.id)
            self._make(lambda name: self.bench.create(name, volume_content_source=source))  # noqa: B023
            return

    def _revert(self, volume: VolumeRecord) -> None:
        cuts = self.bench.store.list(SnapshotRecord, where={"volume_id": volume.id})
        known = {*self.staging, *self.staged}
        if not cuts or self.bench.context.connections(volume.id) or volume.id in dict(known):
            return
        cut = max(cuts, key=lambda each: each.created_at)
        self.bench.service.reverts.revert(volume.id, cut.id).result()
        self.data.discard(volume.cinder_id)
        if cut.cinder_id in self.data:
            self.data.add(volume.cinder_id)
        for node in NODES:
            self.contexts.pop((volume.id, node), None)

    # -- nodes --------------------------------------------------------------------

    def use(self, volume_id: str) -> None:
        """What a node does with a volume, or the controller with its attachment."""
        node = self.random.choice(NODES)
        doings = {
            self._publish: 2,
            self._stage: 3,
            self._confirm: 3,
            self._write: 3,
            self._unpublish: 1,
            self._unstage: 1,
        }
        for _ in range(self.random.randrange(1, 9)):
            (do,) = self.random.choices(list(doings), list(doings.values()))
            do(volume_id, node)

    def _publish(self, volume_id: str, node: str) -> None:
        if not self.bench.context.connections(volume_id):
            sealed = self.bench.publish(volume_id, node)
            self.contexts[volume_id, node] = publish_context.open_context(
                sealed, self.bench.keys, DRIVER_NAME, volume_id, node
            )

    def _unpublish(self, volume_id: str, node: str) -> None:
        """Also by force: the node may be in the midst of a stage, or its Pods write."""
        self.bench.unpublish(volume_id, node)

    def _stage(self, volume_id: str, node: str) -> None:
        at = volume_id, node
        if at not in self.contexts or at in self.staging or at in self.staged:
            return
        earlier = self.words.word(volume_id)
        granted = rules.formatting_of(self.contexts[at], earlier)
        cinder_id = self.bench.record(volume_id).cinder_id
        assert granted.state is not NEVER or cinder_id not in self.data, "data may be formatted"
        self.staging[at] = earlier

    def _confirm(self, volume_id: str, node: str) -> None:
        at = volume_id, node
        if at not in self.staging:
            return
        earlier, context = self.staging.pop(at), self.contexts[at]
        uuid = rules.formatting_of(context, earlier).fs_uuid
        proved = Formatting(state=FormattingState.FORMATTED, fs_type="xfs", fs_uuid=uuid)
        said = rules.new_confirmation(context, proved, "", earlier)
        if said is not None:
            self.words.confirm_as(node, said)
        self.staged.add(at)

    def _write(self, volume_id: str, node: str) -> None:
        if (volume_id, node) in self.staged:
            self.data.add(self.bench.record(volume_id).cinder_id)

    def _unstage(self, volume_id: str, node: str) -> None:
        self.staging.pop((volume_id, node), None)
        self.staged.discard((volume_id, node))

    # -- what must be ----------------------------------------------------------------

    def check(self) -> None:
        """No record allows a filesystem where data is, unless the ledger forbids it."""
        copies: list[VolumeRecord | SnapshotRecord] = [*self.volumes()]
        copies += self.bench.store.list(SnapshotRecord)
        for each in copies:
            allowed = each.formatting.state is NEVER and self.words.word(each.id) is None
            assert not allowed or each.cinder_id not in self.data, each
        assert len(self.bench.on_backend()) == len(copies)


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    with ControllerBench(tmp_path) as bench:
        bench.register(*NODES)
        words = CountingWords(tmp_path / "state", bench)
        bench.nodes = words
        bench.restart()
        yield World(bench, words, request.param)


@pytest.mark.parametrize("world", range(25), indirect=True)
def test_no_data_is_ever_formatted(world: World):
    for _ in range(STEPS):
        world.step()
        world.check()
