"""Many threads on one process: nothing is lost, mixed up or left behind."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from csi_driver.cinderlib.persistence.records import VolumeRecord
from csi_driver.cinderlib.runtime.directory import directory
from tests.unit.cinderlib.conftest import Loaded

THREADS = 16


def test_calls_of_one_backend_run_side_by_side(loaded: Loaded) -> None:
    gate = loaded.faults.hold("create_volume")
    records = [loaded.volume() for _ in range(THREADS)]

    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(loaded.manager.create_volume, record) for record in records]
        while loaded.faults.most_running < THREADS:
            gate.wait_until_entered()
        gate.release()
        made = [future.result() for future in futures]

    assert {record.cinder_id for record in made} == {record.cinder_id for record in records}


def test_a_whole_life_on_many_threads_and_backends_leaves_nothing(
    load: Callable[..., Loaded],
) -> None:
    backends = [load() for _ in range(3)]

    def live(number: int) -> None:
        loaded = backends[number % len(backends)]
        volume = loaded.made_volume(metadata={"number": str(number)})
        assert volume.metadata["number"] == str(number)
        snapshot = loaded.made_snapshot(volume)
        clone = loaded.manager.create_volume(loaded.volume(2), snapshot)
        connection = loaded.connection(volume, f"node{number}")
        volume, connection = loaded.manager.connect(volume, connection)
        assert volume.cinder_id in connection.connection_info["data"]["device_path"]
        volume = loaded.manager.extend_volume(volume, 3)
        volume = loaded.manager.disconnect(volume, connection)
        assert volume.provider["provider_id"] == f"array-{volume.cinder_id}"
        loaded.manager.delete_volume(clone)
        loaded.manager.delete_snapshot(snapshot, volume)
        loaded.manager.delete_volume(volume)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(live, range(120)))

    for loaded in backends:
        assert loaded.driver.shelf.names() == {}
        assert loaded.driver.exported == set()
    assert directory._held == {}
    assert directory._own == {}


def test_clones_of_one_volume_at_once_keep_what_each_saves_of_it(loaded: Loaded) -> None:
    source = loaded.made_volume()

    def clone(volume: Any, src: Any) -> None:
        src.metadata[volume.id] = "clone"
        src.save()

    loaded.driver.create_cloned_volume = clone
    records = [loaded.volume() for _ in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda record: loaded.manager.create_volume(record, source), records))

    stored = loaded.store.get(VolumeRecord, source.id)
    assert stored is not None
    assert stored.metadata["made-by"] == "double"
    assert set(stored.metadata) & {record.cinder_id for record in records}


def test_what_drivers_keep_for_an_initiator_survives_a_race(loaded: Loaded) -> None:
    utils = loaded.driver.driver_utils

    with ThreadPoolExecutor(THREADS) as pool:
        won = list(
            pool.map(
                lambda number: utils.insert_driver_initiator_data(
                    "iqn.host", f"key{number % 4}", str(number)
                ),
                range(64),
            )
        )

    assert sum(won) == 4
    assert len(utils.get_driver_initiator_data("iqn.host")) == 4
