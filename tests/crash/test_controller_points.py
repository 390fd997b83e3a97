"""The controller, broken at every point of its table of operations.

Each time: prepare, break, retry as a sidecar does, compare.  What is compared stands in
:meth:`tests.crash.bed.Bed.clear` and in the scenarios: one object per CSI name, records that
are exactly the backend's files, data that is still readable, and nothing but tombstones when
everything was deleted.
"""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest

from csi_driver.base.faults import WRITE
from csi_driver.controller.operations import OPERATIONS, FaultPoint, fault_points
from csi_driver.rpc.errors import NON_FINAL
from tests.crash.bed import DATA, Bed, counted
from tests.crash.conftest import DISTURBED_DRIVER, FILE_DRIVER
from tests.crash.controller_scenarios import SCENARIOS, Scenario, repaired
from tests.crash.requests import Call

pytestmark = pytest.mark.root

ELSEWHERE = {"revert", "orphan", "late"}
"""No RPC of their own: test_revert_points, test_orphan_points, and tests/cluster/crash."""

POINTS = [point for point in fault_points() if point.operation not in ELSEWHERE]
WRITES = [point for point in POINTS if point.moment == WRITE]


def of(point: FaultPoint) -> Scenario:
    return SCENARIOS[point.operation]


@pytest.fixture
def bed(point: FaultPoint, bed_of: Callable[[str], Bed]) -> Bed:
    """With a driver that fails or changes volumes, where the step needs one."""
    special = point.step.after_failure or point.step.on_change
    return bed_of(DISTURBED_DRIVER if special else FILE_DRIVER)


@pytest.fixture
def call(bed: Bed, point: FaultPoint) -> Call:
    """The call of the operation, with everything ready for it."""
    scenario = of(point)
    call = scenario.prepare(bed)
    assert scenario.view(bed) == scenario.before
    if point.step.after_failure:
        bed.faults.arm(f"driver/{scenario.driver_fault}", "fail")
    return call


def die_at(bed: Bed, point: FaultPoint, call: Call) -> None:
    """Make the call; the process dies at the point, and another one is started."""
    bed.faults.arm(str(point), "kill")
    assert bed.refused(call).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert bed.faults.armed() == []
    assert bed.processes["controller"].wait() == -9
    bed.start("controller")


def compare(bed: Bed, point: FaultPoint, expected: object) -> None:
    """Compare what there is with what is expected, then with nothing."""
    assert of(point).view(bed) == expected
    now = bed.inventory()
    assert now.pending == ()
    assert now.strange_files == frozenset()
    volumes = bed.records("volume")
    if of(point).readable and volumes:
        (volume,) = volumes
        assert bed.read(volume["id"]) == DATA
    bed.clear()


@pytest.mark.parametrize("point", POINTS, ids=str)
@counted("killed, retried")
def test_killed_there_the_retry_finishes_it(bed: Bed, point: FaultPoint, call: Call):
    die_at(bed, point, call)
    answer = bed.until_ok(call)
    assert bed.until_ok(call) == answer
    compare(bed, point, of(point).after)


@pytest.mark.full
@pytest.mark.parametrize("point", POINTS, ids=str)
@counted("killed, never retried")
def test_killed_there_and_never_retried_it_is_repaired(bed: Bed, point: FaultPoint, call: Call):
    die_at(bed, point, call)
    bed.wait_until_repaired()
    compare(bed, point, getattr(of(point), repaired(point)))


@pytest.mark.parametrize("point", POINTS, ids=str)
@counted("answer lost")
def test_when_the_answer_is_lost_there_the_retry_gets_it(bed: Bed, point: FaultPoint, call: Call):
    bed.faults.arm(str(point), "pause")
    first = bed.begin(call)
    bed.faults.wait_until_paused(first)
    first.cancel()
    second = bed.begin(call)
    bed.faults.resume()
    error = second.exception()
    # Joined to the first; its driver call may have been the one that was to fail.
    assert error is None or point.step.after_failure or error.code() in NON_FINAL
    answer = bed.until_ok(call)
    assert bed.until_ok(call) == answer
    compare(bed, point, of(point).after)


@pytest.mark.parametrize("point", WRITES, ids=str)
@counted("store failed")
def test_when_the_store_fails_there_the_retry_finishes_it(bed: Bed, point: FaultPoint, call: Call):
    bed.faults.arm(str(point), "fail")
    assert bed.refused(call).code() is grpc.StatusCode.UNAVAILABLE
    assert bed.faults.armed() == []
    answer = bed.until_ok(call)
    assert bed.until_ok(call) == answer
    compare(bed, point, of(point).after)


def test_every_operation_has_a_scenario():
    assert set(SCENARIOS) | ELSEWHERE == set(OPERATIONS)
