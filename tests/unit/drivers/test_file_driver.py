"""The file driver, called as Cinder's manager calls a driver, on real filesystems."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from csi_driver.attach import loop
from csi_driver.base.values import GIB

pytestmark = pytest.mark.root

END = b"the last bytes"


@pytest.fixture
def exception(cinder: Any) -> Any:
    from cinder import exception

    return exception


def test_a_volume_is_a_sparse_file_of_its_size(backend):
    volume = backend.created(size=5)
    info = backend.path(volume).stat()
    assert backend.path(volume).name == f"volume-{volume.id}"
    assert info.st_size == 5 * GIB
    assert info.st_blocks == 0


def test_a_second_volume_of_one_id_is_refused(backend, exception):
    volume = backend.created(content=b"precious")
    with pytest.raises(exception.Duplicate):
        backend.driver.create_volume(volume)
    assert backend.read(volume, 8) == b"precious"


def test_deleting_is_repeatable(backend):
    volume = backend.created()
    backend.driver.delete_volume(volume)
    backend.driver.delete_volume(volume)
    snapshot = backend.snapshot(volume)
    backend.driver.delete_snapshot(snapshot)
    assert backend.names() == set()


def test_a_snapshot_keeps_the_content_and_outlives_the_volume(backend):
    volume = backend.created(content=b"before")
    backend.write(volume, END, GIB - len(END))
    snapshot = backend.snapshot(volume)
    backend.driver.create_snapshot(snapshot)
    backend.write(volume, b"after!")
    backend.driver.delete_volume(volume)

    restored = backend.volume()
    backend.driver.create_volume_from_snapshot(restored, snapshot)
    backend.driver.delete_snapshot(snapshot)
    assert backend.read(restored, 6) == b"before"
    assert backend.read(restored, 99, GIB - len(END)) == END
    assert backend.path(restored).stat().st_blocks * 512 < GIB // 100


def test_a_clone_is_independent_of_its_source(backend):
    source = backend.created(content=b"common")
    clone = backend.volume()
    backend.driver.create_cloned_volume(clone, source)
    backend.write(source, b"source")
    backend.write(clone, b"clone!")
    assert backend.read(source, 6) == b"source"
    assert backend.read(clone, 6) == b"clone!"


def test_copies_may_be_larger_and_then_end_in_zeros(backend):
    source = backend.created(content=b"data")
    backend.write(source, END, GIB - len(END))
    snapshot = backend.snapshot(source)
    backend.driver.create_snapshot(snapshot)
    clone, restored = backend.volume(size=2), backend.volume(size=3)
    backend.driver.create_cloned_volume(clone, source)
    backend.driver.create_volume_from_snapshot(restored, snapshot)
    for copy in (clone, restored):
        assert backend.path(copy).stat().st_size == copy.size * GIB
        assert backend.read(copy, 4) == b"data"
        assert backend.read(copy, len(END) + 100, GIB - len(END)) == END + bytes(100)


def test_a_copy_smaller_than_its_source_is_refused(backend, exception):
    source = backend.created(size=2)
    clone = backend.volume(size=1)
    with pytest.raises(exception.InvalidInput, match="1 GiB are less than the 2 GiB"):
        backend.driver.create_cloned_volume(clone, source)
    assert backend.names() == {source.name}


def test_what_is_not_there_cannot_be_copied_extended_or_connected(backend, exception):
    absent = backend.volume()
    snapshot = backend.snapshot(absent)
    with pytest.raises(exception.VolumeNotFound):
        backend.driver.create_cloned_volume(backend.volume(), absent)
    with pytest.raises(exception.SnapshotNotFound):
        backend.driver.create_volume_from_snapshot(backend.volume(), snapshot)
    with pytest.raises(exception.VolumeNotFound):
        backend.driver.create_snapshot(snapshot)
    with pytest.raises(exception.VolumeNotFound):
        backend.driver.extend_volume(absent, 2)
    with pytest.raises(exception.VolumeNotFound):
        backend.driver.initialize_connection(absent, backend.connector())
    assert backend.names() == set()


def test_a_volume_is_extended_while_it_is_in_use(backend, devices):
    volume = backend.created(content=b"data")
    device = devices.attach(backend.path(volume))
    backend.driver.extend_volume(volume, 2)
    backend.driver.extend_volume(volume, 2)
    assert loop.refresh_size(device) == 2 * GIB
    with Path(device).open("rb") as opened:
        assert opened.read(4) == b"data"


def test_a_volume_in_use_is_not_deleted(backend, devices, exception):
    volume = backend.created()
    device = devices.attach(backend.path(volume))
    with pytest.raises(exception.VolumeIsBusy, match=device.removeprefix("/dev/")):
        backend.driver.delete_volume(volume)
    loop.detach(device)
    backend.driver.delete_volume(volume)


def test_a_reverted_volume_has_the_old_content_and_the_present_size(backend):
    volume = backend.created(content=b"old")
    snapshot = backend.snapshot(volume)
    backend.driver.create_snapshot(snapshot)
    backend.driver.extend_volume(volume, 2)
    backend.write(volume, b"new")
    backend.write(volume, END, 2 * GIB - len(END))
    inode = backend.path(volume).stat().st_ino

    backend.driver.revert_to_snapshot(None, volume, snapshot)
    info = backend.path(volume).stat()
    assert (info.st_ino, info.st_size) == (inode, 2 * GIB)
    assert backend.read(volume, 3) == b"old"
    assert backend.read(volume, 99, 2 * GIB - len(END)) == bytes(len(END))
    connection = backend.driver.initialize_connection(volume, backend.connector())
    assert connection["data"]["identity"] == f"file:{volume.id}"


def test_a_volume_in_use_is_not_reverted(backend, devices, exception):
    volume = backend.created(content=b"old")
    snapshot = backend.snapshot(volume)
    backend.driver.create_snapshot(snapshot)
    backend.write(volume, b"new")
    devices.attach(backend.path(volume))
    with pytest.raises(exception.VolumeIsBusy):
        backend.driver.revert_to_snapshot(None, volume, snapshot)
    assert backend.read(volume, 3) == b"new"


def test_a_volume_is_not_reverted_to_what_is_not_there(backend, exception):
    volume = backend.created(content=b"new")
    with pytest.raises(exception.SnapshotNotFound):
        backend.driver.revert_to_snapshot(None, volume, backend.snapshot(volume))
    assert backend.read(volume, 3) == b"new"
    backend.driver.initialize_connection(volume, backend.connector())


def test_a_half_reverted_volume_is_refused_until_it_is_reverted(small_disk, load, exception):
    disk = small_disk("tmpfs", 64)
    backend = load(disk.path, max_over_subscription_ratio="100")
    volume = backend.created(content=b"x" * (20 << 20))
    snapshot = backend.snapshot(volume)
    backend.driver.create_snapshot(snapshot)
    backend.write(volume, bytes(1), offset=0)
    os.truncate(backend.path(volume), 0)
    os.truncate(backend.path(volume), GIB)
    (disk.path / "ballast").write_bytes(b"x" * (34 << 20))

    with pytest.raises(exception.VolumeBackendAPIException, match="No space left"):
        backend.driver.revert_to_snapshot(None, volume, snapshot)
    for refused in (
        lambda: backend.driver.initialize_connection(volume, backend.connector()),
        lambda: backend.driver.create_snapshot(backend.snapshot(volume)),
        lambda: backend.driver.create_cloned_volume(backend.volume(), volume),
        lambda: backend.driver.extend_volume(volume, 2),
    ):
        with pytest.raises(exception.VolumeIsBusy, match=f"half reverted to {snapshot.name}"):
            refused()

    (disk.path / "ballast").unlink()
    backend.driver.revert_to_snapshot(None, volume, snapshot)
    backend.driver.initialize_connection(volume, backend.connector())
    assert backend.read(volume, 20 << 20) == b"x" * (20 << 20)


def test_a_connection_is_the_file_and_says_whose_it_is(backend):
    volume = backend.created()
    assert backend.driver.initialize_connection(volume, backend.connector()) == {
        "driver_volume_type": "local",
        "data": {
            "device_path": str(backend.path(volume)),
            "access_mode": "rw",
            "discard": True,
            "identity": f"file:{volume.id}",
        },
    }


def test_a_read_only_attachment_is_told(backend):
    volume = backend.created()
    volume = backend.volume(cinder_id=volume.id, admin_metadata={"attached_mode": "ro"})
    connection = backend.driver.initialize_connection(volume, backend.connector())
    assert connection["data"]["access_mode"] == "ro"


def test_a_file_that_does_not_say_whose_it_is_has_no_identity(backend):
    volume = backend.created()
    os.removexattr(backend.path(volume), "user.cinderlib.volume_id")
    connection = backend.driver.initialize_connection(volume, backend.connector())
    assert "identity" not in connection["data"]


def test_a_file_of_another_volume_is_neither_connected_nor_touched(backend, exception):
    volume, other = backend.created(), backend.created(content=b"other's")
    snapshot = backend.snapshot(other)
    backend.driver.create_snapshot(snapshot)
    backend.path(other).replace(backend.path(volume))
    for refused in (
        lambda: backend.driver.initialize_connection(volume, backend.connector()),
        lambda: backend.driver.delete_volume(volume),
        lambda: backend.driver.extend_volume(volume, 2),
        lambda: backend.driver.revert_to_snapshot(None, volume, snapshot),
        lambda: backend.driver.create_cloned_volume(backend.volume(), volume),
    ):
        with pytest.raises(exception.VolumeBackendAPIException, match=other.id):
            refused()
    assert backend.read(volume, 7) == b"other's"


def test_other_hosts_are_refused(backend, exception):
    volume = backend.created()
    for connector in ({"host": "elsewhere"}, {"host": ""}, {}):
        with pytest.raises(exception.InvalidConnectorException):
            backend.driver.validate_connector(connector)
        with pytest.raises(exception.InvalidConnectorException):
            backend.driver.initialize_connection(volume, connector)
    backend.driver.validate_connector(backend.connector())
    backend.driver.validate_connector({"host": backend.host.partition("@")[0]})


def test_a_volume_has_several_attachments_on_its_host(backend):
    volume = backend.created()
    connector = backend.connector()
    backend.driver.create_export(None, volume, connector)
    first = backend.driver.initialize_connection(volume, connector)
    second = backend.driver.initialize_connection(volume, connector)
    assert first == second
    backend.driver.terminate_connection(volume, connector)
    backend.driver.ensure_export(None, volume)
    backend.driver.terminate_connection(volume, connector, force=True)
    backend.driver.remove_export(None, volume)


def test_the_driver_says_that_only_its_host_reaches_its_volumes(backend, disk):
    assert backend.driver.accessible_from_host_only is True
    assert backend.pool()["location_info"] == f"FileVolumeDriver:{backend.host}:{disk.path}"


@pytest.mark.filterwarnings("ignore:.*is an invalid UUID:FutureWarning")
@pytest.mark.parametrize("cinder_id", ["../../etc/passwd", "a/b", "x" * 240, "a b"])
def test_an_id_that_is_no_file_name_is_refused(backend, exception, cinder_id):
    volume = backend.volume(cinder_id=cinder_id)
    with pytest.raises(exception.InvalidInput):
        backend.driver.create_volume(volume)
    with pytest.raises(exception.InvalidInput):
        backend.driver.delete_volume(volume)
    assert backend.names() == set()


@pytest.mark.parametrize("directory", ["", "relative/path"])
def test_a_directory_must_be_named_in_full(load, directory):
    from csi_driver.cinderlib.exceptions import BackendSetupFailed

    with pytest.raises(BackendSetupFailed, match="file_volume_directory"):
        load(directory)


# Capacity


def test_the_figures_are_those_of_the_disk(small_disk, load):
    disk = small_disk("ext4", 4096)
    backend = load(disk.path)
    before = backend.pool()
    disk_free = os.statvfs(disk.path).f_bavail * os.statvfs(disk.path).f_frsize / GIB
    assert before["free_capacity_gb"] == pytest.approx(disk_free, abs=0.011)
    assert before["total_capacity_gb"] == before["free_capacity_gb"]
    assert before["provisioned_capacity_gb"] == 0
    assert before["max_over_subscription_ratio"] == 1.0
    assert before["thin_provisioning_support"] is True

    volume = backend.created(size=2)
    backend.write(volume, b"x" * (512 << 20))
    after = backend.pool()
    assert after["provisioned_capacity_gb"] == 2
    assert after["free_capacity_gb"] == pytest.approx(before["free_capacity_gb"] - 0.5, abs=0.02)
    assert after["total_capacity_gb"] == pytest.approx(before["total_capacity_gb"], abs=0.02)


def test_what_the_pool_cannot_hold_is_refused_before_anything_is_made(small_disk, load, exception):
    backend = load(small_disk("tmpfs", 2560).path)
    volume = backend.created(size=2)
    snapshot = backend.snapshot(volume)
    backend.driver.create_snapshot(snapshot)
    before = backend.names()
    for refused in (
        lambda: backend.driver.create_volume(backend.volume(size=1)),
        lambda: backend.driver.create_cloned_volume(backend.volume(size=2), volume),
        lambda: backend.driver.create_volume_from_snapshot(backend.volume(size=2), snapshot),
        lambda: backend.driver.extend_volume(volume, 3),
    ):
        with pytest.raises(exception.NoValidBackend, match=r"room for 0\.5 GiB"):
            refused()
    assert backend.names() == before
    assert backend.path(volume).stat().st_size == 2 * GIB


def test_a_snapshot_that_the_pool_cannot_hold_is_refused(small_disk, load, exception):
    backend = load(small_disk("tmpfs", 1100).path)
    volume = backend.created()
    backend.write(volume, b"x" * (200 << 20))
    with pytest.raises(exception.NoValidBackend):
        backend.driver.create_snapshot(backend.snapshot(volume))
    assert backend.names() == {volume.name}


def test_a_pool_may_be_promised_more_than_once_when_that_is_asked(small_disk, load, exception):
    disk = small_disk("tmpfs", 2048)
    backend = load(disk.path, max_over_subscription_ratio="2", reserved_percentage=50)
    backend.created(size=2)
    assert backend.pool()["max_over_subscription_ratio"] == 2
    with pytest.raises(exception.NoValidBackend):
        backend.created(size=1)


def test_of_two_at_once_for_the_last_room_one_is_refused(small_disk, load, exception):
    backend = load(small_disk("tmpfs", 1536).path)
    barrier = Barrier(4)

    def create(volume: Any) -> bool:
        barrier.wait()
        try:
            backend.driver.create_volume(volume)
        except exception.NoValidBackend:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(create, [backend.volume() for _ in range(4)]))
    assert sorted(made) == [False, False, False, True]
