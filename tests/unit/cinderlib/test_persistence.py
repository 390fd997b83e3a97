"""Backend.persistence, key values, and a store that is exchanged while objects are in use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import csi_driver.cinderlib as cinderlib
from csi_driver.base.errors import InvalidRequest
from csi_driver.cinderlib import session
from csi_driver.cinderlib.key_value import KeyValue
from csi_driver.cinderlib.locks import ObjectLocks
from csi_driver.cinderlib.persistence.factory import open_store
from csi_driver.cinderlib.persistence.memory import MemoryStore
from csi_driver.cinderlib.persistence.records import KeyValueRecord, VolumeRecord
from csi_driver.cinderlib.persistence.store import RecordExists, StoreUnavailable
from csi_driver.cinderlib.runtime import bootstrap
from tests.unit.cinderlib.conftest import DOUBLE


@pytest.fixture
def backend(
    runtime: bootstrap.RuntimeSettings,
    store: MemoryStore,
    free_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[cinderlib.Backend]:
    monkeypatch.setattr(session, "_session", session.Session(runtime, store))
    yield cinderlib.Backend(free_name, volume_driver=DOUBLE)
    for backend in list(cinderlib.Backend.backends.values()):
        backend.close()
    session.current().store.close()


@pytest.fixture
def file_config(tmp_path: Path) -> dict[str, Any]:
    return {"storage": "db", "connection": f"sqlite:///{tmp_path / 'records.sqlite'}"}


def ids(objects: list[Any]) -> list[str]:
    return [each.id for each in objects]


# -- what cinderlib's users know -----------------------------------------------


def test_volumes_are_found_by_id_name_and_backend(backend: cinderlib.Backend) -> None:
    web, data = backend.create_volume(1, name="web"), backend.create_volume(2, name="data")
    found = backend.persistence
    assert ids(found.get_volumes()) == sorted([web.id, data.id])
    assert ids(found.get_volumes(volume_id=web.id)) == [web.id]
    assert ids(found.get_volumes(volume_name="data", backend_name=backend.id)) == [data.id]
    assert found.get_volumes(volume_id=web.id, volume_name="data") == []
    assert found.get_volumes(backend_name="another") == []
    assert found.get_volumes("nobody") == []
    assert found.get_volumes(volume_id=web.id)[0].size == 1


def test_snapshots_and_connections_are_found_by_their_volume(backend: cinderlib.Backend) -> None:
    volume, other = backend.create_volume(1), backend.create_volume(1)
    snapshot = volume.create_snapshot(name="before")
    connection = volume.connect({"host": "here", "initiator": "iqn.1993-08.org.debian:01:1"})
    found = cinderlib.Backend.persistence
    assert ids(found.get_snapshots(volume_id=volume.id)) == [snapshot.id]
    assert ids(found.get_snapshots(snapshot_name="before")) == [snapshot.id]
    assert ids(found.get_snapshots(snapshot_id=snapshot.id)) == [snapshot.id]
    assert found.get_snapshots(volume_id=other.id) == []
    assert ids(found.get_connections()) == [connection.id]
    assert ids(found.get_connections(connection.id, volume.id)) == [connection.id]
    assert found.get_connections(connection.id, other.id) == []


def test_key_values_are_set_replaced_and_deleted(backend: cinderlib.Backend) -> None:
    store = backend.persistence
    store.set_key_value(KeyValue("node-1", {"initiator": "iqn"}))
    store.set_key_value(KeyValue("node-0", [1, None]))
    store.set_key_value(cinderlib.KeyValue(key="node-1", value={"initiator": "iqn2"}))
    assert store.get_key_values() == [
        KeyValue("node-0", [1, None]),
        KeyValue("node-1", {"initiator": "iqn2"}),
    ]
    assert store.get_key_values("node-0") == [KeyValue("node-0", [1, None])]
    store.delete_key_value(KeyValue("node-0"))
    store.delete_key_value(KeyValue("node-0"))
    assert store.get_key_values("node-0") == []


@pytest.mark.parametrize("key", [None, "", "initiator-data/namespace/iqn"])
def test_a_key_is_text_that_no_driver_uses(backend: cinderlib.Backend, key: str | None) -> None:
    with pytest.raises(InvalidRequest):
        backend.persistence.set_key_value(KeyValue(key, 1))
    with pytest.raises(InvalidRequest):
        backend.persistence.delete_key_value(KeyValue(key))


def test_what_drivers_keep_for_initiators_is_not_shown(backend: cinderlib.Backend) -> None:
    session.current().lookup.add_initiator_data("iqn", "driver", "secret", "of CHAP")
    assert len(session.current().store.list(KeyValueRecord)) == 1
    assert backend.persistence.get_key_values() == []


# -- another store -------------------------------------------------------------


def test_objects_go_on_in_the_new_store(
    backend: cinderlib.Backend, file_config: dict[str, Any]
) -> None:
    volume = backend.create_volume(1, name="kept")
    snapshot = volume.create_snapshot()
    connector = {"host": "here", "initiator": "iqn.1993-08.org.debian:01:1"}
    connection = volume.connect(connector)
    backend.persistence.set_key_value(KeyValue("k", "v"))
    before: Any = session.current().store.inner

    cinderlib.Backend.set_persistence(file_config)

    assert session.current().store.inner is not before
    assert ids(backend.volumes) == [volume.id]
    assert backend.persistence.get_key_values("k") == [KeyValue("k", "v")]
    volume.refresh()
    connection.disconnect()
    snapshot.delete()
    volume.extend(3)
    second = backend.create_volume(1)
    volume.delete()
    backend.close()
    session.current().store.close()
    with closing(open_store(file_config, session.current().settings.state_path)) as reopened:
        assert ids(reopened.list(VolumeRecord)) == [second.id]


def test_a_store_that_was_given_stays_open_and_as_it_was(
    backend: cinderlib.Backend, file_config: dict[str, Any]
) -> None:
    volume = backend.create_volume(1)
    given: Any = session.current().store.inner
    backend.set_persistence(file_config)
    volume.delete()
    assert ids(given.list(VolumeRecord)) == [volume.id]
    mine = MemoryStore()
    made: Any = session.current().store.inner
    backend.set_persistence(mine)
    with pytest.raises(StoreUnavailable, match="closed"):
        made.list(VolumeRecord)
    backend.set_persistence(mine)
    assert mine.list(VolumeRecord) == []


def test_after_an_error_the_store_of_before_stays_in_use(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(1)
    clashing = MemoryStore()
    theirs = session.current().store.get(VolumeRecord, volume.id)
    assert theirs is not None
    record = VolumeRecord(
        **{f: getattr(theirs, f) for f in theirs.__struct_fields__} | {"version": 0, "size_gib": 9}
    )
    clashing.put(record)
    with pytest.raises(RecordExists, match=volume.id):
        backend.set_persistence(clashing)
    with pytest.raises(cinderlib.InvalidPersistence, match="memory"):
        backend.set_persistence("memroy")
    assert volume.extend(2) == 2 << 30


def test_a_store_can_be_exchanged_while_many_threads_work(
    backend: cinderlib.Backend, tmp_path: Path
) -> None:
    stop = threading.Event()
    rounds = threading.Semaphore(0)

    def live(worker: int) -> int:
        lives = 0
        while not stop.is_set():
            volume = backend.create_volume(1, name=f"w{worker}")
            volume.create_snapshot().delete()
            assert ids(cinderlib.Backend.persistence.get_volumes(volume.id)) == [volume.id]
            volume.extend(2)
            volume.delete()
            rounds.release()
            lives += 1
        return lives

    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(live, worker) for worker in range(8)]
        try:
            for number in range(4):
                backend.set_persistence(
                    {"storage": "db", "connection": f"sqlite:///{tmp_path / str(number)}"}
                )
                for _ in range(16):
                    assert rounds.acquire(timeout=60)
                backend.set_persistence("memory")
        finally:
            stop.set()
        assert sum(done.result() for done in running) >= 64
    assert backend.volumes == []
    assert set(backend.driver.shelf.names()) == set()


def test_who_works_on_an_object_cannot_wait_for_all_others() -> None:
    locks = ObjectLocks()
    with locks.exclusive("a"), pytest.raises(RuntimeError), locks.alone():
        pass
    with locks.alone():
        pass


def test_alone_waits_for_those_inside_and_keeps_others_out() -> None:
    locks = ObjectLocks()
    inside, leave, order = threading.Event(), threading.Event(), list[str]()

    def first() -> None:
        with locks.exclusive("a"):
            inside.set()
            assert leave.wait(60)
            with locks.exclusive("b"):  # nested: may go on although somebody waits
                order.append("first")

    def alone() -> None:
        with locks.alone():
            order.append("alone")

    threads: list[Callable[[], None]] = [first, alone]
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(threads[0])]
        assert inside.wait(60)
        running.append(pool.submit(threads[1]))
        leave.set()
        for done in running:
            done.result(timeout=60)
    assert order == ["first", "alone"]
