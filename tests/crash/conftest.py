"""Processes that are shared by many crash tests, and the figures at the end of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from csi_driver.controller import operations as controller
from csi_driver.node import operations as node
from tests.crash.bed import RUNS, Bed

FILE_DRIVER = ""
DISTURBED_DRIVER = "tests.crash.disturbed_driver.DisturbedDriver"
UNPROVING_DRIVER = "tests.crash.disturbed_driver.UnprovingDriver"


class Beds:
    """One bed per driver, made anew when a test has left something in it."""

    def __init__(
        self, factory: pytest.TempPathFactory, make: Callable[[Path, str], Bed] = Bed
    ) -> None:
        self._factory = factory
        self._make = make
        self._beds: dict[str, Bed] = {}

    def get(self, driver: str) -> Bed:
        if driver not in self._beds:
            self._beds[driver] = self._make(self._factory.mktemp("bed"), driver)
        return self._beds[driver]

    def tidy(self) -> None:
        """Throw away the beds in which something is left or a process is missing."""
        for driver, bed in list(self._beds.items()):
            if not bed.is_tidy():
                del self._beds[driver]
                bed.end()

    def end(self) -> None:
        for bed in self._beds.values():
            bed.end()


@pytest.fixture(scope="session")
def beds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beds]:
    beds = Beds(tmp_path_factory)
    yield beds
    beds.end()


@pytest.fixture
def bed_of(beds: Beds) -> Iterator[Callable[[str], Bed]]:
    """Gives the bed whose backend has a driver."""
    yield beds.get
    beds.tidy()


@pytest.fixture
def bed(bed_of: Callable[[str], Bed]) -> Bed:
    """The bed with the embedded backend."""
    return bed_of(FILE_DRIVER)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the number of points and of runs, once."""
    if not RUNS:
        return
    runs = ", ".join(f"{number} x {how}" for how, number in sorted(RUNS.items()))
    terminalreporter.write_line(
        f"crash matrix: {len(controller.fault_points())} fault points on the controller,"
        f" {len(node.fault_points())} on the node; {RUNS.total()} runs: {runs}"
    )
    RUNS.clear()
