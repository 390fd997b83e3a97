"""What the manager does around the driver's calls on volumes and snapshots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from csi_driver.cinderlib.exceptions import InvalidSize, InvalidVolume, OperationNotSupported
from csi_driver.cinderlib.persistence.records import Source, VolumeRecord
from tests.doubles.faults import VendorError
from tests.unit.cinderlib.conftest import Loaded

GIB = 1 << 30


def test_everything_that_the_driver_returns_lands_in_the_record(loaded: Loaded) -> None:
    asked = loaded.volume(2, metadata={"team": "blue"})

    made = loaded.manager.create_volume(asked)

    assert made.provider == {
        "provider_id": f"array-{asked.cinder_id}",
        "provider_location": f"double:volume-{asked.cinder_id}",
    }
    assert made.metadata == {"team": "blue", "made-by": "double"}
    assert made.admin_metadata == {"internal": "1"}
    assert made.pool == "one"
    assert (made.id, made.version, made.phase) == (asked.id, asked.version, asked.phase)
    assert loaded.driver.shelf.names() == {f"volume-{asked.cinder_id}": 2 * GIB}


def test_the_driver_knows_the_volume_by_its_cinder_id_and_its_pool(
    load: Callable[..., Loaded],
) -> None:
    loaded = load(double_pools=["slow", "fast"])
    seen = {}

    def look(volume: object) -> None:
        seen.update(id=volume.id, host=volume.host, size=volume.size)  # type: ignore[attr-defined]

    loaded.driver.create_volume = look
    asked = loaded.volume(3, pool="fast")

    loaded.manager.create_volume(asked)

    assert seen["id"] == asked.cinder_id
    assert seen["host"].endswith(f"@{loaded.manager.name}#fast")
    assert seen["size"] == 3


def test_a_driver_that_returns_nothing_is_fine(loaded: Loaded) -> None:
    loaded.driver.create_volume = lambda volume: None

    made = loaded.manager.create_volume(loaded.volume())

    assert made.provider == {}


def test_what_the_driver_sets_and_does_not_save_is_kept(loaded: Loaded) -> None:
    def create(volume: object) -> None:
        volume.provider_location = "set"  # type: ignore[attr-defined]

    loaded.driver.create_volume = create

    assert loaded.manager.create_volume(loaded.volume()).provider == {"provider_location": "set"}


def test_a_copy_of_a_volume_and_of_a_snapshot_have_the_asked_size(loaded: Loaded) -> None:
    volume = loaded.made_volume(1)
    snapshot = loaded.made_snapshot(volume)

    clone = loaded.manager.create_volume(loaded.volume(2), volume)
    restored = loaded.manager.create_volume(loaded.volume(3), snapshot)

    sizes = loaded.driver.shelf.names()
    assert sizes[f"volume-{clone.cinder_id}"] == 2 * GIB
    assert sizes[f"volume-{restored.cinder_id}"] == 3 * GIB
    assert (clone.size_gib, restored.size_gib) == (2, 3)


def test_a_driver_that_says_that_it_did_not_grow_a_copy_is_asked_to_extend_it(
    load: Callable[..., Loaded],
) -> None:
    loaded = load(double_grows_copies=False)
    volume = loaded.made_volume(1)

    clone = loaded.manager.create_volume(loaded.volume(4), volume)

    assert loaded.driver.shelf.names()[f"volume-{clone.cinder_id}"] == 4 * GIB
    assert clone.size_gib == 4


def test_a_copy_that_is_smaller_than_its_source_is_refused_before_the_driver_is_called(
    loaded: Loaded,
) -> None:
    volume = loaded.made_volume(2)

    with pytest.raises(InvalidSize, match="2 GiB"):
        loaded.manager.create_volume(loaded.volume(1), volume)

    assert "create_cloned_volume" not in loaded.faults.operations()


def test_a_copy_tells_the_driver_where_it_comes_from(loaded: Loaded) -> None:
    volume = loaded.made_volume()
    snapshot = loaded.made_snapshot(volume)
    seen: list[tuple[str | None, str | None]] = []
    loaded.driver.create_cloned_volume = lambda new, old: seen.append(
        (new.source_volid, new.snapshot_id)
    )
    loaded.driver.create_volume_from_snapshot = lambda new, cut: seen.append(
        (new.source_volid, new.snapshot_id)
    )

    loaded.manager.create_volume(loaded.volume(source=Source(kind="volume", id=volume.id)), volume)
    loaded.manager.create_volume(
        loaded.volume(source=Source(kind="snapshot", id=snapshot.id)), snapshot
    )

    assert seen == [(volume.cinder_id, None), (None, snapshot.cinder_id)]


def test_a_deleted_volume_is_gone_and_may_be_deleted_again(loaded: Loaded) -> None:
    volume = loaded.made_volume()

    loaded.manager.delete_volume(volume)
    loaded.manager.delete_volume(volume)

    assert loaded.driver.shelf.names() == {}


def test_deleting_removes_the_lock_files_of_the_volume(loaded: Loaded) -> None:
    from cinder import coordination
    from oslo_config import cfg

    volume = loaded.made_volume()

    @coordination.synchronized("{volume.id}-work")
    def work(volume: object) -> None:
        """Takes a lock as drivers do."""

    loaded.driver.extend_volume = lambda volume, size: work(volume)
    loaded.manager.extend_volume(volume, 2)
    directory = Path(cfg.CONF.oslo_concurrency.lock_path)

    def locks() -> list[Path]:
        return [path for path in directory.iterdir() if volume.cinder_id in path.name]

    assert locks()
    loaded.manager.delete_volume(volume)
    assert locks() == []


def test_an_extended_volume_has_its_new_size_in_the_record(loaded: Loaded) -> None:
    volume = loaded.made_volume(1)

    grown = loaded.manager.extend_volume(volume, 5)

    assert grown.size_gib == 5
    assert loaded.driver.shelf.names()[f"volume-{volume.cinder_id}"] == 5 * GIB


@pytest.mark.parametrize("size", [1, 2])
def test_a_volume_is_never_extended_to_its_size_or_less(loaded: Loaded, size: int) -> None:
    volume = loaded.made_volume(2)

    with pytest.raises(InvalidSize):
        loaded.manager.extend_volume(volume, size)

    assert "extend_volume" not in loaded.faults.operations()


def test_a_snapshot_keeps_what_the_driver_returned_and_goes_when_deleted(loaded: Loaded) -> None:
    volume = loaded.made_volume()

    snapshot = loaded.made_snapshot(volume)

    assert snapshot.provider == {"provider_location": f"double:snapshot-{snapshot.cinder_id}"}
    assert snapshot.metadata == {"cut": "yes"}
    loaded.manager.delete_snapshot(snapshot, volume)
    assert list(loaded.driver.shelf.names()) == [f"volume-{volume.cinder_id}"]


def test_a_volume_goes_back_to_its_snapshot(loaded: Loaded) -> None:
    volume = loaded.made_volume()
    snapshot = loaded.made_snapshot(volume)

    assert loaded.manager.revert_to_snapshot(volume, snapshot) == volume
    assert loaded.faults.operations()[-1] == "revert_to_snapshot"


def test_a_driver_that_cannot_revert_is_told_apart_from_one_that_failed(loaded: Loaded) -> None:
    volume = loaded.made_volume()
    snapshot = loaded.made_snapshot(volume)
    loaded.faults.fail("revert_to_snapshot", NotImplementedError())

    with pytest.raises(OperationNotSupported):
        loaded.manager.revert_to_snapshot(volume, snapshot)


def test_a_volume_that_was_extended_since_the_snapshot_is_not_reverted(loaded: Loaded) -> None:
    volume = loaded.made_volume()
    snapshot = loaded.made_snapshot(volume)
    grown = loaded.manager.extend_volume(volume, 2)

    with pytest.raises(InvalidVolume, match="2 GiB"):
        loaded.manager.revert_to_snapshot(grown, snapshot)

    assert "revert_to_snapshot" not in loaded.faults.operations()


def test_errors_of_the_driver_pass_unchanged(loaded: Loaded) -> None:
    error = VendorError("the array is on fire")
    loaded.faults.fail("create_volume", error, "after")

    with pytest.raises(VendorError) as raised:
        loaded.manager.create_volume(loaded.volume())

    assert raised.value is error


def test_an_attempt_with_another_cinder_id_is_another_volume(loaded: Loaded) -> None:
    first = loaded.made_volume()
    second = msgspec.structs.replace(first, cinder_id="0" * 8 + "-0000-4000-8000-" + "0" * 12)

    loaded.manager.create_volume(second)
    loaded.manager.delete_volume(second)

    assert list(loaded.driver.shelf.names()) == [f"volume-{first.cinder_id}"]


def test_the_manager_stores_nothing_of_the_object_that_the_call_is_about(loaded: Loaded) -> None:
    asked = loaded.volume()

    loaded.manager.create_volume(asked)

    assert loaded.store.get(VolumeRecord, asked.id) == asked
