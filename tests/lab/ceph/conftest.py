"""One cluster for all tests here, and backends on it; every test leaves the pool empty."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import csi_driver.cinderlib as cinderlib
from csi_driver.cinderlib import session
from csi_driver.cinderlib.persistence.memory import MemoryStore
from tests.lab.ceph import cluster as ceph
from tests.lab.ceph.cluster import Cluster
from tests.lab.ceph.pool import Pool
from tests.support import cinder_process

DRIVER = "cinder.volume.drivers.rbd.RBDDriver"
OP_SECONDS = 3
"""``rados_connect_timeout`` of the tests: how long an operation waits for a frozen daemon."""

Options = Callable[..., dict[str, Any]]

_numbers = itertools.count()


@pytest.fixture(scope="session")
def bindings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with Debian's rados and rbd, on this process's path before Cinder looks."""
    if reason := ceph.missing():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("bindings") / "modules"
    ceph.link_bindings(directory)
    sys.path.append(str(directory))
    return directory


@pytest.fixture(scope="session")
def cluster(bindings: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("ceph")) as running:
        yield running


@pytest.fixture(scope="session")
def connected(cluster: Cluster) -> Iterator[Pool]:
    with Pool(cluster.conf) as pool:
        yield pool


@pytest.fixture
def pool(connected: Pool) -> Iterator[Pool]:
    """The pool, which the test has to leave empty."""
    yield connected
    left = connected.left()
    connected.clear()
    assert left == set()


@pytest.fixture(params=["clone v2", "clone v1"])
def clone_format(request: pytest.FixtureRequest) -> str:
    """How librbd makes clones: v1, by protected snapshots, is that of older clusters."""
    return str(request.param)[-1]


@pytest.fixture(scope="session")
def options(cluster: Cluster) -> Options:
    """Options of a backend."""

    def options(clone_format: str = "2", **given: Any) -> dict[str, Any]:
        conf = cluster.configuration(
            f"clone-v{clone_format}", {"rbd default clone format": clone_format}
        )
        return {
            "volume_driver": DRIVER,
            "rbd_ceph_conf": str(conf),
            "rbd_user": ceph.USER,
            "rbd_pool": ceph.POOL,
            "rbd_keyring_conf": str(cluster.keyring),
            "rados_connect_timeout": OP_SECONDS,
            "rados_connection_retries": 1,
            "rados_connection_interval": 1,
            **given,
        }

    return options


@pytest.fixture
def make(
    options: Options, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., cinderlib.Backend]]:
    """Makes backends, in a session of the test's own."""
    runtime = cinder_process.set_up()
    monkeypatch.setattr(session, "_session", session.Session(runtime, MemoryStore()))

    def make(clone_format: str = "2", **given: Any) -> cinderlib.Backend:
        return cinderlib.Backend(f"ceph{next(_numbers)}", **options(clone_format, **given))

    yield make
    for backend in list(cinderlib.Backend.backends.values()):
        backend.close()


@pytest.fixture
def backend(make: Callable[..., cinderlib.Backend]) -> cinderlib.Backend:
    return make()
