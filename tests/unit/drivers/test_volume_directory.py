"""Volume files: whole or not there, under their own names, and swept up after a crash."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from csi_driver.drivers.directory_mark import MARK
from csi_driver.drivers.errors import (
    PoolFull,
    UnsafeName,
    VolumeFileBusy,
    VolumeFileError,
    VolumeFileExists,
    VolumeFileMissing,
)
from csi_driver.drivers.volume_directory import VolumeDirectory


def anything(_usage: object) -> None:
    """There is room."""


@pytest.fixture
def files(tmp_path: Path) -> VolumeDirectory:
    files = VolumeDirectory(tmp_path / "volumes")
    files.prepare()
    return files


def visible(files: VolumeDirectory) -> set[str]:
    return {path.name for path in files.path.iterdir()} - {".lock", MARK}


def make(files: VolumeDirectory, name: str, content: bytes = b"", owner: str = "id") -> Path:
    with files.making(name, 4096, anything, owner=owner) as target:
        os.write(target, content)
    return files.path / name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "a/b", "../a", "/etc/passwd", "a\0b", "a\n", "x" * 250, "-rf"],
)
def test_what_is_no_plain_file_name_is_refused(files, name):
    with pytest.raises(UnsafeName):
        files.path_of(name)
    with pytest.raises(UnsafeName):
        files.remove(name)
    with pytest.raises(UnsafeName):
        make(files, name)
    assert visible(files) == set()


def test_a_file_appears_under_its_name_when_it_is_complete(files):
    with files.making("volume-1", 4096, anything, owner="id") as target:
        os.write(target, b"half")
        assert "volume-1" not in visible(files)
    assert visible(files) == {"volume-1"}


def test_a_file_that_could_not_be_filled_leaves_nothing(files):
    with pytest.raises(PoolFull), files.making("volume-1", 4096, anything, owner="id"):
        raise OSError(28, "No space left on device")
    assert visible(files) == set()


def test_an_existing_file_is_never_replaced(files):
    path = make(files, "volume-1", b"precious")
    with pytest.raises(VolumeFileExists, match="volume-1"):
        make(files, "volume-1", b"other")
    with (
        pytest.raises(VolumeFileExists),
        files.making("volume-2", 1, anything, owner="id"),
    ):
        (files.path / "volume-2").write_bytes(b"came in between")
    assert path.read_bytes()[:8] == b"precious"
    assert (files.path / "volume-2").read_bytes() == b"came in between"
    assert visible(files) == {"volume-1", "volume-2"}


def test_nobody_else_reads_a_volume_and_nobody_writes_a_snapshot(files):
    volume = make(files, "volume-1")
    snapshot = make(files, "snapshot-1", owner="")
    assert stat.S_IMODE(volume.stat().st_mode) == 0o600
    assert stat.S_IMODE(snapshot.stat().st_mode) == 0o400
    assert stat.S_IMODE(files.path.stat().st_mode) == 0o700


def test_a_volume_is_promised_its_size_and_a_snapshot_what_it_has(files):
    before = files.usage()
    with files.making("volume-1", 1 << 30, anything, owner="id") as target:
        os.write(target, b"x" * 65536)
        assert files.usage().promised - before.promised == 1 << 30
    with files.making("snapshot-1", 1 << 30, anything) as target:
        os.write(target, b"x" * 65536)
    used = files.usage()
    assert used.written == used.promised - (1 << 30) + 65536 == 2 * 65536


def test_nobody_measures_while_a_file_gets_its_name(files, monkeypatch):
    # One who reads the directory meanwhile could meet neither name.
    held: list[bool] = []

    def link(source: Path, target: Path) -> None:
        with (files.path / ".lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(True)
        os_link(source, target)

    os_link = os.link
    monkeypatch.setattr(os, "link", link)
    make(files, "volume-1")
    assert held == [True]
    assert visible(files) == {"volume-1"}


def test_a_file_grows_and_never_shrinks(files):
    path = make(files, "volume-1", b"data")
    files.grow("volume-1", 8192, anything)
    files.grow("volume-1", 8192, anything)
    assert path.stat().st_size == 8192
    with pytest.raises(VolumeFileError, match="8192"):
        files.grow("volume-1", 4096, anything)
    assert path.read_bytes() == b"data".ljust(8192, b"\0")


def test_what_is_not_there_is_missing_but_may_be_removed(files):
    with pytest.raises(VolumeFileMissing):
        files.existing("volume-1")
    with pytest.raises(VolumeFileMissing):
        files.grow("volume-1", 1, anything)
    files.remove("volume-1")


def test_who_looks_at_a_file_may_keep_it_from_being_removed(files):
    make(files, "volume-1", owner="the-id")
    looked = []

    def keep(found, owner):
        looked.append((found.st_ino, owner))
        raise VolumeFileBusy("kept")

    with pytest.raises(VolumeFileBusy):
        files.remove("volume-1", keep)
    assert looked == [(files.find("volume-1").st_ino, "the-id")]
    files.remove("volume-1", lambda found, owner: None)
    files.remove("volume-1", keep)  # there is nothing to look at
    assert len(looked) == 1


def test_a_link_or_directory_is_no_volume(files):
    (files.path / "volume-1").symlink_to("/etc/passwd")
    (files.path / "volume-2").mkdir()
    for name in ("volume-1", "volume-2"):
        with pytest.raises(VolumeFileMissing):
            files.existing(name)
        with pytest.raises(VolumeFileMissing):
            files.remove(name, lambda found, owner: None)


def test_a_file_says_whose_it_is(files):
    make(files, "volume-1", owner="the-id")
    make(files, "snapshot-1", owner="")
    assert files.owner("volume-1") == "the-id"
    assert files.owner("snapshot-1") == ""


@pytest.mark.root
def test_where_files_cannot_be_marked_nothing_is_said(tmp_path):
    place = tmp_path / "plain"
    place.mkdir()
    subprocess.run(["mount", "-t", "ramfs", "none", place], check=True)
    try:
        files = VolumeDirectory(place)
        files.prepare()
        make(files, "volume-1")
        assert files.owner("volume-1") == ""
    finally:
        subprocess.run(["umount", place], check=True)


def test_an_interrupted_revert_is_noticed_until_it_is_done_again(files):
    make(files, "volume-1")
    with pytest.raises(RuntimeError), files.reverting("volume-1", "snapshot-1"):
        raise RuntimeError("power cut")
    with pytest.raises(VolumeFileBusy, match="snapshot-1"):
        files.check_whole("volume-1")
    with files.reverting("volume-1", "snapshot-1"):
        pass
    files.check_whole("volume-1")


def test_removing_a_half_reverted_volume_removes_the_mark(files):
    make(files, "volume-1")
    with pytest.raises(RuntimeError), files.reverting("volume-1", "snapshot-1"):
        raise RuntimeError("power cut")
    files.remove("volume-1")
    make(files, "volume-1")
    files.check_whole("volume-1")


MAKE_AND_WAIT = """
import sys, pathlib
from csi_driver.drivers.volume_directory import VolumeDirectory
files = VolumeDirectory(pathlib.Path(sys.argv[1]))
with files.making("volume-1", 4096, lambda usage: None, owner="id"):
    print("half made", flush=True)
    sys.stdin.read()
"""


def test_leftovers_of_a_dead_maker_are_swept_and_those_of_a_living_one_are_not(files):
    maker = subprocess.Popen(
        [sys.executable, "-c", MAKE_AND_WAIT, str(files.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    with maker:
        try:
            assert maker.stdout.readline() == "half made\n"
            (hidden,) = visible(files)
            assert hidden.startswith(".creating-volume-1-")
            files.prepare()
            assert visible(files) == {hidden}
        finally:
            maker.send_signal(signal.SIGKILL)
    assert visible(files) == {hidden}
    files.prepare()
    assert visible(files) == set()


def test_a_directory_that_cannot_be_made_is_explained(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(VolumeFileError, match="Not a directory"):
        VolumeDirectory(tmp_path / "file" / "volumes").prepare()


@pytest.mark.root
def test_a_full_disk_leaves_no_note_of_a_standstill(small_disk):
    files = VolumeDirectory(small_disk("tmpfs", 1).path)
    files.prepare()
    with pytest.raises(OSError, match="No space left"):
        (files.path / "full").write_bytes(bytes(2 << 20))
    before = list(Path("/proc/self/fd").iterdir())
    with pytest.raises(OSError, match="No space left"), files.freezing("volume-1"):
        pytest.fail("Nothing would be thawed after a crash")
    assert list(Path("/proc/self/fd").iterdir()) == before
    assert visible(files) == {"full"}
