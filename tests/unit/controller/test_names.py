"""Names that are used again, with and without tombstones: no id ever comes twice."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from csi_driver.base.errors import OperationInProgress
from csi_driver.cinderlib.persistence.memory import MemoryStore
from csi_driver.cinderlib.persistence.records import Phase, TombstoneRecord, VolumeRecord
from csi_driver.controller import names
from csi_driver.controller.pruning import KEEP_SECONDS
from tests.support.controller_bench import Code, Refused

NAMES = ["a", "b", "c"]
FOREVER = float("inf")


def volume(volume_id: str, name: str, incarnation: int) -> VolumeRecord:
    return VolumeRecord(
        id=volume_id,
        name=name,
        incarnation=incarnation,
        backend="file",
        phase=Phase.AVAILABLE,
        size_gib=1,
        cinder_id=f"cinder-{volume_id}",
        created_at=0.0,
    )


@pytest.fixture
def store():
    store = MemoryStore()
    yield store
    store.close()


def make(store, name: str) -> VolumeRecord:
    return store.put(volume(*_with_name(store, name)))


def _with_name(store, name: str) -> tuple[str, str, int]:
    volume_id, incarnation = names.identify(store, "volume", name)
    return volume_id, name, incarnation


def delete(store, record: VolumeRecord, now: float = 0.0) -> None:
    names.bury(store, record, now)


# -- the rules, on a bare store ---------------------------------------------------


def test_a_name_without_tombstone_never_gets_an_id_again(store):
    first = make(store, "a")
    delete(store, first)
    assert names.prune(store, FOREVER) == 1
    assert store.list(TombstoneRecord) == []
    assert make(store, "a").id != first.id


def test_a_living_object_keeps_its_id_when_the_floor_rises(store):
    living = make(store, "a")
    for _ in range(3):
        delete(store, make(store, "b"))
    names.prune(store, FOREVER)
    assert names.identify(store, "volume", "a") == (living.id, 1)
    assert names.identify(store, "volume", "c")[1] == 4


def test_only_tombstones_of_before_the_moment_go(store):
    for moment, name in enumerate(NAMES):
        delete(store, make(store, name), float(moment))
    assert names.prune(store, 1.0) == 1
    assert sorted(left.deleted_at for left in store.list(TombstoneRecord)) == [1.0, 2.0]


def test_an_object_of_the_library_lends_its_id_to_no_name(store):
    store.put(volume("of-the-library", "a", 1))
    assert names.identify(store, "volume", "a")[0] != "of-the-library"


def test_many_tombstones_go_page_by_page(store, monkeypatch):
    monkeypatch.setattr(names, "PAGE", 2)
    for number in range(5):
        delete(store, make(store, f"name-{number}"), float(number % 2))
    assert names.prune(store, 1.0) == 3
    assert len(store.list(TombstoneRecord)) == 2


def test_volumes_and_snapshots_of_one_name_are_apart(store):
    delete(store, make(store, "a"))
    assert names.identify(store, "snapshot", "a")[1] == 1


class Lives(RuleBasedStateMachine):
    """Objects come and go and tombstones are pruned, in any order; ids are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.living: dict[str, VolumeRecord] = {}
        self.used: set[str] = set()

    @rule(name=st.sampled_from(NAMES))
    def create(self, name: str) -> None:
        if name in self.living:
            return
        record = make(self.store, name)
        assert record.id not in self.used
        self.used.add(record.id)
        self.living[name] = record

    @precondition(lambda self: self.living)
    @rule(data=st.data(), now=st.floats(0, 10))
    def delete(self, data: st.DataObject, now: float) -> None:
        name = data.draw(st.sampled_from(sorted(self.living)))
        delete(self.store, self.living.pop(name), now)

    @rule(before=st.floats(0, 11))
    def prune(self, before: float) -> None:
        names.prune(self.store, before)

    @invariant()
    def every_living_object_is_found_by_its_name(self) -> None:
        for name, record in self.living.items():
            assert names.identify(self.store, "volume", name)[0] == record.id


TestLives = Lives.TestCase
TestLives.settings = hypothesis.settings(max_examples=60, stateful_step_count=30)


# -- a whole controller -----------------------------------------------------------


def test_the_loop_removes_what_is_a_day_old(bench):
    bench.delete(bench.create("old").volume_id)
    (tombstone,) = bench.store.list(TombstoneRecord)
    later = tombstone.deleted_at + KEEP_SECONDS
    assert names.prune(bench.store, later - KEEP_SECONDS) == 0
    assert bench.service.pruning.round() == 0
    assert names.prune(bench.store, later + 1 - KEEP_SECONDS) == 1


def test_a_late_delete_touches_nothing_after_its_tombstone_is_gone(bench):
    first = bench.create("data")
    bench.delete(first.volume_id)
    names.prune(bench.store, FOREVER)
    second = bench.create("data")
    bench.delete(first.volume_id)
    assert bench.record(second.volume_id).phase is Phase.AVAILABLE
    assert len(bench.on_backend()) == 1


def test_a_volume_is_the_same_after_the_tombstones_of_others_are_gone(bench):
    kept = bench.create("kept")
    for _ in range(2):
        bench.delete(bench.create("other").volume_id)
    names.prune(bench.store, FOREVER)
    assert bench.create("kept") == kept


def test_of_two_calls_that_saw_different_ids_of_one_name_one_makes_the_volume(bench):
    """The floor rises after the first has planned, and before it has recorded anything."""
    bench.delete(bench.create("other").volume_id)
    early = volume(*_with_name(bench.store, "data"))
    names.prune(bench.store, FOREVER)
    late = volume(*_with_name(bench.store, "data"))
    assert late.id != early.id
    with pytest.raises(OperationInProgress, match="meanwhile"):
        bench.context.begin(early, "create")
    assert bench.context.begin(late, "create").id == late.id
    assert [record.id for record in bench.store.list(VolumeRecord)] == [late.id]


def test_a_call_that_was_overtaken_is_asked_to_retry(bench):
    """An id that was planned on before the name was used and deleted is not recorded any more."""
    overtaken = volume(*_with_name(bench.store, "data"))
    bench.delete(bench.create("data").volume_id)
    with pytest.raises(OperationInProgress, match="meanwhile"):
        bench.context.begin(overtaken, "create")
    assert bench.store.get(VolumeRecord, overtaken.id) is None


def test_what_was_deleted_stays_unknown_after_its_tombstone_is_gone(bench):
    volume_id = bench.create("data").volume_id
    bench.delete(volume_id)
    names.prune(bench.store, FOREVER)
    with Refused(Code.NOT_FOUND):
        bench.publish(volume_id)
