"""Loop devices: made whole, found again, never left and never taken from others."""

import contextlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from csi_driver.attach import devices, loop
from csi_driver.attach.errors import DeviceReadError, LoopDeviceBusy, LoopDeviceFailed
from tests.support.disks import EXT_BYTES, MIB, loop_device, make_filesystem, mounted, sparse_file
from tests.support.leftovers import release

pytestmark = pytest.mark.root


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    yield sparse_file(tmp_path / "volume", EXT_BYTES)
    release(tmp_path)


def test_a_device_shows_its_file(file: Path) -> None:
    device = loop.attach(file)
    assert devices.size_bytes(device) == EXT_BYTES
    found = loop.backing_file(device)
    status = file.stat()
    assert found == loop.BackingFile(
        path=file, device_number=status.st_dev, inode=status.st_ino, deleted=False
    )
    assert loop.devices_of(file) == [device]
    loop.detach(device)
    assert loop.backing_file(device) is None
    assert loop.devices_of(file) == []


def test_what_is_written_to_the_device_is_in_the_file(file: Path) -> None:
    device = loop.attach(file)
    with open(device, "r+b") as disk:  # noqa: PTH123
        disk.write(b"hello")
    devices.flush(device)
    assert file.read_bytes()[:5] == b"hello"


def test_no_device_is_reused(file: Path) -> None:
    assert loop.attach(file) != loop.attach(file)
    assert len(loop.devices_of(file)) == 2


def test_a_read_only_device_refuses_writes(file: Path) -> None:
    device = loop.attach(file, readonly=True)
    assert devices.is_read_only(device)
    with pytest.raises(OSError, match="not permitted"), open(device, "r+b") as disk:  # noqa: PTH123
        disk.write(b"x")


def test_a_number_that_was_made_read_only_is_writable_for_the_next_file(file: Path) -> None:
    device = loop.attach(file)
    devices.set_read_only(device, True)
    loop.detach(device)
    assert not devices.is_read_only(loop.attach(file))


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(LoopDeviceFailed, match="No such file"):
        loop.attach(tmp_path / "missing")


def test_sixteen_attaches_at_once_get_sixteen_devices(tmp_path: Path) -> None:
    files = [sparse_file(tmp_path / f"volume-{n}", MIB) for n in range(16)]
    barrier = threading.Barrier(16)

    def attach(file: Path) -> str:
        barrier.wait()
        return loop.attach(file)

    try:
        with ThreadPoolExecutor(16) as pool:
            made = list(pool.map(attach, files))
        assert len(set(made)) == 16
        assert [loop.devices_of(file) for file in files] == [[device] for device in made]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(loop.detach, made))
        assert [loop.devices_of(file) for file in files] == [[]] * 16
    finally:
        release(tmp_path)


def test_a_hard_link_is_the_same_file(file: Path) -> None:
    device = loop.attach(file)
    other = file.with_name("other")
    other.hardlink_to(file)
    assert loop.devices_of(other) == [device]


def test_a_deleted_file_is_recognised(file: Path) -> None:
    device = loop.attach(file)
    file.unlink()
    found = loop.backing_file(device)
    assert found is not None
    assert (found.path, found.deleted) == (file, True)
    assert loop.devices_of(file) == [device]


def test_a_replaced_file_is_told_from_the_one_behind_the_device(file: Path) -> None:
    device = loop.attach(file)
    sparse_file(file.with_name("new"), MIB).replace(file)
    found = loop.backing_file(device)
    assert found is not None
    assert found.deleted
    assert found.inode != file.stat().st_ino
    assert loop.devices_of(file) == [device]


def test_a_device_follows_its_file_when_that_is_renamed(file: Path) -> None:
    device = loop.attach(file)
    moved = file.rename(file.with_name("moved"))
    assert loop.devices_of(moved) == [device]
    assert loop.devices_of(file) == []


def test_a_device_grows_with_its_file(file: Path) -> None:
    device = loop.attach(file)
    os.truncate(file, 2 * EXT_BYTES)
    assert devices.size_bytes(device) == EXT_BYTES
    assert loop.refresh_size(device) == 2 * EXT_BYTES
    assert devices.size_bytes(device) == 2 * EXT_BYTES


@pytest.mark.parametrize("device", ["/dev/null", "/dev/loop4095", "/nonexistent"])
def test_what_is_no_bound_device_has_no_file_and_no_size(device: str) -> None:
    assert loop.backing_file(device) is None
    loop.detach(device)
    with pytest.raises(LoopDeviceFailed):
        loop.refresh_size(device)


def test_detaching_twice_is_no_error(file: Path) -> None:
    device = loop.attach(file)
    loop.detach(device)
    loop.detach(device)


def test_a_mounted_device_is_busy_and_stays_whole(file: Path, tmp_path: Path) -> None:
    device = loop.attach(file)
    make_filesystem(device, "ext4")
    point = tmp_path / "mnt"
    with mounted(device, point, "ext4"), pytest.raises(LoopDeviceBusy, match=str(point)):
        loop.detach(device)
    # Not even marked to vanish with its last user.
    assert loop.devices_of(file) == [device]
    loop.detach(device)


def test_an_open_device_is_busy_until_it_is_closed(file: Path) -> None:
    device = loop.attach(file)
    with open(device, "rb"):  # noqa: PTH123
        with pytest.raises(LoopDeviceBusy, match=f"process {os.getpid()}"):
            loop.detach(device, patience=0)
        assert loop.devices_of(file) == [device]
    assert loop.devices_of(file) == []
    loop.detach(device)


def test_a_passing_user_is_waited_for(file: Path) -> None:
    device = loop.attach(file)
    descriptor = os.open(device, os.O_RDONLY)
    closer = threading.Timer(0.05, os.close, [descriptor])
    closer.start()
    loop.detach(device, patience=60)
    closer.join()
    assert loop.devices_of(file) == []


def test_reading_behind_the_end_of_a_truncated_file_fails(file: Path) -> None:
    device = loop.attach(file)
    os.truncate(file, MIB)
    with pytest.raises(DeviceReadError):
        devices.read_check(device)


class TestDevicesMadeForAFile:
    def test_all_of_them_go(self, file: Path) -> None:
        loop.attach(file)
        loop.attach(file, readonly=True)
        loop.detach_made_for(file)
        assert loop.devices_of(file) == []

    def test_those_of_others_stay(self, file: Path) -> None:
        with loop_device(file) as theirs:
            loop.attach(file)
            loop.detach_made_for(file)
            loop.detach_made_for(file, only=theirs)
            assert loop.devices_of(file) == [theirs]

    def test_one_can_be_named(self, file: Path) -> None:
        first, second = loop.attach(file), loop.attach(file)
        loop.detach_made_for(file, only=first)
        assert loop.devices_of(file) == [second]

    def test_a_number_that_went_to_another_file_is_left_alone(self, file: Path) -> None:
        device = loop.attach(file)
        assert loop.backing_file(device) is not None
        loop.detach_made_for(file.with_name("other"), only=device)
        assert loop.devices_of(file) == [device]

    def test_they_go_after_the_file_is_deleted_or_renamed(self, file: Path) -> None:
        device = loop.attach(file)
        file.unlink()
        loop.detach_made_for(file)
        assert loop.backing_file(device) is None

    def test_a_busy_one_does_not_keep_the_others(self, file: Path) -> None:
        busy, idle = loop.attach(file), loop.attach(file)
        with contextlib.ExitStack() as stack:
            stack.enter_context(open(busy, "rb"))  # noqa: PTH123
            with pytest.raises(LoopDeviceBusy):
                loop.detach_made_for(file, patience=0)
            assert loop.backing_file(idle) is None
