"""The crash matrix with the records in Kubernetes: the beds, and what of it runs by default."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from csi_driver.base.faults import WRITE
from tests.cluster.accounts import add_node, install
from tests.cluster.apiserver import ApiServer
from tests.cluster.crash.bed import ClusterBed, ShortGraceBed
from tests.crash.bed import Bed
from tests.crash.conftest import Beds, bed, bed_of, pytest_terminal_summary  # noqa: F401
from tests.crash.requests import NODE

EARLY = {"backend", "attaching", "checking", "formatting", "mounting", "confirming"}
"""Steps before what the store or the ledger decides."""


@pytest.fixture(scope="session")
def beds(apiserver: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beds]:
    install(apiserver)
    add_node(apiserver, NODE)
    beds = Beds(tmp_path_factory, lambda path, driver: ClusterBed(apiserver, path, driver))
    yield beds
    beds.end()


@pytest.fixture(scope="session")
def late_beds(
    beds: Beds, apiserver: ApiServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Beds]:
    late = Beds(tmp_path_factory, lambda path, driver: ShortGraceBed(apiserver, path, driver))
    yield late
    late.end()


@pytest.fixture
def late_bed_of(late_beds: Beds) -> Iterator[Callable[[str], Bed]]:
    """Gives the bed of a driver in which calls of an earlier controller end soon."""
    yield late_beds.get
    late_beds.tidy()


KILLED = {
    "test_killed_there_the_retry_finishes_it",
    "test_killed_there_it_is_reported_once",
    "test_killed_there_the_next_controller_reckons_with_it",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """By default the process is killed once at every point; and in the other ways each operation
    is broken where the backend is done and no record says so yet."""
    chosen: set[tuple[str, str]] = set()
    for item in items:
        if Path(__file__).parent not in item.path.parents or not hasattr(item, "callspec"):
            continue
        if "point" not in item.callspec.params:
            continue
        point = item.callspec.params["point"]
        test = item.originalname, point.operation
        if item.originalname in KILLED and item.callspec.params.get("operation") in (
            None,
            "create",
        ):
            continue
        if point.moment == WRITE and point.step.name not in EARLY and test not in chosen:
            chosen.add(test)
        else:
            item.add_marker(pytest.mark.full)
