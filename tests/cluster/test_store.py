"""The ``kubernetes`` store keeps every promise of a record store, against a real API server."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from csi_driver.cinderlib.persistence.kubernetes import schemas
from csi_driver.cinderlib.persistence.kubernetes.store import KubernetesStore
from csi_driver.cinderlib.persistence.records import VolumeRecord
from csi_driver.kube.api import Api
from csi_driver.kube.group import collection
from tests.cluster.apiserver import ADMIN_TOKEN, ApiServer
from tests.support.waiting import wait_until
from tests.unit.stores import test_store_behaviour
from tests.unit.stores.test_store_behaviour import *  # noqa: F403

_drivers = itertools.count()

NOT_HERE = {
    # A newer version's fields need that version's definitions: see below.
    "test_a_field_of_the_wrong_type_is_not_taken_for_a_newer_one",
}
for _name in NOT_HERE:
    del globals()[_name]


@pytest.fixture
def store(apiserver: ApiServer) -> Iterator[KubernetesStore]:
    """A store of a driver of its own: every test finds it empty."""
    api = Api(apiserver.connection(ADMIN_TOKEN))
    store = KubernetesStore(api, f"driver-{next(_drivers)}.example.com")
    yield store
    store.close()


def test_the_suite_of_all_stores_runs_here():
    own = {name for name in dir(test_store_behaviour) if name.startswith("test_")}
    left = own - globals().keys()
    assert left == NOT_HERE


def test_fields_of_a_newer_version_survive_a_change_by_this_one(store, apiserver, volume):
    """Definitions of a newer version are installed, and its controller wrote a field of theirs."""
    (mine,) = (d for d in schemas.definitions() if d["spec"]["names"]["kind"] == "CinderVolume")
    newer = copy.deepcopy(mine)
    (version,) = newer["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    spec["tier"] = {"type": "string"}
    made = store.put(volume())
    (name,) = (
        item["metadata"]["name"]
        for item in apiserver.admin.list(collection("cindervolumes"))[0]
        if item["status"]["recordVersion"] == made.version
    )
    path = f"{collection('cindervolumes')}/{name}"

    tiers = (f"gold-{number}" for number in itertools.count())

    def taken() -> bool:
        # Watches of before the change still tell objects without the field for a moment.
        apiserver.admin.patch(path, {"spec": {"tier": next(tiers)}})
        return b'"tier"' in store._caches[VolumeRecord].get(made.id).item

    try:
        apiserver.apply(newer)
        wait_until("the newer definition is served", taken)
        changed = store.put(replace(made, size_gib=2))
        item = apiserver.admin.get(path)
        assert item["spec"]["tier"].startswith("gold-")
        assert item["spec"]["sizeGiB"] == 2
        assert store.get(VolumeRecord, made.id) == changed
    finally:
        apiserver.apply(mine)
