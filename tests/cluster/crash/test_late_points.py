"""The record of a call that an earlier controller began, broken: the call is reckoned with until
it has ended, whoever dies meanwhile, and in the end nothing of it is left.

Only stores that processes share have these records: elsewhere the other is known to be dead.
"""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest

from csi_driver.base.faults import WRITE
from csi_driver.controller.operations import FaultPoint, fault_points
from tests.cluster.crash.bed import ClusterBed
from tests.crash import requests
from tests.crash.bed import DATA, Bed, counted
from tests.crash.conftest import DISTURBED_DRIVER
from tests.crash.controller_scenarios import SCENARIOS, Scenario
from tests.crash.requests import Call
from tests.support.waiting import wait_until

pytestmark = pytest.mark.root

POINTS = [point for point in fault_points() if point.operation == "late"]
OTHERS = ("snapshot", "extend", "publish", "unpublish", "revert")

RUNS = [(point, "create") for point in POINTS] + [
    (point, operation) for point in POINTS if not point.step.after_failure for operation in OTHERS
]
"""The points, and the operation whose call is expected; no driver call of the others' looks
fails: they make none."""

WRITES = [(point, operation) for point, operation in RUNS if point.moment == WRITE]


def _revert(bed: Bed) -> Call:
    volume_id = bed.copy_of_golden()
    cut = bed.until_ok(requests.snapshot("data", volume_id)).snapshot.snapshot_id
    (bed.stage(volume_id) / "data").write_text("what was written after the cut")
    bed.unstage(volume_id)
    return requests.revert(volume_id, cut)


def _settled(bed: Bed) -> int:
    return len(bed.records("volume", phase="available"))


OF = SCENARIOS | {"revert": Scenario(_revert, _settled, 1, 1, "revert_to_snapshot/before", True)}


@pytest.fixture
def bed(late_bed_of: Callable[[str], ClusterBed]) -> ClusterBed:
    return late_bed_of(DISTURBED_DRIVER)


@pytest.fixture
def call(bed: ClusterBed, operation: str) -> Call:
    """A call whose controller died when the driver call was next."""
    call = OF[operation].prepare(bed)
    bed.faults.arm(f"{operation}/backend/recorded", "kill")
    assert bed.refused(call).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert bed.processes["controller"].wait() == -9
    return call


def arm(bed: ClusterBed, point: FaultPoint, action: str) -> None:
    if point.step.after_failure:
        bed.faults.arm("driver/delete_volume/before", "fail")
    bed.faults.arm(str(point), action)


def compare(bed: ClusterBed, operation: str, call: Call) -> None:
    bed.until_ok(call)
    assert bed.faults.armed() == []
    wait_until("nothing is expected any more", lambda: not bed.kept("late_attempt"))
    assert OF[operation].view(bed) == OF[operation].after
    assert bed.inventory().pending == ()
    assert bed.inventory().strange_files == frozenset()
    if OF[operation].readable:
        (volume,) = bed.records("volume")
        assert bed.read(volume["id"]) == DATA
    bed.clear()


@pytest.mark.parametrize(("point", "operation"), RUNS, ids=str)
@counted("killed, retried")
def test_killed_there_the_next_controller_reckons_with_it(
    bed: ClusterBed, point: FaultPoint, operation: str, call: Call
):
    if point.step.name != "expected":
        bed.start("controller")
        bed.until_ok(call)
    arm(bed, point, "kill")
    if point.step.name == "expected":
        bed.spawn("controller")
    assert bed.processes["controller"].wait() == -9
    bed.start("controller")
    compare(bed, operation, call)


@pytest.mark.parametrize(("point", "operation"), WRITES, ids=str)
@counted("store failed")
def test_when_the_store_fails_there_it_is_done_again(
    bed: ClusterBed, point: FaultPoint, operation: str, call: Call
):
    if point.step.name != "expected":
        bed.start("controller")
        bed.until_ok(call)
    arm(bed, point, "fail")
    if point.step.name == "expected":
        bed.start("controller")
    wait_until("the fault has happened", lambda: bed.faults.armed() == [])
    compare(bed, operation, call)
