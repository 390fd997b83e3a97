"""A copy of a collection stays true: through breaks, restarts and expired versions."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator

import pytest

from csi_driver.kube.api import Api, Object
from csi_driver.kube.errors import ApiExpired
from csi_driver.kube.reflector import Reflector
from tests.cluster.apiserver import ADMIN_TOKEN, ApiServer
from tests.support.waiting import wait_until

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
_labels = itertools.count()


class Copy:
    """What a reflector tells, by name; ``_lock`` protects it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items: dict[str, str] = {}
        self.lists = 0

    def replace(self, objects: Iterable[Object], resource_version: int) -> None:
        with self._lock:
            self.lists += 1
            self._items = {each["metadata"]["name"]: each["data"]["v"] for each in objects}

    def changed(self, item: Object) -> None:
        with self._lock:
            self._items[item["metadata"]["name"]] = item["data"]["v"]

    def removed(self, item: Object) -> None:
        with self._lock:
            self._items.pop(item["metadata"]["name"], None)

    def items(self) -> dict[str, str]:
        with self._lock:
            return dict(self._items)


class Collection:
    """ConfigMaps of one test, written by the administrator."""

    def __init__(self, server: ApiServer) -> None:
        self.label = f"test-{next(_labels)}"
        self.query = {"labelSelector": f"of={self.label}"}
        self._api = server.admin

    def put(self, name: str, value: str) -> None:
        item = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"{self.label}-{name}", "labels": {"of": self.label}},
            "data": {"v": value},
        }
        path = f"{CONFIG_MAPS}/{self.label}-{name}"
        self._api.patch(path, item, "application/apply-patch+yaml", fieldManager="t", force="true")

    def remove(self, name: str) -> None:
        self._api.delete(f"{CONFIG_MAPS}/{self.label}-{name}")

    def named(self, **items: str) -> dict[str, str]:
        return {f"{self.label}-{name}": value for name, value in items.items()}


@pytest.fixture
def collection(apiserver: ApiServer) -> Collection:
    return Collection(apiserver)


@pytest.fixture
def copy() -> Copy:
    return Copy()


@pytest.fixture
def follow(
    apiserver: ApiServer, collection: Collection, copy: Copy
) -> Iterator[Callable[[], Reflector]]:
    made: list[Reflector] = []

    def start() -> Reflector:
        api = Api(apiserver.connection(ADMIN_TOKEN))
        made.append(Reflector(api, CONFIG_MAPS, copy, collection.query))
        made[-1].start()
        assert made[-1].synced(30)
        return made[-1]

    yield start
    for each in made:
        each.stop()


def test_what_is_there_and_what_changes_is_known(collection, copy, follow):
    collection.put("a", "1")
    follow()
    assert copy.items() == collection.named(a="1")
    collection.put("b", "1")
    collection.put("a", "2")
    collection.remove("b")
    collection.put("c", "1")
    wait_until("all is known", lambda: copy.items() == collection.named(a="2", c="1"))
    assert copy.lists == 1


def test_a_restart_of_the_api_server_loses_no_change(apiserver, collection, copy, follow):
    collection.put("a", "1")
    collection.put("b", "1")
    reflector = follow()
    apiserver.kill()
    wait_until("the break is noticed", lambda: reflector.out_of_touch_since is not None)
    assert reflector.error is not None
    assert copy.items() == collection.named(a="1", b="1"), "what is known stays readable"
    apiserver.start()
    collection.put("a", "2")
    collection.remove("b")
    wait_until("it is followed again", lambda: reflector.out_of_touch_since is None)
    wait_until("all is known", lambda: copy.items() == collection.named(a="2"))


def test_an_expired_version_is_listed_anew(apiserver, collection, copy, follow, monkeypatch):
    """The first watch is refused as the API server refuses a version that etcd compacted."""
    collection.put("a", "1")
    watch, refused = Api.watch, []

    def expired_once(self: Api, path: str, *args: object, **kwargs: object) -> object:
        if not refused:
            refused.append(path)
            collection.remove("a")
            collection.put("b", "1")
            raise ApiExpired("too old resource version", status=410)
        return watch(self, path, *args, **kwargs)

    monkeypatch.setattr(Api, "watch", expired_once)
    follow()
    wait_until("the list was read anew", lambda: copy.items() == collection.named(b="1"))
    assert copy.lists == 2


def test_a_list_whose_next_page_expired_is_read_anew_and_more_slowly_each_time(
    apiserver, collection, copy, monkeypatch
):
    """Its continuation is refused, as the API server does when etcd compacted meanwhile."""
    collection.put("a", "1")
    stream, waited, times = Api.stream, [], 4

    def breaks(
        self: Api, path: str, *args: object, **kwargs: object
    ) -> tuple[Iterator[Object], str]:
        nonlocal times
        found, version = stream(self, path, *args, **kwargs)
        times -= 1
        return (found if times < 0 else broken(found)), version

    def broken(found: Iterator[Object]) -> Iterator[Object]:
        yield next(found)
        raise ApiExpired("The provided continue parameter is too old", status=410)

    monkeypatch.setattr(Api, "stream", breaks)
    api = Api(apiserver.connection(ADMIN_TOKEN))
    reflector = Reflector(api, CONFIG_MAPS, copy, collection.query, wait=waited.append)
    reflector.start()
    assert reflector.synced(30)
    wait_until("it is followed", lambda: reflector.out_of_touch_since is None)
    assert copy.items() == collection.named(a="1")
    assert copy.lists == 5
    assert len(waited) == 3, "the first time it is read anew at once"
    reflector.stop()
    assert waited[0] < waited[2]


def test_the_api_server_says_when_a_version_is_too_old(apiserver):
    """The event that ends such a watch is an ApiExpired here."""
    api = Api(apiserver.connection(ADMIN_TOKEN))
    with pytest.raises(ApiExpired):
        for _ in api.watch(CONFIG_MAPS, "1", seconds=5):
            pass


def test_a_defect_in_what_is_told_does_not_end_the_following(collection, copy, follow, monkeypatch):
    monkeypatch.setattr("csi_driver.kube.reflector._LONGEST_DELAY", 0.05)
    follow()
    broken = [True]
    changed = copy.changed

    def fails_once(item: Object) -> None:
        if broken.pop() if broken else False:
            raise KeyError("a defect")
        changed(item)

    monkeypatch.setattr(copy, "changed", fails_once)
    collection.put("a", "1")
    wait_until("it is known all the same", lambda: copy.items() == collection.named(a="1"))


def test_stopping_ends_the_thread_while_it_waits_for_events(follow):
    reflector = follow()
    reflector.stop()
    assert not any(each.name == "watch configmaps" for each in threading.enumerate())
