"""Snapshots, restores, clones and deletions in any order: at the end the pool is empty."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

import csi_driver.cinderlib as cinderlib
from tests.lab.ceph.pool import Pool

LENGTH = 8

Made = cinderlib.Volume | cinderlib.Snapshot


@dataclass
class Kept:
    """A volume or snapshot, and the bytes that it has to hold."""

    made: Any
    data: bytes


class Sequences(RuleBasedStateMachine):
    """What a program may do with the volumes of one backend, in any order."""

    backend: cinderlib.Backend
    pool: Pool
    clones_hold_snapshots: bool
    """Clone v1: a snapshot cannot be deleted as long as a copy of it has snapshots."""

    volumes: Bundle[Any] = Bundle("volumes")
    snapshots: Bundle[Any] = Bundle("snapshots")

    def __init__(self) -> None:
        super().__init__()
        self.alive: list[Kept] = []
        self.writes = 0

    def keep(self, made: Any, data: bytes) -> Kept:
        kept = Kept(made, data)
        self.alive.append(kept)
        return kept

    def holds(self, kept: Kept) -> bool:
        return self.pool.read(kept.made.name_in_storage, LENGTH) == kept.data

    @precondition(lambda self: len(self.alive) < 8)
    @rule(target=volumes)
    def create(self) -> Kept:
        return self.keep(self.backend.create_volume(1), bytes(LENGTH))

    @rule(volume=volumes)
    def write(self, volume: Kept) -> None:
        self.writes += 1
        volume.data = self.writes.to_bytes(LENGTH, "big")
        self.pool.write(volume.made.name_in_storage, volume.data)

    @rule(target=snapshots, volume=volumes)
    def snapshot(self, volume: Kept) -> Kept:
        return self.keep(volume.made.create_snapshot(), volume.data)

    @rule(target=volumes, snapshot=snapshots, larger=st.booleans())
    def restore(self, snapshot: Kept, larger: bool) -> Kept:
        size = snapshot.made.volume_size + larger
        return self.keep(snapshot.made.create_volume(size=size), snapshot.data)

    @rule(target=volumes, volume=volumes, larger=st.booleans())
    def clone(self, volume: Kept, larger: bool) -> Kept:
        volume.made.refresh()
        return self.keep(volume.made.clone(size=volume.made.size + larger), volume.data)

    @rule(volume=volumes)
    def extend(self, volume: Kept) -> None:
        volume.made.refresh()
        volume.made.extend(volume.made.size + 1)

    @rule(snapshot=snapshots)
    def revert(self, snapshot: Kept) -> None:
        if self.refused(snapshot.made.revert):
            return
        (volume,) = (v for v in self.alive if v.made.id == snapshot.made.volume_id)
        volume.data = snapshot.data

    @rule(target=volumes, volume=consumes(volumes))
    def delete(self, volume: Kept) -> Any:
        return self.deleted_or_kept(volume)

    @rule(target=snapshots, snapshot=consumes(snapshots))
    def delete_snapshot(self, snapshot: Kept) -> Any:
        return self.deleted_or_kept(snapshot)

    def deleted_or_kept(self, kept: Kept) -> Any:
        if self.refused(kept.made.delete):
            return kept
        self.alive.remove(kept)
        return multiple()

    def refused(self, call: Callable[[], None]) -> bool:
        """Whether the library, or the cluster with clones of old, says that this cannot be now."""
        from cinder.exception import SnapshotIsBusy

        try:
            call()
        except cinderlib.InvalidVolume:
            return True
        except SnapshotIsBusy:
            assert self.clones_hold_snapshots
            return True
        return False

    def teardown(self) -> None:
        for kept in self.alive:
            if isinstance(kept.made, cinderlib.Volume):
                assert self.holds(kept)
        # Youngest last, as is worst for clones, and again what others depended on.
        while self.alive:
            before = len(self.alive)
            for kept in list(self.alive):
                self.deleted_or_kept(kept)
            assert len(self.alive) < before
        assert self.pool.left() == set()


@pytest.mark.parametrize("depth", [5, 1])
def test_the_pool_is_empty_after_any_sequence(
    make: Callable[..., cinderlib.Backend], pool: Pool, clone_format: str, depth: int
) -> None:
    class Bound(Sequences):
        backend = make(clone_format, rbd_max_clone_depth=depth)
        clones_hold_snapshots = clone_format == "1"

    Bound.pool = pool
    run_state_machine_as_test(
        Bound,
        settings=settings(
            max_examples=12,
            stateful_step_count=20,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
