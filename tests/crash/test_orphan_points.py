"""The record of an orphan, broken: reported once, for the attempt that was lost, and no other."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest

from csi_driver.base.faults import WRITE
from csi_driver.controller.operations import FaultPoint, fault_points
from csi_driver.rpc.errors import NON_FINAL
from tests.crash import requests
from tests.crash.bed import Bed, counted
from tests.crash.conftest import UNPROVING_DRIVER
from tests.crash.requests import Call

pytestmark = pytest.mark.root

POINTS = [point for point in fault_points() if point.operation == "orphan"]
WRITES = [point for point in POINTS if point.moment == WRITE]


@pytest.fixture
def bed(bed_of: Callable[[str], Bed]) -> Bed:
    return bed_of(UNPROVING_DRIVER)


@pytest.fixture
def known(bed: Bed) -> set[str]:
    """The orphans of earlier tests."""
    return bed.orphans()


@pytest.fixture
def call(bed: Bed, known: set[str]) -> Call:
    """A creation whose driver fails when it has made the volume."""
    bed.faults.arm("driver/create_volume/after", "fail")
    return requests.create("data")


def compare(bed: Bed, known: set[str]) -> None:
    """One more orphan, and it is not the volume."""
    (volume,) = bed.records("volume", phase="available")
    (orphan,) = bed.orphans() - known
    assert volume["cinder_id"] != orphan
    assert bed.inventory().strange_files == frozenset()
    bed.clear()


@pytest.mark.parametrize("point", POINTS, ids=str)
@counted("killed, retried")
def test_killed_there_it_is_reported_once(bed: Bed, point: FaultPoint, call: Call, known: set[str]):
    bed.faults.arm(str(point), "kill")
    assert bed.refused(call).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert bed.faults.armed() == []
    assert bed.processes["controller"].wait() == -9
    bed.start("controller")
    bed.until_ok(call)
    compare(bed, known)


@pytest.mark.parametrize("point", POINTS, ids=str)
@counted("answer lost")
def test_when_the_answer_is_lost_there_it_is_reported_once(
    bed: Bed, point: FaultPoint, call: Call, known: set[str]
):
    bed.faults.arm(str(point), "pause")
    first = bed.begin(call)
    bed.faults.wait_until_paused(first)
    first.cancel()
    second = bed.begin(call)
    bed.faults.resume()
    second.exception()
    bed.until_ok(call)
    compare(bed, known)


@pytest.mark.parametrize("point", WRITES, ids=str)
@counted("store failed")
def test_when_the_store_fails_there_it_is_reported_once(
    bed: Bed, point: FaultPoint, call: Call, known: set[str]
):
    bed.faults.arm(str(point), "fail")
    assert bed.refused(call).code() in NON_FINAL
    assert bed.faults.armed() == []
    bed.until_ok(call)
    compare(bed, known)
