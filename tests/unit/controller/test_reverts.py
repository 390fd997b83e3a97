"""Reverting a volume: all of it or nothing, and never under somebody's mount."""

from __future__ import annotations

import msgspec
import pytest

from csi_driver.base.values import GIB, Confirmation, Formatting, FormattingState
from csi_driver.cinderlib.persistence.records import Operation, Phase
from csi_driver.controller import errors
from csi_driver.node.ports import LedgerUnavailable
from tests.doubles.faults import VendorError
from tests.support.controller_bench import WAIT, Code, ControllerBench, Refused

FORMATTED = Formatting(state=FormattingState.FORMATTED, fs_type="xfs", fs_uuid="the-uuid")


@pytest.fixture
def volume_id(bench) -> str:
    return bench.create().volume_id


@pytest.fixture
def snapshot_id(bench, volume_id) -> str:
    return bench.snapshot(volume_id).snapshot_id


def revert(bench: ControllerBench, volume_id: str, snapshot_id: str) -> None:
    bench.service.reverts.revert(volume_id, snapshot_id).result(WAIT)


def test_what_nodes_confirmed_since_the_cut_is_forgotten(bench, volume_id, snapshot_id):
    bench.nodes.confirm(Confirmation(volume_id=volume_id, formatting=FORMATTED))
    revert(bench, volume_id, snapshot_id)
    record = bench.record(volume_id)
    assert record.phase is Phase.AVAILABLE
    assert record.operation is None
    assert record.formatting.state is FormattingState.NEVER
    assert bench.nodes.confirmation(volume_id) is None


def test_a_published_volume_is_not_reverted(bench, volume_id, snapshot_id):
    bench.publish(volume_id)
    with pytest.raises(errors.VolumeInUse, match="n1"):
        revert(bench, volume_id, snapshot_id)
    assert bench.record(volume_id).phase is Phase.AVAILABLE


def test_only_to_a_snapshot_of_its_own(bench, volume_id):
    other = bench.create("other").volume_id
    with pytest.raises(errors.SnapshotNotFound):
        revert(bench, volume_id, bench.snapshot(other, "elsewhere").snapshot_id)
    with pytest.raises(errors.VolumeNotFound):
        revert(bench, "absent", "absent")


def test_a_volume_that_was_extended_since_is_refused_and_stays_usable(
    bench, volume_id, snapshot_id
):
    bench.expand(volume_id, 2 * GIB)
    with pytest.raises(errors.BackendRefused, match="its snapshot"):
        revert(bench, volume_id, snapshot_id)
    assert bench.record(volume_id).phase is Phase.AVAILABLE
    assert bench.publish(volume_id)


def test_a_volume_that_may_be_half_reverted_is_not_published_until_it_was_done_again(
    bench, volume_id, snapshot_id
):
    bench.faults().fail("revert_to_snapshot", VendorError("lost"), "after")
    with pytest.raises(errors.BackendFailed, match="lost"):
        revert(bench, volume_id, snapshot_id)
    with Refused(Code.ABORTED, "being reverted"):
        bench.publish(volume_id)
    bench.restart()
    assert bench.record(volume_id).phase is Phase.AVAILABLE
    assert bench.publish(volume_id)


def test_a_refusal_that_a_dead_process_did_not_record_is_found_again(bench, volume_id, snapshot_id):
    """The volume was extended since the cut: no attempt has touched it."""
    bench.expand(volume_id, 2 * GIB)
    operation = Operation(
        kind="revert", step="backend", since=0.0, owner="gone", snapshot_id=snapshot_id
    )
    volume = bench.record(volume_id)
    bench.store.put(msgspec.structs.replace(volume, phase=Phase.REVERTING, operation=operation))
    bench.restart()
    record = bench.record(volume_id)
    assert (record.phase, record.operation) == (Phase.AVAILABLE, None)
    assert "revert_to_snapshot" not in bench.faults().operations()
    assert bench.publish(volume_id)


def test_only_to_the_youngest_snapshot(bench, volume_id, snapshot_id):
    """Of a share of files another cannot be had, and the volume would stay `reverting`."""
    newer = bench.snapshot(volume_id, "newer").snapshot_id
    with pytest.raises(errors.VolumeInUse, match=f"younger snapshots: newer .{newer}"):
        revert(bench, volume_id, snapshot_id)
    assert bench.record(volume_id).phase is Phase.AVAILABLE
    revert(bench, volume_id, newer)
    bench.delete_snapshot(newer)
    revert(bench, volume_id, snapshot_id)
    assert bench.record(volume_id).phase is Phase.AVAILABLE


def test_a_volume_that_may_be_half_reverted_stays_so_when_the_next_attempt_is_refused(
    bench, volume_id, snapshot_id
):
    bench.faults().fail("revert_to_snapshot", VendorError("lost"), "after")
    with pytest.raises(errors.BackendFailed, match="lost"):
        revert(bench, volume_id, snapshot_id)
    bench.faults().fail("revert_to_snapshot", NotImplementedError("not on this array"))
    with pytest.raises(errors.BackendUnsupported):
        revert(bench, volume_id, snapshot_id)
    with Refused(Code.ABORTED, "being reverted"):
        bench.publish(volume_id)
    with Refused(Code.ABORTED, "being reverted"):
        bench.delete_snapshot(snapshot_id)
    operation = bench.record(volume_id).operation
    assert operation is not None
    assert operation.attempts == 2
    bench.restart()
    assert bench.record(volume_id).phase is Phase.AVAILABLE
    assert bench.faults().operations().count("revert_to_snapshot") == 3


def test_a_volume_that_is_being_reverted_is_not_made_anew(bench, volume_id, snapshot_id):
    bench.faults().fail("revert_to_snapshot", VendorError("lost"), "after")
    with pytest.raises(errors.BackendFailed, match="lost"):
        revert(bench, volume_id, snapshot_id)
    before = bench.record(volume_id)
    with Refused(Code.ABORTED, "being reverted"):
        bench.create()
    assert bench.record(volume_id) == before
    assert "delete_volume" not in bench.faults().operations()
    bench.restart()
    assert bench.create().volume_id == volume_id


def test_a_revert_whose_confirmation_could_not_be_dropped_is_finished_by_itself(
    bench, volume_id, snapshot_id, monkeypatch
):
    bench.nodes.confirm(Confirmation(volume_id=volume_id, formatting=FORMATTED))

    def away(volume_id):
        raise LedgerUnavailable("no answer")

    with monkeypatch.context() as outage:
        outage.setattr(bench.nodes, "forget", away)
        with pytest.raises(LedgerUnavailable):
            revert(bench, volume_id, snapshot_id)
    with Refused(Code.ABORTED, "being reverted"):
        bench.publish(volume_id)
    for future in bench.service.repair.round(float("inf")):
        future.result(WAIT)
    assert bench.record(volume_id).phase is Phase.AVAILABLE
    assert bench.nodes.confirmation(volume_id) is None


def test_a_revert_that_was_begun_is_done_again_by_the_next_process(bench, volume_id, snapshot_id):
    record = bench.record(volume_id)
    begun = Operation(
        kind="revert", step="backend", since=1.0, owner="another/1", snapshot_id=snapshot_id
    )
    bench.store.put(msgspec.structs.replace(record, phase=Phase.REVERTING, operation=begun))
    bench.restart()
    assert bench.record(volume_id).phase is Phase.AVAILABLE
    assert bench.record(volume_id).operation is None
