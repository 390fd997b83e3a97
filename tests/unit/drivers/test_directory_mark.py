"""A volume directory whose filesystem is not mounted, or that was replaced, is left alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from csi_driver.cinderlib.exceptions import BackendSetupFailed
from csi_driver.cinderlib.lookup import StoreLookup
from csi_driver.cinderlib.manager import VolumeManager
from csi_driver.cinderlib.persistence.factory import open_store
from csi_driver.config import FILE_DRIVER
from csi_driver.drivers.directory_mark import MARK
from csi_driver.drivers.errors import VolumeDirectoryAway
from csi_driver.drivers.volume_directory import VolumeDirectory
from csi_driver.rpc.errors import NON_FINAL
from tests.support.controller_bench import Code, ControllerBench, Refused
from tests.support.sidecar import Sidecar

NAME = "volume-11111111-2222-3333-4444-555555555555"
OTHER = "volume-11111111-2222-3333-4444-666666666666"


def room(_usage: object) -> None:
    """There is room."""


def make(files: VolumeDirectory, name: str = NAME) -> None:
    with files.making(name, 4096, room, owner="id"):
        pass


def started(path: Path, recorded: bool) -> VolumeDirectory:
    files = VolumeDirectory(path, lambda: recorded)
    files.prepare()
    return files


class Disk:
    """A filesystem that is mounted at ``place`` and unmounted again, and keeps its content."""

    def __init__(self, image: Path, place: Path) -> None:
        self.place = place
        self._image = image
        with image.open("wb") as file:
            file.truncate(2 << 30)
        self._run("mkfs.ext4", "-q", image)
        place.mkdir()

    def mount(self) -> None:
        self._run("mount", "-o", "loop", self._image, self.place)

    def unmount(self) -> None:
        self._run("umount", self.place)

    @staticmethod
    def _run(*command: object) -> None:
        subprocess.run([str(word) for word in command], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Not mounted yet."""
    made = Disk(tmp_path / "disk.img", tmp_path / "volumes")
    yield made
    while os.path.ismount(made.place):
        made.unmount()


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Mounts; all are gone after the test."""
    with ExitStack() as undo:

        def mount(*arguments: object) -> None:
            subprocess.run(["mount", *map(str, arguments)], check=True)
            undo.callback(subprocess.run, ["umount", str(arguments[-1])], check=True)

        yield mount


USES: dict[str, Callable[[VolumeDirectory], object]] = {
    "make": lambda files: make(files, OTHER),
    "remove": lambda files: files.remove(NAME),
    "look and remove": lambda files: files.remove(NAME, lambda found, owner: None),
    "find": lambda files: files.find(NAME),
    "grow": lambda files: files.grow(NAME, 8192, room),
    "owner": lambda files: files.owner(NAME),
    "adopt": lambda files: files.adopt(NAME, OTHER, owner="id"),
    "list": lambda files: files.names(snapshots=False),
    "check": lambda files: files.check(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_nothing_is_done_while_the_filesystem_is_not_mounted(disk, use):
    disk.mount()
    files = started(disk.place, recorded=False)
    make(files)
    disk.unmount()
    with pytest.raises(VolumeDirectoryAway, match="Mount the filesystem"):
        use(files)
    assert list(disk.place.iterdir()) == []
    disk.mount()
    assert files.find(NAME)
    files.remove(NAME)
    assert files.find(NAME) is None


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_nothing_is_done_in_a_filesystem_that_is_mounted_over_the_directory(tmp_path, mount, use):
    files = started(tmp_path / "volumes", recorded=False)
    make(files)
    mount("-t", "tmpfs", "-o", "size=1m", "over", files.path)
    with pytest.raises(VolumeDirectoryAway):
        use(files)
    assert list(files.path.iterdir()) == []


def test_a_file_of_the_same_name_in_the_wrong_directory_is_not_taken(disk):
    (disk.place / NAME).write_bytes(b"wrong")
    disk.mount()
    files = started(disk.place, recorded=False)
    make(files)
    disk.unmount()
    for use in (files.find, files.remove, files.owner):
        with pytest.raises(VolumeDirectoryAway):
            use(NAME)
    assert (disk.place / NAME).read_bytes() == b"wrong"


def test_nothing_counts_as_removed_when_the_filesystem_went_while_it_was_looked_at(disk):
    disk.mount()
    files = started(disk.place, recorded=False)
    make(files)
    with pytest.raises(VolumeDirectoryAway):
        files.remove(NAME, lambda found, owner: disk.unmount())
    disk.mount()
    assert files.find(NAME)


def test_a_bind_mount_is_the_same_directory(tmp_path, mount):
    files = started(tmp_path / "volumes", recorded=False)
    make(files)
    mount("--bind", files.path, files.path)
    assert files.find(NAME)
    make(files, OTHER)


def test_a_directory_that_was_moved_is_away_until_it_or_a_copy_is_back(tmp_path):
    files = started(tmp_path / "volumes", recorded=False)
    make(files)
    files.path.rename(tmp_path / "moved")
    with pytest.raises(VolumeDirectoryAway, match="not there"):
        files.remove(NAME)
    files.path.mkdir()
    with pytest.raises(VolumeDirectoryAway, match="not marked"):
        files.remove(NAME)
    (files.path / MARK).symlink_to("another")
    with pytest.raises(VolumeDirectoryAway, match="marked as another"):
        files.remove(NAME)
    shutil.rmtree(files.path)
    shutil.copytree(tmp_path / "moved", files.path, symlinks=True)
    assert files.find(NAME)


def test_a_start_is_refused_while_the_filesystem_is_not_mounted(disk):
    disk.mount()
    make(started(disk.place, recorded=False))
    disk.unmount()
    with pytest.raises(VolumeDirectoryAway, match="is empty, and volumes in it are recorded"):
        started(disk.place, recorded=True)
    assert list(disk.place.iterdir()) == []
    disk.mount()
    assert started(disk.place, recorded=True).find(NAME)


def test_a_start_before_the_first_mount_does_not_make_the_mount_point_pass_later(disk):
    started(disk.place, recorded=False)
    disk.mount()
    make(started(disk.place, recorded=False))
    disk.unmount()
    with pytest.raises(VolumeDirectoryAway):
        started(disk.place, recorded=True)


def test_a_filesystem_that_is_mounted_after_a_start_without_volumes_is_used(disk):
    files = started(disk.place, recorded=False)
    disk.mount()
    make(files)
    assert (disk.place / MARK).is_symlink()
    disk.unmount()
    with pytest.raises(VolumeDirectoryAway):
        files.find(NAME)


def test_a_directory_that_is_missing_is_made_only_if_nothing_in_it_is_recorded(tmp_path):
    path = tmp_path / "volumes"
    with pytest.raises(VolumeDirectoryAway, match="is not there, and volumes in it are recorded"):
        started(path, recorded=True)
    assert not path.exists()
    make(started(path, recorded=False))


def test_a_directory_whose_volumes_were_all_deleted_is_still_known(tmp_path):
    files = started(tmp_path / "volumes", recorded=False)
    make(files)
    files.remove(NAME)
    make(started(files.path, recorded=True))


def test_a_directory_of_a_version_without_marks_is_marked(tmp_path):
    path = tmp_path / "volumes"
    path.mkdir()
    (path / NAME).write_bytes(b"old")
    files = started(path, recorded=True)
    known = (path / MARK).readlink()
    files.remove(NAME)
    started(path, recorded=True)
    assert (path / MARK).readlink() == known


@pytest.mark.parametrize("left", ["lost+found", "NOT_MOUNTED", ".lock"])
def test_what_a_mount_point_may_hold_is_no_volume(tmp_path, left):
    (tmp_path / left).touch()
    with pytest.raises(VolumeDirectoryAway):
        started(tmp_path, recorded=True)


def test_a_mark_made_by_hand_lets_an_empty_directory_be_used(tmp_path):
    with pytest.raises(VolumeDirectoryAway, match=f"ln -s new {tmp_path}/{MARK}"):
        started(tmp_path, recorded=True)
    (tmp_path / MARK).symlink_to("new")
    make(started(tmp_path, recorded=True))
    assert (tmp_path / MARK).readlink() == Path("new")


def test_processes_agree_on_the_mark(tmp_path):
    first, second = (started(tmp_path / "volumes", recorded=False) for _ in range(2))
    make(first)
    known = (first.path / MARK).readlink()
    make(second, OTHER)
    assert (first.path / MARK).readlink() == known
    for files in (first, second):
        files.remove(NAME)


def test_calls_are_repeated_until_the_filesystem_is_mounted(tmp_path, disk):
    options = {"volume_driver": FILE_DRIVER, "file_volume_directory": disk.place}

    def controller() -> ControllerBench:
        return ControllerBench(tmp_path, store="db", options=options, name="marked")

    disk.mount()
    with controller() as bench:
        bench.service.start()
        volume = bench.create("pvc-1").volume_id
        disk.unmount()
        with Refused(Code.UNAVAILABLE, "Mount the filesystem"):
            bench.delete(volume)
        with pytest.raises(grpc.RpcError) as refused:
            bench.create("pvc-2")
        assert refused.value.code() in NON_FINAL
        assert list(disk.place.iterdir()) == []
    with (
        contextlib.closing(open_store("db", tmp_path / "state")) as store,
        pytest.raises(BackendSetupFailed, match="Mount the filesystem"),
    ):
        VolumeManager("marked", options, StoreLookup(store))
    disk.mount()
    with controller() as bench, Sidecar(str(bench.socket)) as sidecar:
        bench.service.start()
        sidecar.delete(volume).expect()
        assert {path.name for path in disk.place.iterdir()} == {".lock", MARK, "lost+found"}
