"""What is on an array already becomes a volume or snapshot, and is given back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

import csi_driver.cinderlib as cinderlib
from csi_driver.base.values import FormattingState
from csi_driver.cinderlib import session
from csi_driver.cinderlib.persistence.memory import MemoryStore
from csi_driver.cinderlib.persistence.records import Phase, SnapshotRecord, VolumeRecord
from csi_driver.cinderlib.runtime import bootstrap
from tests.doubles import faults
from tests.doubles.faults import VendorError

GIB = 1 << 30
FILE = "csi_driver.drivers.file.FileVolumeDriver"
LUN = {"source-name": "lun7"}


@pytest.fixture
def lun(backend: cinderlib.Backend) -> cinderlib.Backend:
    """A backend with a volume of 3 GiB on it that nobody knows."""
    backend.driver.shelf.make("lun7", 3 * GIB)
    return backend


def operations(backend: cinderlib.Backend) -> list[str]:
    return faults.of_backend(backend.id).operations()


# -- volumes -------------------------------------------------------------------


def test_a_volume_is_taken_over_with_its_size_and_never_formatted(
    lun: cinderlib.Backend, store: MemoryStore
) -> None:
    volume = lun.manage_volume(LUN, name="data", metadata={"a": "b"}, extra_specs={"t": "1"})

    assert operations(lun)[-2:] == ["manage_existing_get_size", "manage_existing"]
    assert lun.driver.statuses == ("managing",)
    assert set(lun.driver.shelf.names()) == {volume.name_in_storage}
    record = store.get(VolumeRecord, volume.id)
    assert record is not None
    assert (record.size_gib, record.name, record.phase) == (3, "data", Phase.AVAILABLE)
    assert record.formatting.state is FormattingState.UNKNOWN
    assert record.metadata == {"a": "b", "made-by": "double"}
    assert record.provider["provider_id"] == f"array-{record.cinder_id}"
    assert record.operation is None
    assert volume.clone()._record.formatting.state is FormattingState.UNKNOWN


@pytest.mark.parametrize("reference", [None, "lun7", {}, {"source-name": ""}, {"source-id": 7}])
def test_what_is_no_reference_is_refused_before_anything_is_asked(
    lun: cinderlib.Backend, store: MemoryStore, reference: Any
) -> None:
    with pytest.raises(cinderlib.InvalidReference, match="source-name"):
        lun.manage_volume(reference)

    assert "manage_existing_get_size" not in operations(lun)
    assert store.list(VolumeRecord) == []


def test_what_is_not_there_leaves_no_record(lun: cinderlib.Backend, store: MemoryStore) -> None:
    from cinder import exception

    with pytest.raises(exception.ManageExistingInvalidReference):
        lun.manage_volume({"source-name": "lun8"})

    assert store.list(VolumeRecord) == []


def test_nothing_is_managed_twice(lun: cinderlib.Backend) -> None:
    volume = lun.manage_volume(LUN)
    lun.driver.shelf.make("lun7", GIB)  # another one by now, or one that was not renamed

    with pytest.raises(cinderlib.InvalidReference, match=f"{volume.id} was imported by"):
        lun.manage_volume(LUN)
    with pytest.raises(cinderlib.InvalidReference, match="has this name"):
        lun.manage_volume({"source-name": volume.name_in_storage})
    with pytest.raises(cinderlib.InvalidReference, match="has this id"):
        lun.manage_volume({"source-id": str(volume.provider_id)})

    assert operations(lun).count("manage_existing") == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_import_that_failed_is_remembered_and_never_deleted(
    lun: cinderlib.Backend, when: faults.When
) -> None:
    faults.of_backend(lun.id).fail("manage_existing", VendorError("half"), when)

    with pytest.raises(VendorError) as raised:
        lun.manage_volume(LUN)

    volume = raised.value.resource  # type: ignore[attr-defined]
    found = cinderlib.Volume.get_by_id(volume.id)
    assert found.status == "error_managing"
    assert found._record.operation is not None
    assert found._record.operation.wanted == LUN
    assert found._record.operation.last_error == "half"
    for forbidden in (found.delete, found.create, found.create_snapshot):
        with pytest.raises(cinderlib.InvalidVolume):
            forbidden()
    with pytest.raises(cinderlib.InvalidReference, match="unmanage"):
        lun.manage_volume(LUN)
    assert "delete_volume" not in operations(lun)

    found.unmanage()

    assert "unmanage" not in operations(lun)
    name = found.name_in_storage if when == "after" else "lun7"
    again = lun.manage_volume({"source-name": name})
    assert set(lun.driver.shelf.names()) == {again.name_in_storage}


def test_asking_for_the_size_changes_nothing_and_leaves_nothing(
    lun: cinderlib.Backend, store: MemoryStore
) -> None:
    faults.of_backend(lun.id).fail("manage_existing_get_size", VendorError("away"))

    with pytest.raises(VendorError):
        lun.manage_volume(LUN)

    assert store.list(VolumeRecord) == []
    assert lun.manage_volume(LUN).size == 3


def test_a_driver_that_cannot_import_is_told_apart(
    lun: cinderlib.Backend, store: MemoryStore
) -> None:
    faults.of_backend(lun.id).fail("manage_existing", NotImplementedError())

    with pytest.raises(cinderlib.OperationNotSupported, match="take over"):
        lun.manage_volume(LUN)

    assert store.list(VolumeRecord) == []


def test_the_import_is_recorded_before_the_driver_is_called(
    lun: cinderlib.Backend, store: MemoryStore
) -> None:
    seen: list[VolumeRecord] = []
    take = lun.driver.manage_existing

    def look(volume: Any, existing_ref: Any) -> Any:
        seen.extend(store.list(VolumeRecord))
        return take(volume, existing_ref)

    lun.driver.manage_existing = look
    lun.manage_volume(LUN)

    assert [record.phase for record in seen] == [Phase.MANAGING]
    assert seen[0].operation is not None
    assert seen[0].operation.wanted == LUN


def test_a_volume_is_given_back_under_its_name(lun: cinderlib.Backend, store: MemoryStore) -> None:
    volume = lun.create_volume(1)
    snapshot = volume.create_snapshot()
    with pytest.raises(cinderlib.InvalidVolume, match="has snapshots"):
        volume.unmanage()
    snapshot.delete()
    connection = volume.connect({"host": "node1"})
    with pytest.raises(cinderlib.InvalidVolume, match="has connections"):
        volume.unmanage()
    connection.disconnect()

    volume.unmanage()

    # As Cinder: the export goes first.
    assert operations(lun)[-2:] == ["remove_export", "unmanage"]
    assert lun.driver.statuses == ("unmanaging",)
    assert volume.status == "deleted"
    assert store.list(VolumeRecord) == []
    assert volume.name_in_storage in lun.driver.shelf.names()


def test_a_release_that_failed_may_be_repeated_and_nothing_is_deleted(
    lun: cinderlib.Backend,
) -> None:
    volume = lun.create_volume(1)
    faults.of_backend(lun.id).fail("unmanage", VendorError("half"), "after")

    with pytest.raises(VendorError):
        volume.unmanage()

    found = cinderlib.Volume.get_by_id(volume.id)
    assert found.status == "unmanaging"
    with pytest.raises(cinderlib.InvalidVolume, match="somebody else's"):
        found.delete()
    found.unmanage()
    assert lun.volumes == []


# -- snapshots -----------------------------------------------------------------


def test_a_snapshot_is_taken_over_and_given_back(
    lun: cinderlib.Backend, store: MemoryStore
) -> None:
    volume = lun.create_volume(3)

    snapshot = volume.manage_snapshot(LUN, name="cut")

    record = store.get(SnapshotRecord, snapshot.id)
    assert record is not None
    assert (record.size_gib, record.name, record.phase) == (3, "cut", Phase.AVAILABLE)
    assert record.formatting.state is FormattingState.UNKNOWN
    assert operations(lun)[-2:] == ["manage_existing_snapshot_get_size", "manage_existing_snapshot"]
    with pytest.raises(cinderlib.InvalidReference, match="managed already"):
        volume.manage_snapshot({"source-name": snapshot.name_in_storage})

    snapshot.unmanage()

    assert operations(lun)[-1] == "unmanage_snapshot"
    assert volume.snapshots == []
    assert snapshot.name_in_storage in lun.driver.shelf.names()


def test_a_snapshot_whose_import_failed_is_not_deleted(lun: cinderlib.Backend) -> None:
    volume = lun.create_volume(3)
    faults.of_backend(lun.id).fail("manage_existing_snapshot", VendorError("half"), "after")

    with pytest.raises(VendorError):
        volume.manage_snapshot(LUN)

    (snapshot,) = volume.snapshots
    assert snapshot.status == "error_managing"
    with pytest.raises(cinderlib.InvalidVolume, match="unmanage"):
        snapshot.delete()
    snapshot.unmanage()
    assert volume.snapshots == []


# -- lists ---------------------------------------------------------------------


def test_what_could_be_imported_is_listed_with_what_is_managed(lun: cinderlib.Backend) -> None:
    volume = lun.create_volume(1)

    found = {entry.reference["source-name"]: entry for entry in lun.manageable_volumes()}

    assert found["lun7"].safe_to_manage
    assert (found["lun7"].size, found["lun7"].id) == (3, None)
    assert found[volume.name_in_storage].id == volume.id
    assert not found[volume.name_in_storage].safe_to_manage


def test_a_driver_that_cannot_list_says_so(lun: cinderlib.Backend) -> None:
    with pytest.raises(cinderlib.OperationNotSupported, match="what could be imported"):
        lun.manageable_snapshots()  # the double has no such method; Cinder's base refuses


# -- files, whatever they hold ---------------------------------------------------


@pytest.fixture
def files(
    runtime: bootstrap.RuntimeSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[[], tuple[cinderlib.Backend, Path]]]:
    """Backends of files, each in a directory of its own."""
    monkeypatch.setattr(session, "_session", session.Session(runtime, MemoryStore()))
    made = []

    def make() -> tuple[cinderlib.Backend, Path]:
        directory = tmp_path / f"files{len(made)}"
        backend = cinderlib.Backend(
            f"{tmp_path.name}-{len(made)}",
            volume_driver=FILE,
            file_volume_directory=str(directory),
        )
        made.append(backend)
        return backend, directory

    yield make
    for backend in made:
        backend.close()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,40}", fullmatch=True),
    content=st.binary(min_size=1, max_size=4096),
    offset=st.integers(0, 3 * GIB),
    rounds=st.integers(1, 3),
)
def test_import_and_release_keep_every_byte(
    files: Callable[[], tuple[cinderlib.Backend, Path]],
    name: str,
    content: bytes,
    offset: int,
    rounds: int,
) -> None:
    backend, directory = files()
    file = directory / name
    with file.open("wb") as opened:
        opened.seek(offset)
        opened.write(content)
    size = file.stat().st_size
    inode = file.stat().st_ino

    for _ in range(rounds):
        volume = backend.manage_volume({"source-name": file.name})
        file = directory / volume.name_in_storage
        assert volume.size == -(-size // GIB)
        assert file.stat().st_size == volume.size * GIB
        assert [path.name for path in directory.iterdir() if path.name[0] != "."] == [file.name]
        volume.unmanage()
        assert backend.volumes == []
        (entry,) = backend.manageable_volumes()
        assert entry.safe_to_manage
        assert entry.reference == {"source-name": file.name}

    assert file.stat().st_ino == inode
    with file.open("rb") as opened:
        assert opened.read(min(offset, 4096)) == bytes(min(offset, 4096))
        opened.seek(offset)
        assert opened.read(len(content)) == content
    backend.close()
    os.unlink(file)
