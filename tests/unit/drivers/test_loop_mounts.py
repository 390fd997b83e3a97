"""Finding the filesystems on a volume file, and holding them still for a while."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from csi_driver.drivers.copying import Copier
from csi_driver.drivers.errors import VolumeFileBusy
from csi_driver.drivers.loop_mounts import (
    Mount,
    frozen,
    loop_devices_of,
    open_filesystems,
    parse_mountinfo,
    thaw_all,
    with_holders,
)
from csi_driver.drivers.volume_directory import VolumeDirectory

FITHAW = 0xC0045878


class RunsOutAtOnce:
    """A timer whose time is over when it is started."""

    def __init__(self, _seconds: float, function: Callable[[], None]) -> None:
        self._function = function

    def start(self) -> None:
        self._function()

    def cancel(self) -> None:
        """It is over already."""


def is_frozen(place: Path) -> bool:
    """Whether the filesystem was frozen; it is not any more after the question."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, FITHAW, 0)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


@pytest.fixture
def volume(ext4, devices):
    """A file with a loop device and, mounted from it, a filesystem."""
    file = ext4.path / "volume-1"
    with file.open("wb") as made:
        made.truncate(64 << 20)
    devices.run("mkfs.ext4", "-q", file)
    device = devices.attach(file)
    place = devices.mount(device)
    yield file, device, place
    is_frozen(place)  # lest the unmounting should wait for ever


def test_mountinfo_is_read_with_its_escapes_and_optional_fields():
    text = (
        "36 35 98:0 /mnt1 /mnt/with\\040space rw,noatime master:1 shared:2 - ext3 /dev/root rw\n"
        "42 27 7:0 / /plain rw - ext4 /dev/loop0 rw,errors=continue\n"
    )
    assert parse_mountinfo(text) == [
        Mount(36, "98:0", "/mnt/with space", "/dev/root"),
        Mount(42, "7:0", "/plain", "/dev/loop0"),
    ]


def test_devices_stacked_on_a_device_are_found(tmp_path):
    for holder in ("loop0/holders/dm-0", "dm-0/holders/dm-1", "loop0/holders/dm-2"):
        (tmp_path / holder).mkdir(parents=True)
    assert with_holders("loop0", tmp_path) == ["loop0", "dm-0", "dm-1", "dm-2"]
    assert with_holders("loop9", tmp_path) == ["loop9"]


@pytest.mark.root
def test_the_devices_of_a_file_are_its_own_ones(volume, ext4):
    file, device, _ = volume
    (ext4.path / "other").touch()
    assert loop_devices_of(file) == [Path(device).name]
    assert loop_devices_of(ext4.path / "other") == []


@pytest.mark.root
def test_a_frozen_filesystem_goes_on_afterwards_even_after_an_error(volume):
    file, _, place = volume
    filesystems = open_filesystems(file)
    assert len(filesystems) == 1
    try:
        with frozen(filesystems, 60) as check:
            check()
            with pytest.raises(VolumeFileBusy), frozen(filesystems, 60):
                pytest.fail("a frozen filesystem was frozen again")
            check()
        assert not is_frozen(place)
        with pytest.raises(RuntimeError), frozen(filesystems, 60):
            raise RuntimeError
        assert not is_frozen(place)
    finally:
        for descriptor in filesystems:
            os.close(descriptor)


@pytest.mark.root
def test_a_freeze_ends_with_its_time_and_the_copy_is_not_taken(volume):
    file, _, place = volume
    filesystems = open_filesystems(file)
    timers = []

    def timer(seconds: float, function: Callable[[], None]) -> RunsOutAtOnce:
        timers.append(seconds)
        expire.append(function)
        return RunsOutAtOnce(seconds, lambda: None)

    expire: list[Callable[[], None]] = []
    try:
        with frozen(filesystems, 7, timer) as check:
            expire[0]()
            assert not is_frozen(place)
            with pytest.raises(VolumeFileBusy, match="7 s"):
                check()
        assert timers == [7]
        with (
            pytest.raises(VolumeFileBusy),
            frozen(filesystems, 7, RunsOutAtOnce),
        ):
            pytest.fail("its time was over before")
        assert not is_frozen(place)
    finally:
        for descriptor in filesystems:
            os.close(descriptor)


@pytest.mark.root
def test_a_device_that_is_not_mounted_cannot_be_held(ext4, devices):
    file = ext4.path / "volume-1"
    file.write_bytes(b"x" * 4096)
    assert open_filesystems(file) == []
    devices.attach(file)
    assert open_filesystems(file) is None


@pytest.mark.root
def test_a_mount_hidden_under_another_is_not_taken_for_it(volume):
    file, _, place = volume
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    try:
        assert open_filesystems(file) is None
    finally:
        subprocess.run(["umount", place], check=True)


FREEZE_AND_WAIT = """
import sys, pathlib
from csi_driver.drivers.loop_mounts import frozen, open_filesystems
from csi_driver.drivers.volume_directory import VolumeDirectory
file = pathlib.Path(sys.argv[1])
with VolumeDirectory(file.parent).freezing(file.name), frozen(open_filesystems(file), 300):
    print("frozen", flush=True)
    sys.stdin.read()
"""


@pytest.mark.root
def test_what_a_dead_process_left_frozen_is_thawed_at_the_next_start(volume):
    file, _, place = volume
    files = VolumeDirectory(file.parent)
    process = subprocess.Popen(
        [sys.executable, "-c", FREEZE_AND_WAIT, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    with process:
        try:
            assert process.stdout.readline() == "frozen\n"
            files.left_frozen(lambda path: pytest.fail(f"{path} is in the hands of the living"))
        finally:
            process.send_signal(signal.SIGKILL)
    thawed: list[Path] = []
    files.left_frozen(lambda path: (thawed.append(path), thaw_all(path)))
    assert thawed == [file]
    assert not is_frozen(place)
    files.left_frozen(thawed.append)
    assert thawed == [file]


@pytest.mark.root
def test_a_copy_that_takes_too_long_is_given_up_and_leaves_no_note(volume):
    file, _, place = volume
    copier = Copier(VolumeDirectory(file.parent), 5, RunsOutAtOnce)
    with (
        (file.parent / "copy").open("wb") as target,
        pytest.raises(VolumeFileBusy, match="5 s"),
    ):
        copier.copy(file.name, target.fileno())
    assert not is_frozen(place)
    assert not list(file.parent.glob(".freezing-*"))
