"""Many threads live whole lives of objects on every store: nothing lost, nothing doubled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import csi_driver.cinderlib as cinderlib
from csi_driver.cinderlib import session
from csi_driver.cinderlib.key_value import KeyValue
from csi_driver.cinderlib.persistence.choice import StoreConfig
from csi_driver.cinderlib.persistence.factory import open_store
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    KeyValueRecord,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.cinderlib.persistence.store import RecordStore
from csi_driver.cinderlib.runtime import bootstrap
from tests.unit.cinderlib.conftest import DOUBLE
from tests.unit.stores.conftest import KINDS, config_of, postgres  # noqa: F401 - fixtures

THREADS = 8
LIVES = 4
CONNECTOR = {"host": "here", "initiator": "iqn.1993-08.org.debian:01:1"}


@pytest.fixture(params=KINDS)
def store_in_use(
    request: pytest.FixtureRequest,
    runtime: bootstrap.RuntimeSettings,
    tmp_path: Path,
    config_of: Callable[[str], StoreConfig],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[RecordStore]:
    store = open_store(config_of(request.param), tmp_path / "state")
    monkeypatch.setattr(session, "_session", session.Session(runtime, store))
    yield store
    for backend in list(cinderlib.Backend.backends.values()):
        backend.close()
    store.close()


def test_threads_live_whole_lives(store_in_use: RecordStore, free_name: str) -> None:
    backend = cinderlib.Backend(free_name, volume_driver=DOUBLE)
    shared = backend.create_volume(1, name="shared")
    ended = threading.Event()

    def live(worker: int) -> tuple[list[str], list[str]]:
        """Ids of the volumes and snapshots that are kept."""
        volumes, snapshots = [], []
        for number in range(LIVES):
            volume = backend.create_volume(1, name=f"{worker}/{number}")
            volume.extend(2)
            snapshot = volume.create_snapshot(name=f"{worker}/{number}")
            volume.connect(CONNECTOR).disconnect()
            shared.connect(CONNECTOR).disconnect()
            copy = volume.clone(name=f"copy of {worker}/{number}")
            backend.persistence.set_key_value(KeyValue(f"worker-{worker}", number))
            backend.persistence.set_key_value(KeyValue("everybody's", [worker, number]))
            copy.delete()
            if number % 2:
                snapshot.delete()
                volume.delete()
            else:
                volumes.append(volume.id)
                snapshots.append(snapshot.id)
        return volumes, snapshots

    def watch() -> int:
        """Go through all volumes again and again, in pages."""
        rounds = 0
        while not ended.is_set() or not rounds:
            seen: list[str] = []
            while page := store_in_use.list(VolumeRecord, after=seen[-1] if seen else "", limit=5):
                seen += [record.id for record in page]
            assert seen == sorted(set(seen))
            assert shared.id in seen
            rounds += 1
        return rounds

    with ThreadPoolExecutor(THREADS + 1) as pool:
        watching = pool.submit(watch)
        try:
            lives = list(pool.map(live, range(THREADS)))
        finally:
            ended.set()
        assert watching.result() > 0

    volumes = sorted([shared.id, *(each for kept, _ in lives for each in kept)])
    snapshots = sorted(each for _, kept in lives for each in kept)
    assert [record.id for record in store_in_use.list(VolumeRecord)] == volumes
    assert [record.id for record in store_in_use.list(SnapshotRecord)] == snapshots
    assert store_in_use.list(ConnectionRecord) == []
    assert {record.size_gib for record in store_in_use.list(VolumeRecord)} == {1, 2}
    for record in (*store_in_use.list(VolumeRecord), *store_in_use.list(SnapshotRecord)):
        assert record.operation is None
    entries = {record.id: record.value for record in store_in_use.list(KeyValueRecord)}
    assert {f"worker-{worker}": LIVES - 1 for worker in range(THREADS)}.items() <= entries.items()
    assert entries["everybody's"][1] in range(LIVES)
    # What the backend has is what the records say.
    assert len(backend.driver.shelf.names()) == len(volumes) + len(snapshots)
