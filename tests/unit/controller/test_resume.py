"""What an earlier process left is finished at the start, or taken up by the retry.

The crash is played in the store: records that say an operation began, and a controller
that knows of none in flight.
"""

from __future__ import annotations

import threading

import msgspec
import pytest

from csi_driver.base.values import GIB
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    Operation,
    Phase,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.controller import repair
from csi_driver.controller.backends import ATTACH_THREADS
from tests.doubles.faults import VendorError
from tests.support.controller_bench import (
    WAIT,
    Code,
    ControllerBench,
    Refused,
)
from tests.support.messages import block

BEGUN = {
    (VolumeRecord, Phase.CREATING): "create",
    (VolumeRecord, Phase.DELETING): "delete",
    (SnapshotRecord, Phase.CREATING): "snapshot",
    (SnapshotRecord, Phase.DELETING): "delete-snapshot",
    (ConnectionRecord, Phase.ATTACHING): "publish",
    (ConnectionRecord, Phase.DETACHING): "unpublish",
}


def leave(bench: ControllerBench, kind, record_id: str, phase: Phase) -> None:
    """Let the record say that an operation began."""
    record = bench.store.get(kind, record_id)
    begun = Operation(kind=BEGUN[kind, phase], step="backend", since=1.0, owner="another/1")
    bench.store.put(msgspec.structs.replace(record, phase=phase, operation=begun))


def test_a_deletion_that_was_begun_is_finished(bench):
    volume_id = bench.create().volume_id
    cut = bench.snapshot(volume_id)
    other = bench.create("other").volume_id
    leave(bench, VolumeRecord, other, Phase.DELETING)
    leave(bench, SnapshotRecord, cut.snapshot_id, Phase.DELETING)
    bench.restart()
    assert bench.store.list(SnapshotRecord) == []
    assert [volume.id for volume in bench.store.list(VolumeRecord)] == [volume_id]
    assert len(bench.on_backend()) == 1


def test_a_detach_that_was_begun_is_finished(bench):
    volume_id = bench.create().volume_id
    bench.publish(volume_id)
    leave(bench, ConnectionRecord, f"{volume_id}/n1", Phase.DETACHING)
    bench.restart()
    assert bench.store.list(ConnectionRecord) == []
    assert bench.managers[0].driver.connected == []


def test_exports_of_attached_volumes_are_made_again(bench):
    attached, free = bench.create("attached").volume_id, bench.create("free").volume_id
    bench.publish(attached)
    bench.restart()
    cinder_id = bench.record(attached).cinder_id
    assert ("ensure_export", cinder_id) in bench.faults().calls
    assert bench.faults().operations().count("ensure_export") == 1
    assert bench.record(attached).provider["provider_auth"] == "CHAP again secret"
    assert bench.record(free).phase is Phase.AVAILABLE


def test_an_attach_does_not_wait_until_all_volumes_are_exported_again(bench):
    attached = [bench.create(f"attached-{n}").volume_id for n in range(2 * ATTACH_THREADS)]
    for volume_id in attached:
        bench.publish(volume_id)
    free = bench.create("free").volume_id
    held = bench.hold("ensure_export")
    exported = bench.service.exports.begin()
    held.wait_until_entered()
    bench.publish(free)
    assert not any(each.done() for each in exported)
    held.release()
    for each in exported:
        each.result(WAIT)
    assert bench.faults().operations().count("ensure_export") == len(attached)


def test_a_backend_that_fails_at_the_start_stops_nothing(bench):
    volume_id = bench.create().volume_id
    bench.publish(volume_id)
    gone = bench.create("gone").volume_id
    leave(bench, VolumeRecord, gone, Phase.DELETING)
    bench.faults().fail("ensure_export", VendorError("no"))
    bench.faults().fail("delete_volume", VendorError("no"))
    bench.restart()
    assert bench.record(gone).phase is Phase.DELETING
    bench.delete(gone)
    assert len(bench.on_backend()) == 1


def test_a_record_of_a_backend_that_is_not_configured_stops_nothing(bench):
    volume_id = bench.create().volume_id
    record = bench.record(volume_id)
    bench.store.put(msgspec.structs.replace(record, backend="retired", phase=Phase.DELETING))
    other = bench.create("other").volume_id
    leave(bench, VolumeRecord, other, Phase.DELETING)
    bench.restart()
    assert [volume.id for volume in bench.store.list(VolumeRecord)] == [volume_id]


@pytest.mark.parametrize("made", [False, True])
@pytest.mark.parametrize("retried_first", [False, True])
def test_a_creation_that_was_begun_is_removed_and_made_anew(bench, made, retried_first):
    """Whether the first attempt reached the backend is not known: it is removed either way."""
    volume_id = bench.create().volume_id
    first = bench.record(volume_id)
    if not made:
        bench.managers[0].driver.shelf.remove(f"volume-{first.cinder_id}")
    leave(bench, VolumeRecord, volume_id, Phase.CREATING)
    if not retried_first:
        bench.restart()
        assert bench.store.get(VolumeRecord, volume_id) is None
        assert bench.on_backend() == set()
    assert bench.create().volume_id == volume_id
    now = bench.record(volume_id)
    assert now.cinder_id != first.cinder_id
    assert now.suspects == ()
    assert bench.on_backend() == {f"volume-{now.cinder_id}"}


def test_a_snapshot_that_was_begun_is_removed(bench):
    volume_id = bench.create().volume_id
    cut = bench.snapshot(volume_id)
    leave(bench, SnapshotRecord, cut.snapshot_id, Phase.CREATING)
    bench.restart()
    assert bench.store.get(SnapshotRecord, cut.snapshot_id) is None
    assert bench.snapshot(volume_id).snapshot_id == cut.snapshot_id


def test_an_attach_that_was_begun_is_undone(bench):
    volume_id = bench.create(volume_capabilities=[block()]).volume_id
    bench.publish(volume_id)
    leave(bench, ConnectionRecord, f"{volume_id}/n1", Phase.ATTACHING)
    with Refused(Code.FAILED_PRECONDITION, "n1"):
        bench.publish(volume_id, "n2")
    bench.restart()
    assert bench.publish(volume_id, "n2")


def test_an_attach_that_was_begun_is_taken_up_by_the_retry(bench):
    volume_id = bench.create(volume_capabilities=[block()]).volume_id
    sealed = bench.publish(volume_id)
    leave(bench, ConnectionRecord, f"{volume_id}/n1", Phase.ATTACHING)
    again = bench.publish(volume_id, "n1")
    assert again
    assert again != sealed


def between_reading_and_repair(bench: ControllerBench, monkeypatch, kind, happen) -> None:
    """Let something happen when a repair round has read the pending records of a kind."""
    read = bench.store.list

    def read_and_go_on(asked, **selection):
        found = read(asked, **selection)
        if asked is kind and selection.get("where") == {"pending": "yes"}:
            monkeypatch.setattr(bench.store, "list", read)
            happen()
        return found

    monkeypatch.setattr(bench.store, "list", read_and_go_on)
    for future in bench.service.repair.round(float("inf")):
        future.result(WAIT)


def test_a_repair_leaves_alone_what_the_caller_has_attached_meanwhile(bench, monkeypatch):
    volume_id = bench.create().volume_id
    bench.publish(volume_id)
    leave(bench, ConnectionRecord, f"{volume_id}/n1", Phase.ATTACHING)
    between_reading_and_repair(
        bench, monkeypatch, ConnectionRecord, lambda: bench.publish(volume_id)
    )
    assert len(bench.managers[0].driver.connected) > 0
    assert [c.phase for c in bench.store.list(ConnectionRecord)] == [Phase.ATTACHED]


def test_a_repair_does_not_revert_what_was_reverted_meanwhile(bench, monkeypatch):
    volume_id = bench.create().volume_id
    cut = bench.snapshot(volume_id).snapshot_id
    begun = Operation(kind="revert", step="backend", since=1.0, owner="another/1", snapshot_id=cut)
    record = msgspec.structs.replace(
        bench.record(volume_id), phase=Phase.REVERTING, operation=begun
    )
    bench.store.put(record)
    between_reading_and_repair(
        bench,
        monkeypatch,
        VolumeRecord,
        lambda: bench.service.reverts.revert(volume_id, cut).result(WAIT),
    )
    assert bench.faults().operations().count("revert_to_snapshot") == 1


def test_an_unpublish_does_not_take_a_repair_for_its_own(bench):
    volume_id = bench.create().volume_id
    bench.publish(volume_id)
    leave(bench, ConnectionRecord, f"{volume_id}/n1", Phase.ATTACHING)
    gate = bench.hold("terminate_connection")
    (repair,) = bench.service.repair.round(float("inf"))
    gate.wait_until_entered()
    with Refused(Code.ABORTED, "removal of an unfinished attachment"):
        bench.unpublish(volume_id)
    gate.release()
    repair.result(WAIT)
    bench.unpublish(volume_id)
    assert bench.store.list(ConnectionRecord) == []


def test_a_clock_that_was_set_back_does_not_put_a_repair_off(bench):
    volume_id = bench.create().volume_id
    bench.publish(volume_id)
    leave(bench, ConnectionRecord, f"{volume_id}/n1", Phase.DETACHING)
    (left,) = bench.store.list(ConnectionRecord)
    assert repair.due([left], left.operation.since) == []
    assert repair.due([left], left.operation.since - 3600) == [left]


def test_an_extension_that_was_begun_is_done_again(bench):
    volume_id = bench.create().volume_id
    record = bench.record(volume_id)
    begun = Operation(kind="extend", step="backend", since=1.0, owner="another/1", size_gib=3)
    bench.store.put(msgspec.structs.replace(record, operation=begun))
    bench.restart()
    assert bench.record(volume_id).size_gib == 3
    assert bench.record(volume_id).operation is None


def test_an_operation_of_a_newer_release_is_left_alone(bench):
    volume_id = bench.create().volume_id
    record = bench.record(volume_id)
    begun = Operation(kind="teleport", step="backend", since=1.0, owner="another/1")
    bench.store.put(msgspec.structs.replace(record, operation=begun))
    bench.restart()
    assert bench.record(volume_id).operation == begun


def test_after_a_restart_every_name_is_the_same_volume(bench):
    volume = bench.create()
    sealed = bench.publish(volume.volume_id)
    bench.restart()
    assert bench.create() == volume
    assert bench.publish(volume.volume_id) == sealed


def test_a_draining_controller_finishes_what_runs_and_starts_nothing(bench):
    gate = bench.hold("create_volume")
    running = bench.stub.CreateVolume.future(bench.create_request(), timeout=WAIT)
    gate.wait_until_entered()
    assert not bench.service.drain(0)
    assert "CreateVolume runs since" in bench.service.running()[0]
    with Refused(Code.UNAVAILABLE, "was not started"):
        bench.create("other")
    gate.release()
    assert bench.service.drain(WAIT)
    assert running.result().volume.volume_id


def test_an_extension_of_what_is_gone_from_the_backend_ends(bench):
    volume_id = bench.create().volume_id
    bench.managers[0].driver.shelf.remove(f"volume-{bench.record(volume_id).cinder_id}")
    with Refused(Code.INTERNAL, "not"):
        bench.expand(volume_id, 2 * GIB)
    assert bench.record(volume_id).operation is None


def test_a_defect_in_one_round_does_not_end_the_repair(bench, monkeypatch):
    rounds = []
    again = threading.Event()

    def defective(now: float) -> list[object]:
        rounds.append(now)
        if len(rounds) > 1:
            again.set()
        raise KeyError("a step that no table knows")

    monkeypatch.setattr(repair, "INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(bench.service.repair, "round", defective)
    bench.service.repair.start()
    assert again.wait(WAIT)
    bench.service.repair.stop()
