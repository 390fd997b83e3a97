"""Files that the file driver has not made, and specs that it does not have."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from csi_driver.drivers.volume_directory import OWNER_XATTR
from tests.unit.drivers.conftest import Backend, Disk

MIB = 1 << 20


@pytest.fixture
def exception(cinder: Any) -> Any:
    from cinder import exception

    return exception


def foreign(backend: Backend, name: str = "old.img", size: int = 5 * MIB) -> Path:
    """A file of somebody's in the volume directory."""
    path = Path(backend.driver.configuration.file_volume_directory) / name
    with path.open("wb") as file:
        file.write(b"data")
        file.truncate(size)
    return path


def refused(backend: Backend, reference: dict[str, str]) -> str:
    from cinder import exception

    with pytest.raises(exception.ManageExistingInvalidReference) as raised:
        backend.driver.manage_existing(backend.volume(), reference)
    return str(raised.value)


def test_a_raw_file_is_taken_over_whole(backend: Backend) -> None:
    path = foreign(backend)
    volume = backend.volume(0)
    reference = {"source-name": "old.img"}

    assert backend.driver.manage_existing_get_size(volume, reference) == 1
    assert backend.driver.manage_existing(volume, reference) is None

    assert not path.exists()
    assert backend.names() == {volume.name}
    assert backend.path(volume).stat().st_size == 1 << 30
    assert backend.read(volume, 4) == b"data"
    assert os.getxattr(backend.path(volume), OWNER_XATTR).decode() == volume.id
    assert backend.driver.initialize_connection(volume, backend.connector())["data"]["identity"]


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", ".lock", "nothing-there", ""])
def test_nothing_outside_the_directory_and_nothing_hidden_is_taken(
    backend: Backend, name: str
) -> None:
    outside = Path(backend.driver.configuration.file_volume_directory).parent / "outside"
    outside.write_bytes(b"not ours")
    try:
        refused(backend, {"source-name": name})
        assert outside.read_bytes() == b"not ours"
    finally:
        outside.unlink()


def test_a_reference_by_id_is_explained(backend: Backend) -> None:
    assert "source-name" in refused(backend, {"source-id": "7"})


def test_a_link_is_not_followed(backend: Backend, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"not ours")
    directory = Path(backend.driver.configuration.file_volume_directory)
    (directory / "link").symlink_to(tmp_path / "target")

    refused(backend, {"source-name": "link"})

    assert (directory / "link").is_symlink()


def test_a_file_of_another_volume_is_refused(backend: Backend) -> None:
    volume = backend.created(1, b"theirs")

    said = refused(backend, {"source-name": volume.name})

    assert volume.id in said
    assert backend.read(volume, 6) == b"theirs"


def test_what_is_no_raw_file_of_its_own_is_refused(backend: Backend) -> None:
    qcow2 = foreign(backend, "image.qcow2")
    qcow2.write_bytes(b"QFI\xfb" + bytes(512))
    readonly = foreign(backend, "cut")
    readonly.chmod(0o400)
    os.link(foreign(backend, "linked"), readonly.with_name("other-name"))
    foreign(backend, "empty", 0).write_bytes(b"")
    before = backend.names()

    assert "qcow2" in refused(backend, {"source-name": "image.qcow2"})
    assert "read-only" in refused(backend, {"source-name": "cut"})
    assert "hard links" in refused(backend, {"source-name": "linked"})
    assert "empty" in refused(backend, {"source-name": "empty"})
    assert backend.names() == before


def test_a_file_in_use_is_not_taken(
    backend: Backend, devices: SimpleNamespace, exception: Any
) -> None:
    devices.attach(foreign(backend))

    with pytest.raises(exception.VolumeIsBusy):
        backend.driver.manage_existing(backend.volume(), {"source-name": "old.img"})


def test_a_file_whose_growth_has_no_room_is_left_as_it_is(
    small_disk: Any, load: Any, exception: Any
) -> None:
    disk: Disk = small_disk("ext4", 64)
    backend = load(disk.path)
    path = foreign(backend)

    with pytest.raises(exception.NoValidBackend):
        backend.driver.manage_existing(backend.volume(), {"source-name": "old.img"})

    assert path.stat().st_size == 5 * MIB
    assert backend.names() == {"old.img"}


def test_a_released_file_may_be_taken_again(backend: Backend, exception: Any) -> None:
    volume = backend.created(1, b"kept")

    backend.driver.unmanage(volume)

    again = backend.volume()
    backend.driver.manage_existing(again, {"source-name": volume.name})
    assert backend.read(again, 4) == b"kept"
    with pytest.raises(exception.VolumeNotFound):
        backend.driver.unmanage(volume)


def test_a_snapshot_is_taken_over_and_a_volume_is_made_of_it(
    backend: Backend, exception: Any
) -> None:
    volume = backend.created(1, b"new")
    foreign(backend, "cut", 1 << 30).chmod(0o400)
    snapshot = backend.snapshot(volume)
    reference = {"source-name": "cut"}

    assert backend.driver.manage_existing_snapshot_get_size(snapshot, reference) == 1
    backend.driver.manage_existing_snapshot(snapshot, reference)
    restored = backend.volume(1)
    backend.driver.create_volume_from_snapshot(restored, snapshot)

    assert backend.read(restored, 4) == b"data"
    backend.driver.unmanage_snapshot(snapshot)
    assert backend.path(snapshot).exists()
    backend.driver.unmanage(volume)
    with pytest.raises(exception.ManageExistingInvalidReference, match="writable"):
        backend.driver.manage_existing_snapshot_get_size(snapshot, {"source-name": volume.name})


def test_the_lists_tell_volumes_from_snapshots_and_page(backend: Backend) -> None:
    volume = backend.created(1)
    snapshot = backend.snapshot(volume)
    backend.driver.create_snapshot(snapshot)
    foreign(backend, "a.img")
    foreign(backend, "cut").chmod(0o400)
    arguments = (None, 10, 0, ["reference"], ["asc"])

    volumes = backend.driver.get_manageable_volumes([volume], *arguments)
    snapshots = backend.driver.get_manageable_snapshots([snapshot], *arguments)

    assert [(e["reference"]["source-name"], e["safe_to_manage"]) for e in volumes] == [
        ("a.img", True),
        (volume.name, False),
    ]
    assert volumes[1]["cinder_id"] == volume.id
    assert [e["reference"]["source-name"] for e in snapshots] == ["cut", snapshot.name]
    second = (volumes[0]["reference"], 10, 0, ["reference"], ["asc"])
    assert backend.driver.get_manageable_volumes([volume], *second) == volumes[1:]


@pytest.mark.parametrize(
    ("diff", "agreed"),
    [
        ({"extra_specs": {"tier": ("a", "b")}, "qos_specs": {}}, True),
        ({"extra_specs": {"replication_enabled": (None, "<is> True")}, "qos_specs": {}}, False),
        ({"extra_specs": {}, "qos_specs": {"consumer": (None, "back-end")}}, False),
        ({"extra_specs": {}, "qos_specs": {"consumer": ("back-end", None)}}, True),
        ({"extra_specs": {}, "qos_specs": {"consumer": (None, "front-end")}}, True),
    ],
)
def test_specs_change_unless_they_ask_for_what_files_do_not_have(
    backend: Backend, diff: dict[str, Any], agreed: bool
) -> None:
    volume = backend.created(1)

    assert backend.driver.retype(None, volume, None, diff, {}) is agreed
