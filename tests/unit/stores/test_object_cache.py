"""The cache of the Kubernetes store: whole lists, and changes that come late."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import pytest

from csi_driver.cinderlib.persistence.kubernetes import objects
from csi_driver.cinderlib.persistence.kubernetes.cache import Cache
from csi_driver.cinderlib.persistence.kubernetes.resources import VOLUME
from csi_driver.cinderlib.persistence.records import Phase, VolumeRecord
from csi_driver.kube.api import Object
from csi_driver.kube.errors import ApiExpired

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def item(name: str, resource_version: int, phase: Phase = Phase.AVAILABLE, uid: str = "") -> Object:
    record = VolumeRecord(
        id=name, name=name, backend="b", phase=phase, size_gib=1, cinder_id="c", created_at=1.0
    )
    made = objects.to_object(record, 1, "csi.example.com", None, NOW)
    made["metadata"].update(uid=uid or f"uid-{name}", resourceVersion=str(resource_version))
    return made


def ids(cache: Cache, **selected: Any) -> list[str]:
    return [each.uid.removeprefix("uid-") for each in cache.page(selected, "", None)]


def test_a_list_takes_the_place_of_what_was_known():
    cache = Cache(VOLUME)
    cache.replace([item("a", 1), item("b", 2)], 2)
    cache.replace([item("b", 2), item("c", 3)], 3)
    assert ids(cache) == ["b", "c"]


def test_what_a_list_has_unchanged_is_kept_and_what_changed_is_read():
    cache = Cache(VOLUME)
    cache.replace([item("a", 1), item("b", 2)], 2)
    a, b = cache.get("a"), cache.get("b")
    cache.replace([item("a", 1), item("b", 5, Phase.DELETING)], 5)
    assert cache.get("a") is a
    assert cache.get("b") != b
    assert ids(cache, phase="deleting") == ["b"]
    assert ids(cache, phase="available") == ["a"]


def test_a_list_that_breaks_leaves_what_was_known():
    def broken() -> Iterator[Object]:
        yield item("c", 3)
        raise ApiExpired("the next page is gone")

    cache = Cache(VOLUME)
    cache.replace([item("a", 1)], 1)
    with pytest.raises(ApiExpired):
        cache.replace(broken(), 3)
    assert ids(cache) == ["a"]


def test_a_change_is_told_once():
    told = []
    cache = Cache(VOLUME, lambda before, after: told.append(after["metadata"]["resourceVersion"]))
    cache.changed(item("a", 1))
    cache.changed(item("a", 1))
    cache.changed(item("a", 2, Phase.DELETING))
    cache.changed(item("a", 1))
    assert told == ["1", "2"]
    assert ids(cache, phase="deleting") == ["a"]


def test_a_removed_object_stays_removed_for_an_older_list():
    cache = Cache(VOLUME)
    cache.changed(item("a", 1))
    cache.forget("a", 4, "uid-a")
    cache.replace([item("a", 1)], 3)
    assert ids(cache) == []


def test_a_removed_object_does_not_come_back_by_what_a_watch_tells_of_its_last_moments():
    """When it was removed is not known for certain: its finalizer went, and answers were lost."""
    cache = Cache(VOLUME)
    cache.changed(item("a", 1))
    cache.forget("a", 2, "uid-a")
    cache.changed(item("a", 7, Phase.DELETING))
    assert ids(cache) == []
    cache.removed(item("a", 8, Phase.DELETING))
    cache.changed(item("a", 9, uid="uid-another"))
    assert ids(cache) == ["another"]
    cache.removed(item("a", 8, Phase.DELETING))
    assert ids(cache) == ["another"]


def test_an_object_that_took_the_place_of_a_removed_one_is_known():
    cache = Cache(VOLUME)
    cache.changed(item("a", 5, uid="uid-another"))
    cache.forget("a", 4, "uid-a")
    assert ids(cache) == ["another"]
    cache.changed(item("a", 3))
    assert ids(cache) == ["another"]


def test_what_a_list_had_no_more_does_not_come_back_by_a_late_change():
    """A watch that lags behind the list tells what was before the removal, and then that."""
    cache = Cache(VOLUME)
    cache.replace([item("a", 1), item("b", 2)], 2)
    cache.replace([item("b", 2)], 9)
    cache.changed(item("a", 5, Phase.DELETING))
    assert ids(cache) == ["b"]
    cache.changed(item("a", 10))
    assert ids(cache) == ["a", "b"]


def test_an_older_list_that_ends_later_brings_nothing_back():
    cache = Cache(VOLUME)
    cache.replace([item("b", 2)], 9)
    cache.replace([item("a", 1), item("b", 2)], 5)
    assert ids(cache) == ["b"]
