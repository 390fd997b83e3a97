"""The node, broken at every step of its table of operations.

Each time: prepare, break, go on as the kubelet does, compare mounts, loop devices, the node's
own state, and the data on the volume.
"""

from __future__ import annotations

import grpc
import pytest

from csi_driver.base.faults import WRITE
from csi_driver.node.operations import OPERATIONS, FaultPoint, fault_points
from csi_driver.rpc.errors import NON_FINAL
from tests.crash.bed import DATA, Bed, counted
from tests.crash.node_scenarios import PREPARE, Subject, see_done

pytestmark = pytest.mark.root

POINTS = fault_points()
WRITES = [point for point in POINTS if point.moment == WRITE]
# A volume whose state file is damaged must be unstaged, whatever happens.
LEFT = [point for point in POINTS if point.step.name != "set-aside"]

each_point = pytest.mark.parametrize("point", POINTS, ids=str)


@pytest.fixture
def subject(bed: Bed, point: FaultPoint) -> Subject:
    """Prepared for a call that is repeated until it is answered OK."""
    return PREPARE[point.operation](bed, point, retried=True)


@pytest.fixture
def left(bed: Bed, point: FaultPoint) -> Subject:
    """Prepared for a call that is never made again."""
    return PREPARE[point.operation](bed, point, retried=False)


def die_at(subject: Subject, point: FaultPoint) -> None:
    """Make the call; the process dies at the point, and another one is started."""
    bed = subject.bed
    bed.faults.arm(str(point), "kill")
    error = subject.begin().exception()
    assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert bed.faults.armed() == []
    assert bed.processes["node"].wait() == -9
    bed.start("node")


def retry(subject: Subject) -> None:
    """Repeat the call until it is answered OK, and once more; compare."""
    for _ in range(2):
        subject.bed.until_ok(subject.call)
        see_done(subject, subject.call)
    if subject.call.method == "NodeStageVolume":
        (subject.bed.staging(subject.volume_id) / "data").write_text(DATA)
        subject.content = DATA
    subject.end()


@each_point
@counted("killed, retried")
def test_killed_there_the_retry_finishes_it(point: FaultPoint, subject: Subject):
    die_at(subject, point)
    retry(subject)


@pytest.mark.parametrize("point", LEFT, ids=str)
@counted("killed, never retried")
def test_killed_there_and_not_retried_the_next_call_goes_on(point: FaultPoint, left: Subject):
    die_at(left, point)
    left.bed.until_ok(left.instead)
    see_done(left, left.instead)
    left.end()


@each_point
@counted("answer lost")
def test_when_the_answer_is_lost_there_the_retry_gets_it(point: FaultPoint, subject: Subject):
    bed = subject.bed
    bed.faults.arm(str(point), "pause")
    first = subject.begin()
    bed.faults.wait_until_paused(first)
    first.cancel()
    assert bed.refused(subject.instead).code() is grpc.StatusCode.ABORTED
    second = bed.begin(subject.call)
    bed.faults.resume()
    error = second.exception()
    assert error is None or point.step.undoing or error.code() in NON_FINAL
    retry(subject)


@pytest.mark.parametrize("point", WRITES, ids=str)
@counted("store failed")
def test_when_the_write_fails_there_the_retry_finishes_it(point: FaultPoint, subject: Subject):
    subject.bed.faults.arm(str(point), "fail")
    assert subject.begin().exception().code() in NON_FINAL
    assert subject.bed.faults.armed() == []
    if point.operation == "stage" and not point.step.undoing:
        now = subject.bed.inventory()
        assert (now.mounts, now.loop_devices, now.node_states) == ((), (), frozenset())
    retry(subject)


def test_every_operation_has_a_scenario():
    assert set(PREPARE) == set(OPERATIONS)
