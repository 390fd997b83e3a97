"""`cinder-csi revert`, broken at every point of its row in the controller's table.

It is no RPC but a command that has the store for itself: the controller is stopped for it, and
started again when the command was killed.
"""

from __future__ import annotations

import os
import subprocess

import pytest

from csi_driver.base.faults import WRITE
from csi_driver.controller.operations import FaultPoint, fault_points
from tests.crash import requests
from tests.crash.bed import DATA, Bed, counted
from tests.support.driver_process import COMMAND

pytestmark = pytest.mark.root

POINTS = [point for point in fault_points() if point.operation == "revert"]
WRITES = [point for point in POINTS if point.moment == WRITE]

NEWER = "what was written after the cut"


class Revert:
    """A volume with newer data than its snapshot, and the command that puts it back."""

    def __init__(self, bed: Bed, point: FaultPoint) -> None:
        self.bed = bed
        self.volume_id = bed.copy_of_golden()
        cut = bed.until_ok(requests.snapshot("data", self.volume_id)).snapshot.snapshot_id
        (bed.stage(self.volume_id) / "data").write_text(NEWER)
        bed.unstage(self.volume_id)
        # A volume that was extended since is refused before anything is changed.
        self.refused = point.step.after_failure
        if self.refused:
            bed.until_ok(requests.expand(self.volume_id, 2))
        self._command = [COMMAND, "revert", self.volume_id, cut, "--state-dir", bed.state]
        bed.stop("controller")

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run the command."""
        return subprocess.run(
            self._command,
            env={**os.environ, **self.bed.environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def die_at(self, point: FaultPoint) -> None:
        """Run the command, which dies at the point."""
        self.bed.faults.arm(str(point), "kill")
        assert self.run().returncode == -9
        assert self.bed.faults.armed() == []

    def compare(self, content: str) -> None:
        """Start the controller and compare; in the end nothing is left."""
        self.bed.start("controller")
        self.bed.wait_until_repaired()
        (volume,) = self.bed.records("volume")
        assert volume["phase"] == "available"
        assert self.bed.inventory().strange_files == frozenset()
        assert self.bed.read(self.volume_id) == content
        self.bed.clear()


@pytest.fixture
def revert(bed: Bed, point: FaultPoint) -> Revert:
    return Revert(bed, point)


@pytest.mark.parametrize("point", POINTS, ids=str)
@counted("killed, never retried")
def test_killed_there_the_next_controller_finishes_it(point: FaultPoint, revert: Revert):
    revert.die_at(point)
    nothing_done = revert.refused or str(point) == "revert/backend/write"
    revert.compare(NEWER if nothing_done else DATA)


@pytest.mark.full
@pytest.mark.parametrize("point", POINTS, ids=str)
@counted("killed, retried")
def test_killed_there_the_command_finishes_it(point: FaultPoint, revert: Revert):
    revert.die_at(point)
    again = revert.run()
    assert again.returncode == (1 if revert.refused else 0), again.stderr
    revert.compare(NEWER if revert.refused else DATA)


@pytest.mark.full
@pytest.mark.parametrize("point", WRITES, ids=str)
@counted("store failed")
def test_when_the_store_fails_there_the_command_says_so(point: FaultPoint, revert: Revert):
    revert.bed.faults.arm(str(point), "fail")
    failed = revert.run()
    assert failed.returncode == 1
    assert f"A test made the write at {point} fail" in failed.stderr
    again = revert.run()
    assert again.returncode == (1 if revert.refused else 0), again.stderr
    revert.compare(NEWER if revert.refused else DATA)
