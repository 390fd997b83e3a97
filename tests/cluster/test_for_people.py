"""What an administrator sees with kubectl: columns, conditions and Events; as the controller."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from csi_driver.cinderlib.persistence.kubernetes.store import KubernetesStore
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    Operation,
    OrphanRecord,
    Phase,
    VolumeRecord,
)
from csi_driver.kube.api import Object
from tests.cluster.accounts import add_node, api_of, install
from tests.cluster.apiserver import ApiServer
from tests.cluster.rows import row
from tests.support.waiting import wait_until

_drivers = itertools.count()


@pytest.fixture(scope="module")
def cluster(apiserver: ApiServer) -> ApiServer:
    install(apiserver)
    add_node(apiserver, "node-a")
    return apiserver


@pytest.fixture
def store(cluster: ApiServer) -> Iterator[KubernetesStore]:
    """Opened with the controller's own service account: its roles are enough."""
    api = api_of(cluster, "cinder-csi-controller", "node-a")
    store = KubernetesStore(api, f"people-{next(_drivers)}.example.com")
    yield store
    store.close()


@pytest.fixture
def made(volume: Callable[..., VolumeRecord]) -> VolumeRecord:
    metadata = {"csi.storage.k8s.io/pvc/name": "data-0"}
    return volume(
        str(uuid.uuid4()), name="pvc-1", phase=Phase.AVAILABLE, size_gib=3, metadata=metadata
    )


def connection(volume_id: str, node_id: str) -> ConnectionRecord:
    return ConnectionRecord(
        id=str(uuid.uuid4()),
        volume_id=volume_id,
        backend="main",
        phase=Phase.ATTACHED,
        cinder_id=str(uuid.uuid4()),
        created_at=1.0,
        node_id=node_id,
    )


def failing(error: str) -> Operation:
    return Operation(kind="create", step="backend", since=1.0, owner="host/1", last_error=error)


def events(cluster: ApiServer, name: str) -> list[Object]:
    query = {"fieldSelector": f"involvedObject.name={name}"}
    return cluster.admin.list("/api/v1/namespaces/default/events", query)[0]


def test_a_row_tells_what_it_is_where_and_how_far(cluster, store, made):
    creating = store.put(
        replace(made, phase=Phase.CREATING, operation=failing("the array is full"))
    )
    seen = row(cluster, "cindervolumes", made.id, "-o", "wide")
    assert seen["VOLUME"] == "pvc-1"
    assert (seen["SIZE GIB"], seen["BACKEND"], seen["PHASE"]) == ("3", "main", "creating")
    assert (seen["RUNNING"], seen["CLAIM"]) == ("create", "data-0")
    assert seen["LAST ERROR"] == "the array is full"
    store.put(replace(creating, phase=Phase.AVAILABLE, operation=None))
    seen = row(cluster, "cindervolumes", made.id)
    assert (seen["PHASE"], seen["RUNNING"]) == ("available", "")
    cluster.kubectl(
        "wait", "--for=condition=Ready", "--timeout=5s", f"cindervolumes.cinderlib.io/{made.id}"
    )


def test_a_volume_tells_where_it_is_attached(cluster, store, made):
    def attached() -> str:
        return row(cluster, "cindervolumes", made.id)["ATTACHED TO"]

    volume = store.put(made)
    first = store.put(connection(made.id, "node-a"))
    wait_until("one node is shown", lambda: attached() == "node-a")
    second = store.put(connection(made.id, "node-b"))
    wait_until("both nodes are shown", lambda: attached() == "node-a, node-b")
    store.delete(first)
    store.delete(second)
    wait_until("none is shown", lambda: attached() == "")
    store.put(replace(volume, size_gib=4))  # the column is no change of the record


def test_a_failure_is_told_once(cluster, store, made):
    one = store.put(replace(made, phase=Phase.CREATING, operation=failing("the array is full")))
    two = store.put(replace(one, operation=failing("the array is full")))
    store.put(replace(two, operation=failing("the array is on fire")))
    wait_until("both are told", lambda: len(events(cluster, made.id)) == 2)
    told = {(e["reason"], e["message"], e["type"]) for e in events(cluster, made.id)}
    assert told == {
        ("CreateFailed", "the array is full", "Warning"),
        ("CreateFailed", "the array is on fire", "Warning"),
    }
    assert "the array is on fire" in cluster.kubectl(
        "describe", "cindervolumes.cinderlib.io", made.id
    )


def test_an_orphan_is_told(cluster, store):
    orphan = OrphanRecord(
        id=str(uuid.uuid4()),
        kind="volume",
        backend="main",
        name="pvc-1",
        csi_id="x",
        since=1.0,
        reason="its deletion proves nothing",
    )
    store.put(orphan)
    wait_until("it is told", lambda: len(events(cluster, orphan.id)) == 1)
    (event,) = events(cluster, orphan.id)
    assert event["reason"] == "MayBeLeft"
    assert "its deletion proves nothing" in event["message"]


def test_a_deletion_by_hand_is_told_why_it_waits(cluster, store, made):
    volume = store.put(made)
    cluster.kubectl("delete", "--wait=false", "cindervolumes.cinderlib.io", made.id)
    wait_until("it is told", lambda: len(events(cluster, made.id)) == 1)
    assert "delete the PersistentVolume" in events(cluster, made.id)[0]["message"]
    store.delete(store.get(VolumeRecord, volume.id))


def test_a_standby_tells_nothing(cluster, made):
    def attempt(speaks: bool) -> Any:
        api = api_of(cluster, "cinder-csi-controller", "node-a")
        return KubernetesStore(api, "standby.example.com", speaks=lambda: speaks)

    leader, standby = attempt(True), attempt(False)
    try:
        leader.put(replace(made, phase=Phase.CREATING, operation=failing("once")))
        wait_until("the standby knows", lambda: standby.get(VolumeRecord, made.id) is not None)
        wait_until("it is told", lambda: len(events(cluster, made.id)) == 1)
    finally:
        standby.close()
        leader.close()
    assert len(events(cluster, made.id)) == 1
