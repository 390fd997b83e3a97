"""A controller with the records of a backup, amid what was in progress then and is in use now.

The backend is the one of today: what the records say is being made, was made since.
"""

from __future__ import annotations

import msgspec
import pytest

from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    Operation,
    Phase,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.cinderlib.persistence.store import pages
from csi_driver.controller.restoring import restored
from tests.support.controller_bench import ControllerBench


def bring_back(
    bench: ControllerBench, kind, record_id: str, phase: Phase, began: str, cut: str = ""
) -> None:
    """Let all records be those of a backup of the moment when this operation had begun."""
    record = bench.store.get(kind, record_id)
    operation = Operation(kind=began, step="backend", since=1.0, owner="another/1", snapshot_id=cut)
    bench.store.put(msgspec.structs.replace(record, phase=phase, operation=operation))
    for page in pages(bench.store):
        for each in page:
            if (after := restored(each)) is not each:
                bench.store.put(after)


def destroyed(bench: ControllerBench) -> list[str]:
    """What the driver was asked to take away."""
    taken = ("delete", "terminate", "remove", "revert")
    return [each for each in bench.faults().operations() if each.startswith(taken)]


@pytest.fixture
def used(bench: ControllerBench) -> ControllerBench:
    """With a volume that is attached, and has a snapshot."""
    volume_id = bench.create().volume_id
    bench.publish(volume_id)
    bench.snapshot(volume_id)
    return bench


@pytest.mark.parametrize(
    ("kind", "phase", "began"),
    [
        (VolumeRecord, Phase.CREATING, "create"),
        (VolumeRecord, Phase.CREATING, "clone"),
        (SnapshotRecord, Phase.CREATING, "snapshot"),
        (SnapshotRecord, Phase.DELETING, "delete-snapshot"),
        (ConnectionRecord, Phase.ATTACHING, "publish"),
        (ConnectionRecord, Phase.DETACHING, "unpublish"),
    ],
)
def test_nothing_is_taken_away_that_may_be_in_use(used, kind, phase, began):
    (record,) = used.store.list(kind)
    bring_back(used, kind, record.id, phase, began)
    there = used.on_backend()
    used.restart()
    assert destroyed(used) == []
    assert used.on_backend() == there
    assert used.store.get(kind, record.id).phase is phase


def test_a_volume_is_not_reverted_again_over_what_was_written_since(bench):
    volume_id = bench.create().volume_id
    cut = bench.snapshot(volume_id).snapshot_id
    bring_back(bench, VolumeRecord, volume_id, Phase.REVERTING, "revert", cut)
    bench.restart()
    assert destroyed(bench) == []
    assert bench.record(volume_id).phase is Phase.REVERTING


def test_a_volume_is_not_deleted_that_somebody_may_have_kept(bench):
    volume_id = bench.create().volume_id
    bring_back(bench, VolumeRecord, volume_id, Phase.DELETING, "delete")
    bench.restart()
    assert destroyed(bench) == []
    assert bench.record(volume_id).phase is Phase.DELETING


def test_a_caller_who_has_no_volume_yet_gets_one(bench):
    volume_id = bench.create().volume_id
    first = bench.record(volume_id)
    bring_back(bench, VolumeRecord, volume_id, Phase.CREATING, "create")
    bench.restart()
    assert bench.create().volume_id == volume_id
    again = bench.record(volume_id)
    assert again.phase is Phase.AVAILABLE
    assert again.cinder_id != first.cinder_id
    assert len(bench.on_backend()) == 1


def test_whoever_deletes_or_detaches_asks_again_and_it_is_done(bench):
    volume_id = bench.create().volume_id
    bench.publish(volume_id)
    bring_back(bench, ConnectionRecord, f"{volume_id}/n1", Phase.DETACHING, "unpublish")
    bench.restart()
    bench.unpublish(volume_id)
    assert bench.store.list(ConnectionRecord) == []
    bring_back(bench, VolumeRecord, volume_id, Phase.DELETING, "delete")
    bench.restart()
    bench.delete(volume_id)
    assert bench.store.list(VolumeRecord) == []
    assert not bench.on_backend()


def test_an_attachment_that_was_begun_is_answered_by_the_next_publish(bench):
    volume_id = bench.create().volume_id
    bench.publish(volume_id)
    bring_back(bench, ConnectionRecord, f"{volume_id}/n1", Phase.ATTACHING, "publish")
    bench.restart()
    bench.publish(volume_id)
    (connection,) = bench.store.list(ConnectionRecord)
    assert connection.phase is Phase.ATTACHED
