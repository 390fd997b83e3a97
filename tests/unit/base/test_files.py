"""Small files: whole or not at all, durable in the right order, clear when impossible."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from csi_driver.base import files
from csi_driver.base.errors import StateDirectoryError
from csi_driver.base.files import read_text, remove, write_atomic, write_new


def test_what_is_written_is_read(tmp_path: Path):
    path = tmp_path / "new" / "deep" / "file.json"
    write_atomic(path, "grün".encode())
    assert read_text(path) == "grün"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_what_is_not_there_reads_as_none_and_is_removed_without_complaint(tmp_path: Path):
    plain_file = tmp_path / "plain"
    plain_file.touch()
    for path in (tmp_path / "absent", tmp_path / "absent" / "file", plain_file / "file"):
        assert read_text(path) is None
        remove(path)


def test_a_replaced_file_has_the_new_content_and_mode(tmp_path: Path):
    path = tmp_path / "file"
    write_atomic(path, b"old")
    write_atomic(path, b"new", mode=0o640)
    assert read_text(path) == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_new_file_is_never_written_over(tmp_path: Path):
    path = tmp_path / "file"
    assert write_new(path, b"first")
    assert not write_new(path, b"second")
    assert read_text(path) == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_of_many_that_make_a_file_one_succeeds_and_readers_see_it_whole(tmp_path: Path):
    path = tmp_path / "file"
    writers = 8
    barrier = threading.Barrier(writers)

    def write(number: int) -> bool:
        barrier.wait()
        made = write_new(path, str(number).encode() * 50_000)
        assert len(set(read_text(path) or "")) == 1
        return made

    with ThreadPoolExecutor(writers) as pool:
        assert sorted(pool.map(write, range(writers))) == [False] * (writers - 1) + [True]


def test_a_reader_sees_the_old_content_or_the_new_never_a_part(tmp_path: Path):
    path = tmp_path / "file"
    contents = {digit * 50_000 for digit in "01"}
    write_atomic(path, b"0" * 50_000)

    def replace() -> None:
        for _ in range(50):
            write_atomic(path, b"1" * 50_000)
            write_atomic(path, b"0" * 50_000)

    with ThreadPoolExecutor(1) as pool:
        replacing = pool.submit(replace)
        while not replacing.done():
            assert read_text(path) in contents
        replacing.result()


def test_content_is_on_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The real calls are made; the test only notes their order."""
    order: list[str] = []

    def noting(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: object) -> object:
            if name == "fsync":
                kind = "directory" if stat.S_ISDIR(os.fstat(arguments[0]).st_mode) else "file"
                order.append(f"fsync {kind}")
            else:
                order.append(name)
            return real(*arguments)

        monkeypatch.setattr(files.os, name, call)

    for name in ("fsync", "replace", "link"):
        noting(name)
    write_atomic(tmp_path / "file", b"x")
    assert order == ["fsync file", "replace", "fsync directory"]
    order.clear()
    write_new(tmp_path / "other", b"x")
    assert order == ["fsync file", "link", "fsync directory"]
    order.clear()
    remove(tmp_path / "other")
    assert order == ["fsync directory"]


def test_a_directory_that_was_made_is_on_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    write_atomic(tmp_path / "new" / "deep" / "file", b"x")
    for directory in (tmp_path, tmp_path / "new", tmp_path / "new" / "deep"):
        assert directory.stat().st_ino in synced


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StateDirectoryError, match=r"file cannot be written: .*No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_the_system_refuses_is_told_with_the_path(tmp_path: Path):
    """A plain file in the place of a directory: refused for root as for anybody."""
    plain = tmp_path / "plain"
    plain.touch()
    with pytest.raises(StateDirectoryError, match="plain/file cannot be written"):
        write_atomic(plain / "file", b"x")
    with pytest.raises(StateDirectoryError, match="cannot be read"):
        read_text(tmp_path)
    with pytest.raises(StateDirectoryError, match="cannot be removed"):
        remove(tmp_path)


def test_a_permission_that_is_denied_is_told_with_the_path_and_advice(tmp_path: Path, nobody: None):
    path = tmp_path / "foreign" / "file"
    for call in (
        lambda: read_text(path),
        lambda: write_atomic(path, b"y"),
        lambda: write_new(path, b"y"),
        lambda: remove(path),
    ):
        with pytest.raises(StateDirectoryError, match=r"foreign/file .*Permission denied"):
            call()


@pytest.fixture
def nobody(tmp_path: Path) -> Iterator[None]:
    """Be a user who cannot look into ``foreign``; root takes another effective user for it."""
    directory = tmp_path / "foreign"
    directory.mkdir()
    (directory / "file").touch()
    directory.chmod(0)
    user = os.geteuid()
    if user == 0:
        for parent in tmp_path.parents[:2]:
            parent.chmod(0o711)
        tmp_path.chmod(0o711)
        os.seteuid(65534)
    yield
    os.seteuid(user)
    directory.chmod(0o700)
