"""DeleteVolume and expansion: nothing in use goes, what is gone stays gone, nothing shrinks."""

from __future__ import annotations

import functools

import pytest

from csi_driver.base.values import GIB, Confirmation, Formatting, FormattingState
from csi_driver.cinderlib.persistence.records import Phase, TombstoneRecord, VolumeRecord
from csi_driver.cinderlib.persistence.store import RecordStore, StoreUnavailable
from tests.doubles.faults import VendorError
from tests.support.controller_bench import (
    Code,
    Refused,
)
from tests.support.messages import from_volume


def test_a_deleted_volume_is_gone_everywhere(bench):
    volume = bench.create()
    bench.nodes.confirm(Confirmation(volume_id=volume.volume_id, formatting=Formatting()))
    bench.delete(volume.volume_id)
    assert bench.on_backend() == set()
    assert bench.store.list(VolumeRecord) == []
    assert bench.nodes.confirmation(volume.volume_id) is None


@pytest.mark.parametrize(
    "volume_id", ["00000000-0000-0000-0000-000000000000", "nonsense", "ü" * 99]
)
def test_what_is_not_there_is_deleted_already(bench, volume_id):
    bench.delete(volume_id)


def test_a_delete_may_be_repeated(bench):
    volume = bench.create()
    bench.delete(volume.volume_id)
    bench.delete(volume.volume_id)
    assert bench.faults().operations().count("delete_volume") == 1


def test_a_volume_with_snapshots_is_kept_and_they_are_named(bench):
    volume = bench.create()
    cut = bench.snapshot(volume.volume_id, "monday")
    with Refused(Code.FAILED_PRECONDITION, f"monday ({cut.snapshot_id})"):
        bench.delete(volume.volume_id)
    assert bench.record(volume.volume_id).phase is Phase.AVAILABLE
    assert "delete_volume" not in bench.faults().operations()
    bench.delete_snapshot(cut.snapshot_id)
    bench.delete(volume.volume_id)


def test_a_published_volume_is_kept_and_its_nodes_are_named(bench):
    volume = bench.create()
    bench.publish(volume.volume_id, "n1")
    with Refused(Code.FAILED_PRECONDITION, "published to n1"):
        bench.delete(volume.volume_id)
    bench.unpublish(volume.volume_id, "n1")
    bench.delete(volume.volume_id)


def test_a_source_stays_while_a_copy_is_made_of_it(bench):
    source = bench.create("source")
    gate = bench.hold("create_cloned_volume")
    request = bench.create_request("copy", volume_content_source=from_volume(source.volume_id))
    copy = bench.stub.CreateVolume.future(request)
    gate.wait_until_entered()
    with Refused(Code.ABORTED, "is needed by another call: CreateVolume"):
        bench.delete(source.volume_id)
    gate.release()
    assert copy.result().volume.volume_id
    bench.delete(source.volume_id)


# -- names that are used again --------------------------------------------------


def test_a_name_that_is_used_again_is_another_volume(bench):
    first = bench.create("data")
    bench.delete(first.volume_id)
    second = bench.create("data", gib=3)
    assert second.volume_id != first.volume_id
    assert bench.record(second.volume_id).incarnation == 2


def test_a_late_delete_of_the_first_touches_nothing_of_the_second(bench):
    first = bench.create("data")
    bench.delete(first.volume_id)
    second = bench.create("data")
    before = bench.on_backend()
    bench.delete(first.volume_id)
    assert bench.on_backend() == before
    assert bench.record(second.volume_id).phase is Phase.AVAILABLE


def test_every_use_of_a_name_counts_and_leaves_one_tombstone(bench):
    ids = []
    for _ in range(3):
        volume = bench.create("data")
        ids.append(volume.volume_id)
        bench.delete(volume.volume_id)
    assert len(set(ids)) == 3
    (tombstone,) = bench.store.list(TombstoneRecord)
    assert tombstone.incarnation == 3


def test_a_deletion_that_stops_between_tombstone_and_removal_is_finished(bench, monkeypatch):
    """As in a store that cannot make both as one change."""

    def fail(_record):
        raise StoreUnavailable("no")

    volume = bench.create("data")
    one_after_the_other = functools.partial(RecordStore.replace, bench.store)
    monkeypatch.setattr(bench.store, "replace", one_after_the_other)
    with monkeypatch.context() as failing:
        failing.setattr(bench.store, "delete", fail)
        with Refused(Code.UNAVAILABLE):
            bench.delete(volume.volume_id)
    assert bench.record(volume.volume_id).phase is Phase.DELETING
    assert len(bench.store.list(TombstoneRecord)) == 1
    bench.delete(volume.volume_id)
    assert bench.store.list(VolumeRecord) == []
    assert len(bench.store.list(TombstoneRecord)) == 1
    assert bench.record(bench.create("data").volume_id).incarnation == 2


def test_a_failed_creation_uses_no_name_up(bench):
    bench.faults().fail("create_volume", VendorError("no"))
    with Refused(Code.INTERNAL):
        bench.create("data")
    assert bench.record(bench.create("data").volume_id).incarnation == 1


# -- failures -------------------------------------------------------------------


def test_a_refusal_of_the_driver_leaves_the_volume_as_it_was(bench):
    volume = bench.create()
    bench.faults().fail("delete_volume", NotImplementedError("cannot"))
    with Refused(Code.INVALID_ARGUMENT, "cannot"):
        bench.delete(volume.volume_id)
    assert bench.record(volume.volume_id).phase is Phase.AVAILABLE
    assert bench.record(volume.volume_id).operation is None
    bench.delete(volume.volume_id)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_deletion_whose_outcome_is_unknown_is_only_ever_finished(bench, when):
    volume = bench.create()
    bench.faults().fail("delete_volume", VendorError("lost the session"), when)
    with Refused(Code.INTERNAL, "lost the session"):
        bench.delete(volume.volume_id)
    assert bench.record(volume.volume_id).phase is Phase.DELETING
    with Refused(Code.ABORTED, "is being deleted"):
        bench.create()
    with Refused(Code.ABORTED, "being deleted"):
        bench.publish(volume.volume_id)
    bench.delete(volume.volume_id)
    assert bench.on_backend() == set()
    assert bench.create().volume_id != volume.volume_id


# -- expansion ------------------------------------------------------------------


def test_a_volume_grows_to_the_next_gib(bench):
    volume = bench.create()
    assert bench.expand(volume.volume_id, 3 * GIB // 2) == 2 * GIB
    assert bench.record(volume.volume_id).size_gib == 2
    assert set(bench.managers[0].driver.shelf.names().values()) == {2 * GIB}


def test_a_volume_that_is_large_enough_is_left_alone(bench):
    volume = bench.create(gib=3)
    assert bench.expand(volume.volume_id, 2 * GIB) == 3 * GIB
    assert bench.expand(volume.volume_id, 3 * GIB, 3 * GIB) == 3 * GIB
    assert "extend_volume" not in bench.faults().operations()


@pytest.mark.parametrize(
    ("required", "limit"),
    [(GIB, 2 * GIB), (5 * GIB + 1, 6 * GIB - 1), (6 * GIB, 5 * GIB), (1001 * GIB, 0)],
)
def test_a_size_that_cannot_be_is_out_of_range(bench, required, limit):
    volume = bench.create(gib=3)
    with Refused(Code.OUT_OF_RANGE):
        bench.expand(volume.volume_id, required, limit)
    assert bench.record(volume.volume_id).size_gib == 3


def test_an_unknown_volume_cannot_grow(bench):
    with Refused(Code.NOT_FOUND):
        bench.expand("00000000-0000-0000-0000-000000000000", GIB)


def test_a_published_volume_grows(bench):
    volume = bench.create()
    bench.publish(volume.volume_id)
    assert bench.expand(volume.volume_id, 2 * GIB) == 2 * GIB


def test_a_growth_whose_outcome_is_unknown_is_repeated(bench):
    volume = bench.create()
    bench.faults().fail("extend_volume", VendorError("lost the session"), "after")
    with Refused(Code.ABORTED, "lost the session"):
        bench.expand(volume.volume_id, 2 * GIB)
    assert bench.record(volume.volume_id).size_gib == 1
    assert bench.expand(volume.volume_id, 2 * GIB) == 2 * GIB
    assert bench.record(volume.volume_id).operation is None


def test_a_growth_that_the_driver_refuses_changes_nothing(bench):
    volume = bench.create()
    bench.faults().fail("extend_volume", NotImplementedError("never grows"))
    with Refused(Code.INVALID_ARGUMENT, "never grows"):
        bench.expand(volume.volume_id, 2 * GIB)
    assert bench.record(volume.volume_id).operation is None


def test_what_a_node_confirmed_survives_a_growth(bench):
    volume = bench.create()
    bench.publish(volume.volume_id)
    formatted = Formatting(state=FormattingState.FORMATTED, fs_type="ext4", fs_uuid="u")
    bench.nodes.confirm(Confirmation(volume_id=volume.volume_id, formatting=formatted))
    bench.unpublish(volume.volume_id)
    bench.publish(volume.volume_id)
    bench.expand(volume.volume_id, 2 * GIB)
    assert bench.record(volume.volume_id).formatting == formatted
