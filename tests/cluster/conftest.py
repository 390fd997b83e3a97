"""What tests against a real API server share: one server for all of them.

They run by ``make test-kubernetes``, not by ``make test``.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from csi_driver.cinderlib.persistence.kubernetes import schemas
from tests.cluster.apiserver import ApiServer
from tests.cluster.binaries import Binaries, CannotBuild, binaries
from tests.cluster.fault_proxy import FaultProxy
from tests.cluster.volume_cluster import VolumeCluster
from tests.unit.stores.conftest import volume  # noqa: F401 - a fixture


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.kubernetes)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows the logs of the programs that the test used."""
    report = yield
    if report.failed:
        for used in getattr(item, "funcargs", {}).values():
            if isinstance(used, VolumeCluster):
                report.sections += list(used.logs().items())
                break
    return report


@pytest.fixture(scope="session")
def programs() -> Binaries:
    """Kubernetes' programs, built first where they are absent."""
    try:
        return binaries()
    except CannotBuild as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def apiserver(programs: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A running API server with our definitions."""
    server = ApiServer(programs, tmp_path_factory.mktemp("apiserver"))
    try:
        server.start()
        server.apply(*schemas.definitions())
        yield server
    finally:
        server.stop()


@pytest.fixture
def proxy(apiserver: ApiServer) -> Iterator[FaultProxy]:
    """Stands between a process and the API server."""
    made = FaultProxy(apiserver)
    yield made
    made.close()
