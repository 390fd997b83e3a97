"""Backend, Volume and Snapshot as a program uses them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import csi_driver.cinderlib as cinderlib
from csi_driver.cinderlib import exceptions
from csi_driver.cinderlib.persistence.memory import MemoryStore
from csi_driver.cinderlib.persistence.records import Phase, SnapshotRecord, VolumeRecord
from tests.doubles import faults
from tests.doubles.faults import VendorError
from tests.unit.cinderlib.conftest import Make


def names(backend: cinderlib.Backend) -> set[str]:
    return set(backend.driver.shelf.names())


# -- the life of a volume ------------------------------------------------------


def test_a_volume_is_made_found_and_deleted(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(2, name="data", metadata={"a": "b"})

    assert (volume.size, volume.name, volume.status) == (2, "data", "available")
    assert volume.pool_name == "one"
    assert volume.provider_id
    assert names(backend) == {volume.name_in_storage}
    assert cinderlib.Volume.get_by_id(volume.id).metadata == {"a": "b", "made-by": "double"}
    assert [found.id for found in cinderlib.Volume.get_by_name("data")] == [volume.id]
    assert [found.id for found in backend.volumes] == [volume.id]

    volume.delete()

    assert volume.status == "deleted"
    assert names(backend) == set()
    assert backend.volumes == []
    with pytest.raises(cinderlib.VolumeNotFound):
        cinderlib.Volume.get_by_id(volume.id)


def test_the_record_is_written_before_the_driver_is_called(
    backend: cinderlib.Backend, store: MemoryStore
) -> None:
    seen: list[VolumeRecord] = []
    make_volume = backend.driver.create_volume

    def create(volume: Any) -> Any:
        seen.extend(store.list(VolumeRecord))
        return make_volume(volume)

    backend.driver.create_volume = create
    volume = backend.create_volume(1)

    (record,) = seen
    assert record.id == volume.id
    assert record.phase is Phase.CREATING
    assert record.operation is not None
    assert (record.operation.kind, record.operation.step) == ("create", "backend")
    (stored,) = store.list(VolumeRecord)
    assert (stored.phase, stored.operation) == (Phase.AVAILABLE, None)


@pytest.mark.parametrize("size", [0, -1, 1.5, "2", None, True])
def test_a_size_that_is_no_whole_number_of_gib_is_refused(
    backend: cinderlib.Backend, size: Any
) -> None:
    with pytest.raises(cinderlib.InvalidSize):
        backend.create_volume(size)

    assert backend.volumes == []


def test_fields_and_pools_that_do_not_exist_are_refused(backend: cinderlib.Backend) -> None:
    with pytest.raises(cinderlib.InvalidVolume, match="no field status"):
        backend.create_volume(1, status="available")
    with pytest.raises(cinderlib.InvalidVolume, match="Pools: one"):
        backend.create_volume(1, pool_name="two")


def test_a_failed_creation_is_recorded_and_can_be_deleted(backend: cinderlib.Backend) -> None:
    error = VendorError("half made")
    faults.of_backend(backend.id).fail("create_volume", error, "after")
    volume = cinderlib.Volume(backend, size=1)

    with pytest.raises(VendorError) as raised:
        volume.create()

    assert raised.value is error
    assert raised.value.resource is volume  # type: ignore[attr-defined]
    assert cinderlib.Volume.get_by_id(volume.id).status == "error"
    assert len(names(backend)) == 1
    volume.delete()
    assert names(backend) == set()


def test_a_failed_creation_may_be_repeated_and_leaves_nothing_of_the_first_attempt(
    backend: cinderlib.Backend,
) -> None:
    faults.of_backend(backend.id).fail("create_volume", VendorError("half made"), "after")
    volume = cinderlib.Volume(backend, size=1)
    with pytest.raises(VendorError):
        volume.create()
    (half_made,) = names(backend)

    volume.create()

    assert volume.status == "available"
    assert names(backend) == {volume.name_in_storage}
    assert volume.name_in_storage != half_made
    with pytest.raises(cinderlib.InvalidVolume, match="exists"):
        volume.create()


@pytest.mark.parametrize(
    ("operation", "status"), [("revert_to_snapshot", "reverting"), ("delete_volume", "error")]
)
def test_what_failed_after_its_creation_is_never_made_anew(
    backend: cinderlib.Backend, operation: str, status: str
) -> None:
    volume = backend.create_volume(1)
    snapshot = volume.create_snapshot()
    faults.of_backend(backend.id).fail(operation, VendorError("half"), "before")
    with pytest.raises(VendorError):
        if operation == "delete_volume":
            snapshot.delete()
            volume.delete()
        else:
            snapshot.revert()
    volume.refresh()
    assert volume.status == status

    with pytest.raises(cinderlib.InvalidVolume, match=f"exists, and is {status}"):
        volume.create()

    assert volume.name_in_storage in names(backend)


def test_a_volume_with_snapshots_is_not_deleted_and_names_them(
    backend: cinderlib.Backend,
) -> None:
    volume = backend.create_volume(1)
    snapshot = volume.create_snapshot("monday")

    with pytest.raises(cinderlib.InvalidVolume, match=rf"monday \({snapshot.id}\)"):
        volume.delete()

    snapshot.delete()
    volume.delete()
    assert names(backend) == set()


def test_a_volume_grows_and_never_shrinks(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(1)

    assert volume.extend(3) == 3 << 30
    assert cinderlib.Volume.get_by_id(volume.id).size == 3
    for size in (3, 2, 3.5):
        with pytest.raises(cinderlib.InvalidSize):
            volume.extend(size)  # type: ignore[arg-type]


def test_a_failed_extension_leaves_a_usable_volume_with_its_old_size(
    backend: cinderlib.Backend, store: MemoryStore
) -> None:
    volume = backend.create_volume(1)
    faults.of_backend(backend.id).fail("extend_volume", VendorError("no room"))

    with pytest.raises(VendorError):
        volume.extend(2)

    assert (volume.size, volume.status) == (1, "available")
    (record,) = store.list(VolumeRecord)
    assert record.operation is not None
    assert record.operation.last_error == "no room"
    assert volume.extend(2) == 2 << 30


def test_a_stale_object_works_on_the_stored_volume(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(1)
    stale = cinderlib.Volume.get_by_id(volume.id)
    volume.extend(5)

    with pytest.raises(cinderlib.InvalidSize):
        stale.extend(2)
    assert stale.size == 5


def test_an_object_is_reloaded_and_never_emptied(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(1, name="data")
    other = cinderlib.Volume.get_by_id(volume.id)
    other.extend(2)

    volume.refresh()

    assert (volume.size, volume.name) == (2, "data")
    other.delete()
    with pytest.raises(cinderlib.VolumeNotFound):
        volume.refresh()
    assert volume.name == "data"


# -- copies --------------------------------------------------------------------


def test_a_clone_takes_the_specs_of_its_source_but_not_its_name(
    backend: cinderlib.Backend,
) -> None:
    volume = backend.create_volume(
        1, name="data", metadata={"k": "v"}, extra_specs={"tier": "gold"}
    )

    clone = volume.clone(size=2, name="copy")

    assert (clone.size, clone.name) == (2, "copy")
    assert clone._record.extra_specs == {"tier": "gold"}
    assert clone.metadata == {"made-by": "double"}
    assert clone.provider_id != volume.provider_id
    assert clone.created_at > volume.created_at
    assert volume.clone().size == 1


def test_a_copy_smaller_than_its_source_is_refused(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(2)

    with pytest.raises(cinderlib.InvalidSize):
        volume.clone(size=1)

    assert len(backend.volumes) == 1


def test_a_snapshot_is_made_found_copied_and_deleted(
    backend: cinderlib.Backend, store: MemoryStore
) -> None:
    volume = backend.create_volume(1)
    snapshot = volume.create_snapshot("cut", "before the change", metadata={"by": "me"})

    assert (snapshot.status, snapshot.volume_size) == ("available", 1)
    assert snapshot.metadata == {"by": "me", "cut": "yes"}
    assert [found.id for found in volume.snapshots] == [snapshot.id]
    assert cinderlib.Snapshot.get_by_name("cut")[0].volume.id == volume.id

    restored = snapshot.create_volume(size=3, name="restored")
    assert (restored.size, restored._record.source.id) == (3, snapshot.id)  # type: ignore[union-attr]

    snapshot.delete()
    assert snapshot.status == "deleted"
    assert store.list(SnapshotRecord) == []
    with pytest.raises(cinderlib.SnapshotNotFound):
        cinderlib.Snapshot.get_by_id(snapshot.id)


def test_a_failed_snapshot_may_be_repeated(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(1)
    snapshot = cinderlib.Snapshot(volume, name="cut")
    faults.of_backend(backend.id).fail("create_snapshot", VendorError("half"), "after")
    with pytest.raises(VendorError) as raised:
        snapshot.create()
    assert raised.value.resource is snapshot  # type: ignore[attr-defined]

    snapshot.create()

    assert names(backend) == {volume.name_in_storage, snapshot.name_in_storage}


def test_calls_on_one_volume_take_turns_and_on_others_run_at_once(
    backend: cinderlib.Backend,
) -> None:
    volume, other = backend.create_volume(1), backend.create_volume(1)
    held = faults.of_backend(backend.id).hold("extend_volume")

    with ThreadPoolExecutor(2) as pool:
        growing = pool.submit(volume.extend, 2)
        held.wait_until_entered()
        snapshot = other.create_snapshot()
        deleting = pool.submit(cinderlib.Volume.get_by_id(volume.id).delete)
        held.release()
        assert growing.result() == 2 << 30
        deleting.result()

    assert names(backend) == {other.name_in_storage, snapshot.name_in_storage}


def test_many_threads_make_and_delete_volumes_of_many_backends(make: Make, free_name: str) -> None:
    backends = [make(f"{free_name}-{number}") for number in range(3)]

    def live(number: int) -> None:
        volume = backends[number % 3].create_volume(1)
        snapshot = volume.create_snapshot()
        clone = snapshot.create_volume()
        volume.extend(2)
        clone.delete()
        snapshot.delete()
        volume.delete()

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(live, range(60)))

    for backend in backends:
        assert names(backend) == set()
        assert backend.volumes == []


def test_a_volume_of_a_backend_that_is_not_loaded_says_so(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(1)
    backend.close()

    with pytest.raises(cinderlib.BackendNotFound, match=backend.id):
        volume.delete()


def test_every_name_of_the_package_exists(runtime: object) -> None:
    for name in dir(cinderlib):
        assert getattr(cinderlib, name) is not None or name.startswith("__")
    assert cinderlib.InvalidVolume is exceptions.InvalidVolume
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = cinderlib.Nothing
