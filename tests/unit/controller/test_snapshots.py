"""Snapshots and copies: one name is one cut, and a copy knows what its source held."""

from __future__ import annotations

import pytest

from csi_driver.base.values import GIB, Confirmation, Formatting, FormattingState
from csi_driver.cinderlib.persistence.records import Phase, SnapshotRecord, VolumeRecord
from csi_driver.rpc._generated import csi_pb2 as pb
from tests.doubles.faults import VendorError
from tests.support.controller_bench import (
    WAIT,
    Code,
    ControllerBench,
    Refused,
)
from tests.support.messages import block, from_snapshot, from_volume

FORMATTED = Formatting(state=FormattingState.FORMATTED, fs_type="xfs", fs_uuid="the-uuid")


@pytest.fixture
def volume_id(bench) -> str:
    return bench.create("source", gib=2).volume_id


def confirm(bench: ControllerBench, volume_id: str) -> None:
    bench.nodes.confirm(Confirmation(volume_id=volume_id, formatting=FORMATTED))


def test_a_snapshot_is_cut_recorded_and_told(bench, volume_id):
    cut = bench.snapshot(volume_id, "monday")
    assert cut.source_volume_id == volume_id
    assert cut.size_bytes == 2 * GIB
    assert cut.ready_to_use
    record = bench.store.get(SnapshotRecord, cut.snapshot_id)
    assert (record.phase, record.operation) == (Phase.AVAILABLE, None)
    assert cut.creation_time.ToNanoseconds() == int(record.created_at * 1e9)
    assert record.provider["provider_location"]


def test_the_same_call_again_answers_the_same_cut(bench, volume_id):
    assert bench.snapshot(volume_id, "monday") == bench.snapshot(volume_id, "monday")
    assert bench.faults().operations().count("create_snapshot") == 1


def test_a_name_that_is_a_snapshot_of_another_volume_already_exists(bench, volume_id):
    other = bench.create("other").volume_id
    bench.snapshot(volume_id, "monday")
    with Refused(Code.ALREADY_EXISTS, volume_id):
        bench.snapshot(other, "monday")


def test_a_volume_that_does_not_exist_has_no_snapshots(bench):
    with Refused(Code.NOT_FOUND):
        bench.snapshot("00000000-0000-0000-0000-000000000000")


def test_an_unknown_parameter_is_refused(bench, volume_id):
    with Refused(Code.INVALID_ARGUMENT, "Unknown parameter 'colour'"):
        bench.snapshot(volume_id, parameters={"colour": "blue"})


def test_the_names_in_kubernetes_reach_the_description(bench, volume_id):
    names = {
        "csi.storage.k8s.io/volumesnapshot/name": "monday",
        "csi.storage.k8s.io/volumesnapshot/namespace": "shop",
    }
    cut = bench.snapshot(volume_id, parameters=names)
    record = bench.store.get(SnapshotRecord, cut.snapshot_id)
    assert record.description == "VolumeSnapshot shop/monday"


def test_snapshots_of_one_volume_are_cut_side_by_side(bench, volume_id):
    gate = bench.hold("create_snapshot")
    calls = [
        bench.stub.CreateSnapshot.future(request(volume_id, name), timeout=WAIT)
        for name in ("monday", "tuesday")
    ]
    gate.wait_until_entered()
    gate.release()
    assert len({call.result().snapshot.snapshot_id for call in calls}) == 2


def request(volume_id: str, name: str):
    return pb.CreateSnapshotRequest(source_volume_id=volume_id, name=name)


def test_a_deleted_snapshot_is_gone_and_may_be_deleted_again(bench, volume_id):
    before = bench.on_backend()
    cut = bench.snapshot(volume_id)
    for _ in range(2):
        bench.delete_snapshot(cut.snapshot_id)
    assert bench.on_backend() == before
    assert bench.faults().operations().count("delete_snapshot") == 1
    bench.delete_snapshot("nonsense")


def test_a_late_delete_of_the_first_snapshot_of_a_name_touches_nothing_of_the_second(
    bench, volume_id
):
    first = bench.snapshot(volume_id, "monday")
    bench.delete_snapshot(first.snapshot_id)
    second = bench.snapshot(volume_id, "monday")
    bench.delete_snapshot(first.snapshot_id)
    assert second.snapshot_id != first.snapshot_id
    assert bench.store.get(SnapshotRecord, second.snapshot_id) is not None


def test_a_failed_cut_is_undone_and_then_final(bench, volume_id):
    before = bench.on_backend()
    bench.faults().fail("create_snapshot", VendorError("lost the session"), "after")
    with Refused(Code.INTERNAL, "lost the session"):
        bench.snapshot(volume_id)
    assert bench.on_backend() == before
    assert bench.store.list(SnapshotRecord) == []


def test_a_cut_that_could_not_be_undone_is_removed_by_the_retry(bench, volume_id):
    bench.faults().fail("create_snapshot", VendorError("lost the session"), "after")
    bench.faults().fail("delete_snapshot", VendorError("still"))
    with Refused(Code.ABORTED, "lost the session"):
        bench.snapshot(volume_id)
    with Refused(Code.FAILED_PRECONDITION, "has snapshots"):
        bench.delete(volume_id)
    bench.snapshot(volume_id)
    assert len(bench.on_backend()) == 2


def test_a_deletion_whose_outcome_is_unknown_is_only_ever_finished(bench, volume_id):
    cut = bench.snapshot(volume_id)
    bench.faults().fail("delete_snapshot", VendorError("lost the session"), "after")
    with Refused(Code.INTERNAL):
        bench.delete_snapshot(cut.snapshot_id)
    with Refused(Code.ABORTED, "is being deleted"):
        bench.snapshot(volume_id)
    with Refused(Code.ABORTED, "being deleted"):
        bench.create("copy", gib=2, volume_content_source=from_snapshot(cut.snapshot_id))
    bench.delete_snapshot(cut.snapshot_id)
    assert bench.store.list(SnapshotRecord) == []


# -- volumes from snapshots and volumes -----------------------------------------


@pytest.fixture(params=["snapshot", "volume"])
def copy(request, bench, volume_id):
    """Makes a volume from the source, by way of a snapshot or directly."""

    def make(name: str = "copy", gib: float = 2, **fields):
        if request.param == "volume":
            source = from_volume(volume_id)
        else:
            source = from_snapshot(bench.snapshot(volume_id, f"for-{name}").snapshot_id)
        return bench.create(name, gib=gib, volume_content_source=source, **fields)

    return make


def test_a_copy_names_its_source_and_may_be_larger(bench, copy):
    made = copy(gib=3)
    assert made.capacity_bytes == 3 * GIB
    assert made.content_source.WhichOneof("type") is not None
    assert copy(gib=3) == made


def test_a_copy_without_a_size_is_as_large_as_its_source(bench, volume_id):
    request = bench.create_request("copy", volume_content_source=from_volume(volume_id))
    request.ClearField("capacity_range")
    assert bench.stub.CreateVolume(request, timeout=WAIT).volume.capacity_bytes == 2 * GIB


def test_a_copy_cannot_be_smaller_than_its_source(bench, copy):
    with Refused(Code.OUT_OF_RANGE, "less than the source's"):
        copy(gib=1)


@pytest.mark.parametrize("source", [from_snapshot("nothing"), from_volume("nothing")])
def test_a_source_that_does_not_exist_is_not_found(bench, source):
    with Refused(Code.NOT_FOUND, "'nothing' does not exist"):
        bench.create(volume_content_source=source)


def test_a_copy_stays_on_the_backend_of_its_source(bench, copy):
    with Refused(Code.INVALID_ARGUMENT, "the class asks for 'elsewhere'"):
        copy(parameters={"backend": "elsewhere"})


def test_a_restored_volume_has_what_was_there_at_the_cut(bench, volume_id):
    cut = bench.snapshot(volume_id)
    confirm(bench, volume_id)
    restored = bench.create("copy", gib=2, volume_content_source=from_snapshot(cut.snapshot_id))
    assert bench.record(restored.volume_id).formatting.state is FormattingState.NEVER


def test_a_failed_copy_leaves_only_its_source(bench, copy, volume_id):
    bench.faults().fail("create_cloned_volume", VendorError("no"), "after")
    bench.faults().fail("create_volume_from_snapshot", VendorError("no"), "after")
    with Refused(Code.INTERNAL):
        copy()
    assert [volume.id for volume in bench.store.list(VolumeRecord)] == [volume_id]
    assert copy().volume_id


def test_the_source_of_a_copy_may_go_when_the_copy_is_made(bench, volume_id):
    copied = bench.create(
        "copy", gib=2, volume_content_source=from_volume(volume_id), volume_capabilities=[block()]
    )
    bench.delete(volume_id)
    assert bench.record(copied.volume_id).phase is Phase.AVAILABLE


def test_one_snapshot_can_be_asked_for(bench, volume_id):
    cut = bench.snapshot(volume_id)
    request = pb.GetSnapshotRequest(snapshot_id=cut.snapshot_id)
    assert bench.stub.GetSnapshot(request, timeout=WAIT).snapshot == cut
    bench.delete_snapshot(cut.snapshot_id)
    with Refused(Code.NOT_FOUND, cut.snapshot_id):
        bench.stub.GetSnapshot(request, timeout=WAIT)
