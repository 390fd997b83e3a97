"""Children that are read lazily, and the objects that a process knows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

import csi_driver.cinderlib as cinderlib
from csi_driver.cinderlib import tracking
from csi_driver.cinderlib.persistence.memory import MemoryStore
from csi_driver.cinderlib.persistence.records import SnapshotRecord, VolumeRecord
from tests.unit.cinderlib.conftest import Make


@pytest.fixture(autouse=True)
def nothing_known() -> None:
    for kind in (cinderlib.Volume, cinderlib.Snapshot, cinderlib.Connection):
        kind.objects.clear()


class Reads:
    """How often the store was asked for lists of a kind."""

    def __init__(self, store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kinds: list[type] = []
        read = store.list

        def counted(kind: type, **where: object) -> list:  # type: ignore[type-arg]
            self.kinds.append(kind)
            return read(kind, **where)  # type: ignore[arg-type, type-var]

        monkeypatch.setattr(store, "list", counted)


# -- children ------------------------------------------------------------------


def test_children_are_read_once_and_again_after_refresh(
    backend: cinderlib.Backend, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = backend.create_volume(1)
    snapshot = volume.create_snapshot()
    reads = Reads(store, monkeypatch)

    assert volume.snapshots == volume.snapshots == [snapshot]
    assert backend.volumes == backend.volumes == [volume]
    assert (reads.kinds.count(SnapshotRecord), reads.kinds.count(VolumeRecord)) == (1, 1)

    volume.refresh()
    backend.refresh()
    assert (volume.snapshots, backend.volumes) == ([snapshot], [volume])
    assert (reads.kinds.count(SnapshotRecord), reads.kinds.count(VolumeRecord)) == (2, 2)


def test_what_this_process_changes_shows_at_once_and_what_another_does_after_refresh(
    backend: cinderlib.Backend, store: MemoryStore
) -> None:
    volume = backend.create_volume(1)
    other = cinderlib.Volume.get_by_id(volume.id)
    assert (volume.snapshots, other.snapshots) == ([], [])

    snapshot = volume.create_snapshot()
    assert other.snapshots == [snapshot]

    store.delete(store.get(SnapshotRecord, snapshot.id))  # type: ignore[arg-type]
    assert other.snapshots == [snapshot]
    other.refresh()
    assert other.snapshots == []


def test_children_are_ordered_unique_and_found_by_in(backend: cinderlib.Backend) -> None:
    volumes = [backend.create_volume(1) for _ in range(12)]

    assert backend.volumes == volumes
    assert cinderlib.Volume.get_by_id(volumes[3].id) in backend.volumes
    assert len({*backend.volumes, *volumes}) == 12
    assert volumes[0] != volumes[1]
    assert volumes[0] not in volumes[0].snapshots


def test_the_list_of_a_caller_is_its_own(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(1)

    backend.volumes.clear()

    assert backend.volumes == [volume]


def test_a_child_has_the_very_object_it_came_from_as_its_volume(
    backend: cinderlib.Backend,
) -> None:
    volume = backend.create_volume(1)
    volume.create_snapshot()
    connection = volume.connect({"host": "node1"})

    assert volume.snapshots[0].volume is volume
    assert volume.connections[0].volume is volume
    assert connection.volume is volume


# -- everything known ----------------------------------------------------------


def test_deleted_and_disconnected_objects_stay_known_with_their_last_state(
    backend: cinderlib.Backend,
) -> None:
    volume = backend.create_volume(1, name="data")
    snapshot = volume.create_snapshot("cut")
    connection = volume.connect({"host": "node1", "ip": "192.0.2.1"})
    connection.disconnect()
    cinderlib.Snapshot.get_by_id(snapshot.id).delete()
    cinderlib.Volume.get_by_id(volume.id).delete()

    (known,) = cinderlib.Volume.objects
    assert (known.id, known.name, known.status, known.deleted) == (
        volume.id,
        "data",
        "deleted",
        True,
    )
    assert known.deleted_at >= known.created_at
    (cut,) = cinderlib.Snapshot.objects
    assert (cut.status, cut.volume.id, cut.volume.status) == ("deleted", volume.id, "deleted")
    (ended,) = cinderlib.Connection.objects
    assert (ended.status, ended.connector["host"], ended.volume.id) == (
        "detached",
        "node1",
        volume.id,
    )
    assert volume in cinderlib.Volume.objects
    assert snapshot not in cinderlib.Volume.objects
    with pytest.raises(cinderlib.VolumeNotFound):
        cinderlib.Volume.get_by_id(volume.id)


def test_known_objects_are_in_the_order_in_which_they_became_known(
    backend: cinderlib.Backend,
) -> None:
    volumes = [backend.create_volume(1) for _ in range(5)]
    volumes[1].delete()
    volumes[0].extend(2)

    assert list(cinderlib.Volume.objects) == volumes
    assert [volume.size for volume in cinderlib.Volume.objects] == [2, 1, 1, 1, 1]


def test_of_too_many_known_objects_the_deleted_go_first(
    backend: cinderlib.Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cinderlib.Volume.objects, "limit", 3)
    first, second, third = (backend.create_volume(1) for _ in range(3))
    second.delete()

    fourth = backend.create_volume(1)
    assert list(cinderlib.Volume.objects) == [first, third, fourth]

    fifth = backend.create_volume(1)
    assert list(cinderlib.Volume.objects) == [third, fourth, fifth]
    assert backend.volumes == [first, third, fourth, fifth]


def test_an_older_record_is_no_news() -> None:
    known = tracking.KnownObjects(lambda one: one.record)
    old, new = (
        VolumeRecord(
            id="v",
            name=name,
            backend="b",
            phase="available",
            size_gib=1,
            cinder_id="c",
            created_at=1.0,
            version=version,
        )
        for name, version in (("old", 1), ("new", 2))
    )
    known.note(new, store=1)
    known.note(old, store=1)
    assert [record.name for record in known] == ["new"]

    known.note(new, store=1, deleted_at=2.0)
    known.note(new, store=1)
    assert known._existing == {}

    known.note(old, store=2)
    assert [record.name for record in known] == ["old"]


def test_changes_that_are_forgotten_only_make_readers_read_again() -> None:
    changes = tracking._Changes(limit=2)
    changes.add("volume", "a")
    seen = changes.last("volume", "a")
    for parent in "bcd":
        changes.add("volume", parent)

    assert changes.last("volume", "a") != seen
    forgotten = changes.last("volume", "a")
    changes.add("volume", "a")
    assert changes.last("volume", "a") > forgotten


def test_threads_may_go_through_what_others_change(make: Make) -> None:
    backend = make()

    def live(_: int) -> None:
        volume = backend.create_volume(1)
        assert volume in backend.volumes
        assert volume in cinderlib.Volume.objects
        volume.delete()
        assert volume not in backend.volumes

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(live, range(40)))

    assert backend.volumes == []
    assert {volume.status for volume in cinderlib.Volume.objects} == {"deleted"}
