"""The ``kubernetes`` store keeps every promise of a record store, against a real API server."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from csi_driver.cinderlib.persistence.kubernetes.store import KubernetesStore
from csi_driver.kube.api import Api
from tests.cluster.apiserver import ApiServer
from tests.unit.stores.conftest import volume  # noqa: F401
from tests.unit.stores.test_store_behaviour import *  # noqa: F403

_drivers = itertools.count()


@pytest.fixture
def store(apiserver: ApiServer) -> Iterator[KubernetesStore]:
    """A store of a driver of its own: every test finds it empty."""
    api = Api(apiserver.connection("admin-of-the-tests"))
    store = KubernetesStore(api, f"driver-{next(_drivers)}.example.com")
    yield store
    store.close()
