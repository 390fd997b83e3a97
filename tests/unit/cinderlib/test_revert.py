"""A volume goes back to its youngest snapshot: by its driver, or by a copy through this host."""

from __future__ import annotations

from pathlib import Path

import pytest

import csi_driver.cinderlib as cinderlib
from csi_driver.cinderlib import reverting
from tests.doubles import faults
from tests.doubles.faults import VendorError
from tests.unit.cinderlib.conftest import Make


def operations(backend: cinderlib.Backend) -> list[str]:
    return faults.of_backend(backend.id).operations()


def refuse_revert(backend: cinderlib.Backend, times: int = 1) -> None:
    for _ in range(times):
        faults.of_backend(backend.id).fail("revert_to_snapshot", NotImplementedError())


def test_a_volume_goes_back_to_its_youngest_snapshot_only(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(1)
    old, young = volume.create_snapshot("old"), volume.create_snapshot("young")

    with pytest.raises(cinderlib.InvalidVolume, match=young.id):
        old.revert()
    before = len(operations(backend))
    volume.revert(young)

    # As Cinder: what is discarded is kept in a snapshot until the revert has ended well.
    assert operations(backend)[before:] == [
        "create_snapshot",
        "revert_to_snapshot",
        "delete_snapshot",
    ]
    assert volume.status == "available"
    assert {snapshot.id for snapshot in volume.snapshots} == {old.id, young.id}


def test_a_snapshot_of_another_volume_or_of_another_size_is_refused(
    backend: cinderlib.Backend,
) -> None:
    volume, other = backend.create_volume(1), backend.create_volume(1)
    snapshot = volume.create_snapshot()

    with pytest.raises(cinderlib.InvalidVolume, match="not a snapshot of"):
        other.revert(snapshot)
    volume.extend(2)
    with pytest.raises(cinderlib.InvalidVolume, match="has 2 GiB"):
        volume.revert(snapshot)

    assert "revert_to_snapshot" not in operations(backend)


def test_a_revert_that_failed_on_the_way_says_so_keeps_the_old_content_and_may_be_repeated(
    backend: cinderlib.Backend,
) -> None:
    volume = backend.create_volume(1)
    snapshot = volume.create_snapshot()
    faults.of_backend(backend.id).fail("revert_to_snapshot", VendorError("half"), "after")

    with pytest.raises(VendorError):
        volume.revert(snapshot)

    found = cinderlib.Volume.get_by_id(volume.id)
    assert found.status == "reverting"
    assert found._record.operation is not None
    assert found._record.operation.snapshot_id == snapshot.id
    assert found._record.operation.last_error == "half"
    kept = [s for s in found.snapshots if s.id != snapshot.id]
    assert [s.name for s in kept] == [reverting.BACKUP.format(volume=volume.id)]
    with pytest.raises(cinderlib.InvalidVolume, match="reverting"):
        found.clone()

    found.revert(snapshot)

    assert found.status == "available"
    assert cinderlib.Volume.get_by_id(volume.id)._record.operation is None


def test_a_driver_that_cannot_is_helped_by_a_copy_through_this_host(
    make: Make, tmp_path: Path
) -> None:
    backend = make(double_directory=str(tmp_path))
    volume = backend.create_volume(1)
    file = tmp_path / volume.name_in_storage
    with file.open("r+b") as content:
        content.write(b"old")
        content.seek(700 << 20)
        content.write(b"far")
    snapshot = volume.create_snapshot()
    with file.open("r+b") as content:
        content.write(b"new")
        content.seek(5 << 20)
        content.write(b"more")
    refuse_revert(backend)

    volume.revert(snapshot)

    with file.open("rb") as content:
        assert content.read(3) == b"old"
        content.seek(5 << 20)
        assert content.read(4) == bytes(4)
        content.seek(700 << 20)
        assert content.read(3) == b"far"
    assert file.stat().st_blocks * 512 < 32 << 20  # what was thin stays thin
    assert volume.status == "available"
    assert volume.connections == []
    assert [found.id for found in backend.volumes] == [volume.id]
    assert [found.id for found in volume.snapshots] == [snapshot.id]


def test_where_neither_driver_nor_host_can_nothing_is_changed(backend: cinderlib.Backend) -> None:
    # In memory: there is nothing that this host could attach.
    volume = backend.create_volume(1)
    snapshot = volume.create_snapshot()
    refuse_revert(backend)

    with pytest.raises(cinderlib.OperationNotSupported, match="cannot attach") as raised:
        volume.revert(snapshot)

    assert "new volume from the snapshot" in str(raised.value)
    found = cinderlib.Volume.get_by_id(volume.id)
    assert found.status == "available"
    assert [s.id for s in found.snapshots] == [snapshot.id]
    assert [v.id for v in backend.volumes] == [volume.id]


def test_a_copy_that_broke_off_leaves_a_volume_that_says_so(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make(double_directory=str(tmp_path))
    volume = backend.create_volume(1)
    snapshot = volume.create_snapshot()
    refuse_revert(backend, times=2)

    def break_off(*_: object) -> int:
        assert cinderlib.Volume.get_by_id(volume.id)._record.phase == "reverting"
        raise OSError("the paths are gone")

    with monkeypatch.context() as patched:
        patched.setattr(reverting.transfer, "copy_device", break_off)
        with pytest.raises(OSError, match="paths are gone"):
            volume.revert(snapshot)

    found = cinderlib.Volume.get_by_id(volume.id)
    assert found.status == "reverting"
    assert found.connections == []
    found.revert(snapshot)
    assert found.status == "available"
