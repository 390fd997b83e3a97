"""What a call of a replaced controller could spoil is not begun before that call has ended.

Each time: the first controller's driver call is held, the second takes over, the held call
finishes late, and the second does what a sidecar would ask next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from csi_driver.base.errors import OperationInProgress
from csi_driver.base.values import GIB
from csi_driver.cinderlib.persistence.records import ConnectionRecord, Phase
from csi_driver.controller import pending
from tests.doubles.faults import VendorError
from tests.support.controller_bench import WAIT, Code, Refused
from tests.support.takeover_bench import ATTACH_GRACE, GRACE, Cluster


@pytest.fixture
def volume_id(cluster: Cluster) -> str:
    return cluster.create().volume_id


@contextmanager
def late(
    cluster: Cluster,
    callers: ThreadPoolExecutor,
    operation: str,
    call: Callable[..., object],
    *arguments: object,
) -> Iterator[Callable[[], None]]:
    """Hold a driver call of the first controller while the second takes over.

    Yields what lets it have its effect; its controller may record nothing any more.
    """
    gate = cluster.faults().hold_next(operation)
    answer = callers.submit(call, *arguments)
    gate.wait_until_entered()
    cluster.take_over("second")

    def finish() -> None:
        gate.release()
        assert isinstance(answer.exception(WAIT), Exception)

    try:
        yield finish
    finally:
        gate.release()


def sizes(cluster: Cluster) -> list[int]:
    return [size // GIB for size in cluster.managers[0].driver.shelf.names().values()]


def connected(cluster: Cluster) -> list[tuple[str, str]]:
    return list(cluster.managers[0].driver.connected)


# -- detach ---------------------------------------------------------------------------


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_late_detach_cuts_no_connection_that_was_made_since(cluster, callers, volume_id, node):
    cluster.publish(volume_id)
    with late(cluster, callers, "terminate_connection", cluster.unpublish, volume_id) as finish:
        assert cluster.store.list(ConnectionRecord) == []
        cluster.clock.now += ATTACH_GRACE - 1
        with Refused(Code.ABORTED, "the unpublish of 'data' that process first began") as refused:
            cluster.publish(volume_id, node)
        assert "may still run" in refused.message
        finish()
        cluster.clock.now += 1
        assert cluster.publish(volume_id, node)
    assert [host for _, host in connected(cluster)] == [node]
    cluster.look()
    assert cluster.expected() == []
    assert [host for _, host in connected(cluster)] == [node]


def test_a_detach_that_the_next_controller_loses_too_is_reckoned_with_anew(
    cluster, callers, volume_id
):
    cluster.publish(volume_id)
    gate = cluster.faults().hold_next("terminate_connection")
    answer = callers.submit(cluster.unpublish, volume_id)
    gate.wait_until_entered()
    cluster.faults().fail("terminate_connection", VendorError("not now"))
    cluster.take_over("second")
    gate.release()
    assert answer.exception(WAIT)
    cluster.clock.now += ATTACH_GRACE - 1
    cluster.take_over("third")
    (expected,) = cluster.expected()
    assert expected.owner == "second"
    assert expected.look_at == cluster.clock.now + ATTACH_GRACE


# -- attach ---------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["create_export", "initialize_connection"])
def test_a_connection_that_a_late_attach_makes_is_removed(cluster, callers, volume_id, operation):
    with late(cluster, callers, operation, cluster.publish, volume_id) as finish:
        with Refused(Code.ABORTED, "the publish of 'data' that process first began"):
            cluster.publish(volume_id, "n2")
        finish()
        assert cluster.store.list(ConnectionRecord) == []
        assert connected(cluster) != []
        cluster.clock.now += ATTACH_GRACE
        cluster.look()
    assert (connected(cluster), cluster.expected()) == ([], [])
    assert cluster.managers[0].driver.exported == set()


def test_one_that_was_published_again_since_stays(cluster, callers, volume_id):
    with late(cluster, callers, "initialize_connection", cluster.publish, volume_id) as finish:
        finish()
        cluster.clock.now += ATTACH_GRACE
        cluster.publish(volume_id)
        cluster.look()
    assert [host for _, host in connected(cluster)] == ["n1"]
    cluster.unpublish(volume_id)
    assert (connected(cluster), cluster.expected()) == ([], [])


def test_a_late_attach_of_a_volume_that_is_gone_is_forgotten(cluster, callers, volume_id):
    with late(cluster, callers, "initialize_connection", cluster.publish, volume_id) as finish:
        cluster.delete(volume_id)
        finish()
        cluster.clock.now += ATTACH_GRACE
        cluster.look()
    assert (cluster.on_backend(), cluster.expected()) == (set(), [])


def test_a_late_attach_is_removed_before_the_deletion_that_it_hinders(cluster, callers, volume_id):
    with late(cluster, callers, "initialize_connection", cluster.publish, volume_id) as finish:
        finish()
        cluster.faults().fail("delete_volume", VendorError("it is mapped"))
        with Refused(Code.INTERNAL, "it is mapped"):
            cluster.delete(volume_id)
        cluster.clock.now += ATTACH_GRACE
        cluster.look()
    assert (connected(cluster), cluster.expected()) == ([], [])


def test_a_backend_that_does_not_end_a_late_attach_is_asked_again(cluster, callers, volume_id):
    with late(cluster, callers, "initialize_connection", cluster.publish, volume_id) as finish:
        finish()
        cluster.faults().fail("terminate_connection", VendorError("not now"))
        cluster.clock.now += ATTACH_GRACE
        cluster.look()
    (expected,) = cluster.expected()
    assert (expected.tries, expected.look_at > cluster.clock.now) == (1, True)
    assert "not now" in expected.last_error
    assert cluster.publish(volume_id, "n2"), "the call has ended: nothing waits for the removal"
    cluster.clock.now = expected.look_at
    cluster.look()
    assert [host for _, host in connected(cluster)] == ["n2"]
    assert cluster.expected() == []


def test_a_late_attach_is_removed_though_its_removal_was_lost_too(cluster, callers, volume_id):
    gate = cluster.faults().hold_next("initialize_connection")
    answer = callers.submit(cluster.publish, volume_id)
    gate.wait_until_entered()
    cluster.faults().fail("terminate_connection", VendorError("not now"))
    cluster.take_over("second")
    cluster.take_over("third")
    assert cluster.store.list(ConnectionRecord) == []
    gate.release()
    assert answer.exception(WAIT)
    assert connected(cluster) != []
    cluster.clock.now += ATTACH_GRACE
    cluster.look()
    assert (connected(cluster), cluster.expected()) == ([], [])


def test_a_clock_that_was_set_back_does_not_prolong_the_wait(cluster, callers, volume_id):
    with late(cluster, callers, "initialize_connection", cluster.publish, volume_id) as finish:
        finish()
        cluster.clock.now -= 100_000
        cluster.look()
        (expected,) = cluster.expected()
        assert expected.look_at == cluster.clock.now + ATTACH_GRACE
        with Refused(Code.ABORTED, "may still run"):
            cluster.publish(volume_id)
        cluster.clock.now += ATTACH_GRACE
        cluster.look()
    assert (connected(cluster), cluster.expected()) == ([], [])
    assert cluster.publish(volume_id)


# -- extend ---------------------------------------------------------------------------


def test_a_late_extension_does_not_make_a_larger_volume_smaller(cluster, callers, volume_id):
    call = (cluster.expand, volume_id, 2 * GIB)
    with late(cluster, callers, "extend_volume", *call) as finish:
        assert cluster.expand(volume_id, 2 * GIB) == 2 * GIB
        with Refused(Code.ABORTED, "is not extended to 3 GiB yet: the extend of 'data'"):
            cluster.expand(volume_id, 3 * GIB)
        finish()
        cluster.clock.now += GRACE
        assert cluster.expand(volume_id, 3 * GIB) == 3 * GIB
        cluster.look()
    assert (sizes(cluster), cluster.expected()) == ([3], [])


# -- revert ---------------------------------------------------------------------------


def test_a_volume_is_not_used_while_a_late_revert_may_overwrite_it(cluster, callers, volume_id):
    cut = cluster.snapshot(volume_id).snapshot_id

    def revert() -> None:
        cluster.service.reverts.revert(volume_id, cut).result(WAIT)

    with late(cluster, callers, "revert_to_snapshot", revert) as finish:
        for _ in range(2):
            cluster.clock.now += GRACE / 2 - 1
            cluster.look()
            with Refused(Code.ABORTED, "is not reverted again yet: the revert of 'data'"):
                cluster.publish(volume_id)
            with Refused(Code.ABORTED, "is being reverted: revert since"):
                cluster.expand(volume_id, 2 * GIB)
            with Refused(Code.ABORTED, "is being reverted"):
                cluster.delete_snapshot(cut)
            with pytest.raises(OperationInProgress, match="is not reverted again yet"):
                revert()
            cluster.take_over("third")
        assert cluster.faults().operations().count("revert_to_snapshot") == 1
        finish()
        cluster.clock.now += 2
        cluster.look()
    assert cluster.faults().operations().count("revert_to_snapshot") == 2
    assert cluster.record(volume_id).phase is Phase.AVAILABLE
    assert cluster.publish(volume_id)
    cluster.look()
    assert cluster.expected() == []
    assert len(cluster.on_backend()) == 2


def test_what_waits_is_told(cluster, callers, volume_id):
    cut = cluster.snapshot(volume_id).snapshot_id
    call = (lambda: cluster.service.reverts.revert(volume_id, cut).result(WAIT),)
    with late(cluster, callers, "revert_to_snapshot", *call) as finish:
        report = pending.report([cluster.record(volume_id)], [], [], [], cluster.expected())
        finish()
    (left,) = report.suspects
    assert "process first began its revert, a call that may still run" in left.why
    assert left.what_to_do.startswith("Nothing: the controller reverts it again at ")


# -- delete ---------------------------------------------------------------------------


def test_a_late_deletion_touches_nothing_that_has_the_name_since(cluster, callers, volume_id):
    with late(cluster, callers, "delete_volume", cluster.delete, volume_id) as finish:
        again = cluster.create().volume_id
        assert again != volume_id
        finish()
    assert len(cluster.on_backend()) == 1
    assert cluster.publish(again)
