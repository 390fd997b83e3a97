"""A deletion, broken between the tombstone and the removal of the record: two changes here."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest

from csi_driver.cinderlib.persistence.store import BETWEEN
from tests.crash.bed import Bed, counted
from tests.crash.conftest import FILE_DRIVER
from tests.crash.controller_scenarios import SCENARIOS
from tests.crash.requests import Call

pytestmark = [pytest.mark.root, pytest.mark.parametrize("operation", ["delete", "delete-snapshot"])]


@pytest.fixture
def bed(bed_of: Callable[[str], Bed]) -> Bed:
    return bed_of(FILE_DRIVER)


@pytest.fixture
def call(bed: Bed, operation: str) -> Call:
    """A deletion at which the controller was killed; another one is started."""
    call = SCENARIOS[operation].prepare(bed)
    bed.faults.arm(BETWEEN, "kill")
    assert bed.refused(call).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert bed.faults.armed() == []
    assert bed.processes["controller"].wait() == -9
    bed.start("controller")
    return call


def compare(bed: Bed, operation: str) -> None:
    """It is done, and nothing is left."""
    assert SCENARIOS[operation].view(bed) == SCENARIOS[operation].after
    now = bed.inventory()
    assert now.pending == ()
    assert now.strange_files == frozenset()
    bed.clear()


@counted("killed, retried")
def test_killed_between_them_the_retry_finishes_it(bed: Bed, call: Call, operation: str):
    answer = bed.until_ok(call)
    assert bed.until_ok(call) == answer
    compare(bed, operation)


@counted("killed, never retried")
def test_killed_between_them_and_never_retried_it_is_repaired(bed: Bed, call: Call, operation: str):
    bed.wait_until_repaired()
    compare(bed, operation)
