"""The ``kubernetes`` store when the API server loses answers, refuses, is slow or away."""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Callable, Iterator

import pytest
from msgspec.structs import replace

from csi_driver.base.errors import ConfigurationError
from csi_driver.base.values import Confirmation, Formatting, FormattingState
from csi_driver.cinderlib.persistence.kubernetes import schemas
from csi_driver.cinderlib.persistence.kubernetes.cache import Cache
from csi_driver.cinderlib.persistence.kubernetes.store import WRITE_SECONDS, KubernetesStore
from csi_driver.cinderlib.persistence.records import KeyValueRecord, VolumeRecord
from csi_driver.cinderlib.persistence.store import (
    RecordConflict,
    RecordExists,
    StoreUnavailable,
)
from csi_driver.cli.cluster_nodes import ClusterNodes
from csi_driver.kube.api import Api, Object
from csi_driver.kube.group import collection
from csi_driver.kube.node_objects import CONFIRMATIONS, confirmation_object
from tests.cluster.apiserver import ADMIN_TOKEN, ApiServer
from tests.cluster.fault_proxy import PASS, FaultProxy, Verdict
from tests.support.waiting import wait_until

VOLUMES = collection("cindervolumes")
LOST = Verdict(lose=True)
NEVER_ARRIVED = Verdict(lose=True, forward=False)
_drivers = itertools.count()


@pytest.fixture
def driver() -> str:
    return f"faults-{next(_drivers)}.example.com"


class Time:
    """Time that passes only while the store waits."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waited: list[float] = []

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.now += seconds

    def clock(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def store(proxy: FaultProxy, driver: str, time: Time) -> Iterator[KubernetesStore]:
    store = KubernetesStore(Api(proxy.connection()), driver, wait=time.wait, clock=time.clock)
    proxy.seen.clear()
    yield store
    proxy.judge = lambda verb, path: PASS
    store.close()


@pytest.fixture
def stored(apiserver: ApiServer, driver: str) -> Callable[[], list[Object]]:
    """The volumes of the store, as the API server has them."""
    query = {"labelSelector": f"cinderlib.io/driver={driver}"}
    return lambda: apiserver.admin.list(VOLUMES, query)[0]


def writes(proxy: FaultProxy) -> list[str]:
    return [each for each in proxy.seen if not each.startswith("GET")]


@pytest.mark.parametrize("verdict", [LOST, NEVER_ARRIVED, Verdict(status=500)])
@pytest.mark.parametrize("verb", ["POST", "PUT"])
def test_a_change_whose_answer_is_lost_is_made_once(
    store,
    proxy,
    stored,
    volume,
    verb,
    verdict,
):
    first = None if verb == "POST" else store.put(volume())
    proxy.once(verb, verdict)
    asked = volume(size_gib=7) if first is None else replace(first, size_gib=7)
    made = store.put(asked)
    assert made == replace(asked, version=made.version)
    assert store.get(VolumeRecord, "v-1") == made
    (item,) = stored()
    assert item["spec"]["sizeGiB"] == 7
    assert item["status"]["recordVersion"] == made.version


@pytest.mark.parametrize("verdict", [LOST, NEVER_ARRIVED, Verdict(status=500)])
@pytest.mark.parametrize("verb", ["PUT", "DELETE"])
def test_a_removal_whose_answer_is_lost_is_made_once(
    store,
    proxy,
    stored,
    volume,
    verb,
    verdict,
):
    made = store.put(volume())
    proxy.once(verb, verdict)
    store.delete(made)
    assert store.get(VolumeRecord, "v-1") is None
    assert stored() == []
    store.delete(made)


def test_a_removal_whose_answer_is_lost_is_not_undone_by_a_watch_that_comes_late(
    store,
    proxy,
    volume,
    monkeypatch,
):
    """It tells of the object without its finalizer first, and then that it is gone."""
    made = store.put(volume())
    store.put(volume("v-2"))
    followed, lost = threading.Event(), [LOST]

    def judge(verb: str, path: str) -> Verdict:
        if "watch=" in path:
            return Verdict(until=followed)
        return lost.pop() if verb == "DELETE" and lost else PASS

    proxy.judge = judge
    proxy.cut()
    store.delete(made)
    found, removed = [], Cache.removed

    def look_before(cache: Cache, item: Object) -> None:
        found.append(store.get(VolumeRecord, "v-1"))
        removed(cache, item)

    monkeypatch.setattr(Cache, "removed", look_before)
    followed.set()
    wait_until("the watch tells of the removal", lambda: bool(found))
    assert found == [None]


def test_another_s_record_is_never_taken_for_one_s_own(
    store,
    proxy,
    apiserver,
    driver,
    volume,
):
    """The answer is lost, and what is found under the id is another writer's."""
    other = KubernetesStore(Api(apiserver.connection(ADMIN_TOKEN)), driver)
    try:

        def judge(verb: str, path: str) -> Verdict:
            if verb != "POST":
                return PASS
            proxy.judge = lambda verb, path: PASS
            other.put(volume(size_gib=9))
            return NEVER_ARRIVED

        proxy.judge = judge
        with pytest.raises(RecordExists):
            store.put(volume(size_gib=7))
        assert store.get(VolumeRecord, "v-1").size_gib == 9
    finally:
        other.close()


def test_a_server_that_asks_to_come_back_later_is_obeyed(store, proxy, time, volume):
    proxy.once("POST", Verdict(forward=False, status=429, retry_after="3"))
    store.put(volume())
    assert time.waited == [3.0]


def test_without_an_answer_a_write_fails_within_its_time_and_reads_go_on(
    store,
    proxy,
    time,
    volume,
):
    made = store.put(volume())
    proxy.judge = lambda verb, path: NEVER_ARRIVED
    proxy.cut()
    with pytest.raises(StoreUnavailable, match="cannot be stored"):
        store.put(replace(made, size_gib=2))
    assert time.now <= WRITE_SECONDS
    assert store.get(VolumeRecord, "v-1") == made
    assert store.list(VolumeRecord) == [made]
    wait_until("the reader is told", lambda: store.stale_since is not None)
    proxy.judge = lambda verb, path: PASS
    wait_until("the watches go on", lambda: store.stale_since is None)
    assert store.put(replace(made, size_gib=2)).size_gib == 2


def test_a_write_that_waited_for_the_leadership_has_its_whole_time_again(
    proxy, driver, time, volume
):
    """Most of its time is used up when the leader becomes uncertain, for long."""
    tries: list[float] = []

    def may_write() -> None:
        tries.append(time.now)
        if len(tries) == 2:
            time.now += 1000.0

    def judge(verb: str, path: str) -> Verdict:
        if verb != "POST" or len(tries) == 6:
            return PASS
        if len(tries) == 1:
            time.now += WRITE_SECONDS - 1.0
        return NEVER_ARRIVED

    store = KubernetesStore(
        Api(proxy.connection()), driver, may_write=may_write, wait=time.wait, clock=time.clock
    )
    try:
        proxy.judge = judge
        store.put(volume())
        assert len(tries) == 6
    finally:
        store.close()


def test_a_refusal_is_not_tried_again(store, proxy, volume):
    proxy.once("POST", Verdict(forward=False, status=403))
    with pytest.raises(StoreUnavailable, match="403"):
        store.put(volume())
    assert len(writes(proxy)) == 1


def test_what_others_do_to_an_object_s_metadata_is_no_conflict(
    store,
    apiserver,
    stored,
    volume,
):
    made = store.put(volume())
    (item,) = stored()
    path = f"{VOLUMES}/{item['metadata']['name']}"
    apiserver.admin.patch(path, {"metadata": {"labels": {"team": "storage"}}})
    changed = store.put(replace(made, size_gib=2))
    (item,) = stored()
    assert (item["metadata"]["labels"]["team"], item["spec"]["sizeGiB"]) == ("storage", 2)
    apiserver.admin.patch(path, {"metadata": {"labels": {"team": "network"}}})
    store.delete(changed)
    assert stored() == []


@pytest.mark.parametrize("verdict", [LOST, NEVER_ARRIVED])
def test_a_lost_answer_to_the_installation_leaves_it_made_by_this_store(
    proxy, apiserver, driver, verdict
):
    installation = f"{collection('cinderinstallations')}/{driver}"
    proxy.once("POST", verdict)
    if verdict is NEVER_ARRIVED:
        with pytest.raises(StoreUnavailable):
            KubernetesStore(Api(proxy.connection()), driver)
    store = KubernetesStore(Api(proxy.connection()), driver)
    store.close()
    assert store.fresh
    assert apiserver.admin.get(installation)["spec"]["installationID"] == store.installation_id


@pytest.mark.parametrize("verdict", [LOST, NEVER_ARRIVED, Verdict(status=500)])
def test_a_confirmation_is_dropped_though_an_answer_is_lost(proxy, store, driver, verdict):
    api = Api(proxy.connection())
    said = Confirmation(
        volume_id=str(uuid.uuid4()), formatting=Formatting(state=FormattingState.FORMATTED)
    )
    api.create(CONFIRMATIONS, confirmation_object(said, "n1", driver))
    nodes = ClusterNodes(api, driver, lambda volume, node: True, store.persistently)
    try:
        assert nodes.confirmation(said.volume_id) == said
        proxy.once("DELETE", verdict)
        nodes.forget(said.volume_id)
        assert nodes.confirmation(said.volume_id) is None
    finally:
        nodes.close()


def test_another_controller_s_change_is_a_conflict(
    store,
    apiserver,
    driver,
    volume,
):
    made = store.put(volume())
    other = KubernetesStore(Api(apiserver.connection(ADMIN_TOKEN)), driver)
    try:
        assert not other.fresh
        assert other.installation_id == store.installation_id
        theirs = other.put(replace(other.get(VolumeRecord, "v-1"), size_gib=5))
    finally:
        other.close()
    with pytest.raises(RecordConflict):
        store.put(replace(made, size_gib=2))
    with pytest.raises(RecordConflict):
        store.delete(made)
    assert store.get(VolumeRecord, "v-1") == theirs


def test_a_deletion_by_hand_waits_while_the_backend_has_the_volume(
    store,
    apiserver,
    stored,
    volume,
):
    made = store.put(volume())
    (item,) = stored()
    apiserver.admin.delete(f"{VOLUMES}/{item['metadata']['name']}")
    (item,) = stored()
    assert item["metadata"]["deletionTimestamp"]
    changed = store.put(replace(made, size_gib=2))
    assert store.get(VolumeRecord, "v-1") == changed
    store.delete(changed)
    assert stored() == []


@pytest.mark.parametrize("path", ["/cinderinstallations/", "/cindervolumes?"])
@pytest.mark.parametrize("verdict", [Verdict(status=410), Verdict(status=429), NEVER_ARRIVED])
def test_reading_all_anew_survives_a_request_that_breaks(
    apiserver, store, proxy, driver, volume, path, verdict
):
    other = KubernetesStore(Api(apiserver.connection(ADMIN_TOKEN)), driver)
    other.put(volume("1"))
    pending = [verdict]
    proxy.judge = lambda verb, asked: pending.pop() if pending and path in asked else PASS
    store.refresh()
    assert not pending
    assert store.get(VolumeRecord, "1") is not None
    other.close()


def test_a_change_costs_one_request(store, proxy, volume):
    made = store.put(volume())
    store.put(replace(made, size_gib=2))
    store.get(VolumeRecord, "v-1")
    store.list(VolumeRecord, where={"name": "name of v-1"})
    assert [each.split()[0] for each in proxy.seen if "watch=true" not in each] == ["POST", "PUT"]


def test_an_object_that_is_no_record_is_named_and_hides_no_other(
    store,
    apiserver,
    stored,
    volume,
):
    store.put(volume("v-1"))
    other = store.put(volume("v-2"))
    name = next(i["metadata"]["name"] for i in stored() if i["spec"]["id"] == "v-1")
    apiserver.admin.patch(f"{VOLUMES}/{name}", {"spec": {"sizeGiB": None}})

    def damaged() -> bool:
        try:
            return store.get(VolumeRecord, "v-1") is None
        except Exception as error:
            return name in str(error)

    wait_until("the damage is told", damaged)
    assert store.get(VolumeRecord, "v-2") == other
    assert store.list(VolumeRecord, where={"name": "name of v-2"}) == [other]


def test_definitions_that_are_missing_or_old_are_named(apiserver, driver):
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    path = f"{definitions}/cinderkeyvalues.cinderlib.io"
    api = Api(apiserver.connection(ADMIN_TOKEN))
    item = apiserver.admin.get(path)
    try:
        old = {"metadata": {"annotations": {"cinderlib.io/schema": "0"}}}
        apiserver.admin.patch(path, old)
        with pytest.raises(ConfigurationError, match=r"cinderkeyvalues.*schema 0.*older"):
            KubernetesStore(api, driver)
        apiserver.admin.delete(path)
        wait_until("it is gone", lambda: path not in _paths(apiserver, definitions))
        with pytest.raises(ConfigurationError, match=r"lacks .*cinderkeyvalues"):
            KubernetesStore(api, driver)
    finally:
        apiserver.apply(*(d for d in schemas.definitions() if d["metadata"]["name"] in path))
    assert item["metadata"]["name"] in path
    store = KubernetesStore(api, driver)
    store.put(KeyValueRecord(id="works", value=1))
    store.close()


def _paths(server: ApiServer, definitions: str) -> list[str]:
    return [f"{definitions}/{d['metadata']['name']}" for d in server.admin.list(definitions)[0]]
