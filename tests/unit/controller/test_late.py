"""What a call of another controller makes after that one was replaced is found and removed."""

from __future__ import annotations

import grpc
import pytest

from csi_driver.cinderlib.persistence.records import OrphanRecord, SnapshotRecord, VolumeRecord
from csi_driver.controller import pending
from tests.doubles.faults import VendorError
from tests.support.controller_bench import WAIT
from tests.support.takeover_bench import GRACE

DRIVER_CALLS = {
    "create": "create_volume",
    "clone": "create_cloned_volume",
    "restore": "create_volume_from_snapshot",
}


@pytest.mark.parametrize("kind", list(DRIVER_CALLS))
def test_a_volume_that_a_replaced_controller_makes_late_is_removed(cluster, callers, kind):
    source = cluster.source(kind)
    before = cluster.on_backend()
    gate = cluster.hold(DRIVER_CALLS[kind])
    late = callers.submit(cluster.create, "data", volume_content_source=source)
    gate.wait_until_entered()
    cluster.take_over("second")
    cluster.take_over("third")
    (expected,) = cluster.expected()
    assert (expected.owner, expected.name) == ("first", "data")
    gate.release()
    assert isinstance(late.exception(WAIT), grpc.RpcError)
    assert len(cluster.on_backend() - before) == 1

    cluster.clock.now += GRACE - 1
    cluster.look()
    assert cluster.expected() == [expected]
    cluster.clock.now += 1
    cluster.look()
    assert cluster.on_backend() == before
    assert cluster.expected() == []


def test_the_volume_that_was_made_instead_stays_or_may_be_deleted(cluster, callers):
    gate = cluster.hold("create_volume")
    late = callers.submit(cluster.create, "data")
    gate.wait_until_entered()
    cluster.take_over("second")
    gate.release()
    late.exception(WAIT)
    volume_id = cluster.create("data").volume_id
    assert len(cluster.on_backend()) == 2
    cluster.delete(volume_id)
    cluster.clock.now += GRACE
    cluster.look()
    assert cluster.on_backend() == set()


def test_a_snapshot_that_comes_late_is_removed_also_after_its_volume(cluster, callers):
    volume_id = cluster.create("data").volume_id
    gate = cluster.hold("create_snapshot")
    late = callers.submit(cluster.snapshot, volume_id)
    gate.wait_until_entered()
    cluster.take_over("second")
    assert cluster.store.list(SnapshotRecord) == []
    gate.release()
    late.exception(WAIT)
    cluster.clock.now += GRACE
    cluster.look()
    assert len(cluster.on_backend()) == 1
    cluster.delete(volume_id)
    assert (cluster.on_backend(), cluster.expected()) == (set(), [])


def test_a_backend_that_does_not_answer_is_asked_again(cluster, callers):
    gate = cluster.hold("create_volume")
    late = callers.submit(cluster.create, "data")
    gate.wait_until_entered()
    cluster.take_over("second")
    gate.release()
    late.exception(WAIT)
    cluster.faults().fail("delete_volume", VendorError("not now"))
    cluster.clock.now += GRACE
    cluster.look()
    (expected,) = cluster.expected()
    assert (expected.tries, expected.look_at > cluster.clock.now) == (1, True)
    assert "not now" in expected.last_error
    report = pending.report([], [], [], cluster.store.list(OrphanRecord), [expected])
    assert [left.cinder_id for left in report.suspects] == [expected.id]
    cluster.clock.now = expected.look_at
    cluster.look()
    assert (cluster.on_backend(), cluster.expected()) == (set(), [])


def test_a_process_expects_nothing_of_its_own_attempts(cluster):
    cluster.faults().fail("create_volume", VendorError("lost"), when="after")
    cluster.faults().fail("delete_volume", VendorError("not now"))
    with pytest.raises(grpc.RpcError):
        cluster.create("data")
    cluster.create("data")
    assert (len(cluster.on_backend()), cluster.expected()) == (1, [])
    assert [volume.suspects for volume in cluster.store.list(VolumeRecord)] == [()]
