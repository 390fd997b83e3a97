"""Copies of files: sparse, exact, and only of files that stand still."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csi_driver.drivers.copying import check_lease, lease, reflink, sparse_copy
from csi_driver.drivers.errors import VolumeFileBusy

BLOCK = 4096


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[int]:
    descriptor = os.open(path, flags, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def fine() -> None:
    """The source still stands still."""


@settings(max_examples=60, deadline=None)
@given(
    blocks=st.lists(st.one_of(st.none(), st.binary(min_size=1, max_size=BLOCK)), max_size=12),
    tail=st.integers(0, BLOCK),
)
def test_a_sparse_copy_is_exact_and_writes_no_holes(blocks, tail):
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        with opened(place / "a") as source, opened(place / "b") as target:
            for number, data in enumerate(blocks):
                if data:
                    os.pwrite(source, data, number * 16 * BLOCK)
            os.ftruncate(source, len(blocks) * 16 * BLOCK + tail)
            sparse_copy(source, target, fine)
            assert os.fstat(target).st_blocks <= os.fstat(source).st_blocks
        assert (place / "a").read_bytes() == (place / "b").read_bytes()


@pytest.mark.root
def test_a_copy_to_another_filesystem_is_exact_too(disk_of):
    data = os.urandom(3 << 20)
    source_path = disk_of("ext4").path / "a"
    target_path = disk_of("tmpfs").path / "b"
    with opened(source_path) as source, opened(target_path) as target:
        os.pwrite(source, data, 1 << 20)
        os.ftruncate(source, 8 << 20)
        assert not reflink(source, target)
        sparse_copy(source, target, fine)
    assert target_path.read_bytes() == source_path.read_bytes()
    assert target_path.stat().st_blocks * 512 < 4 << 20


@pytest.mark.root
def test_blocks_are_shared_where_the_filesystem_can(disk):
    with opened(disk.path / "a") as source, opened(disk.path / "b") as target:
        os.write(source, b"x" * BLOCK)
        assert reflink(source, target) == disk.reflink
        assert os.fstat(target).st_size == (BLOCK if disk.reflink else 0)


def test_a_copy_stops_when_the_source_moves(tmp_path):
    def moved() -> None:
        raise VolumeFileBusy("moved")

    with opened(tmp_path / "a") as source, opened(tmp_path / "b") as target:
        os.write(source, b"x" * BLOCK)
        with pytest.raises(VolumeFileBusy):
            sparse_copy(source, target, moved)


@pytest.mark.root
def test_a_read_lease_tells_whether_somebody_has_the_file_open_for_writing(disk):
    path = disk.path / "a"
    path.touch()
    with opened(path, os.O_RDONLY) as reader, opened(path, os.O_RDONLY) as other:
        with opened(path, os.O_RDWR):
            assert not lease(reader, fcntl.F_RDLCK)
        assert lease(reader, fcntl.F_RDLCK)
        assert lease(other, fcntl.F_RDLCK)
        check_lease(reader, fcntl.F_RDLCK, path)


@pytest.mark.root
def test_whoever_opens_the_file_for_writing_ends_the_read_lease(disk):
    path = disk.path / "a"
    path.touch()
    with opened(path, os.O_RDONLY) as reader:
        assert lease(reader, fcntl.F_RDLCK)
        with pytest.raises(BlockingIOError):
            os.open(path, os.O_RDWR | os.O_NONBLOCK)
        with pytest.raises(VolumeFileBusy, match="came into use"):
            check_lease(reader, fcntl.F_RDLCK, path)


@pytest.mark.root
def test_a_write_lease_tells_whether_somebody_else_has_the_file_open(disk):
    path = disk.path / "a"
    path.touch()
    with opened(path) as writer:
        with opened(path, os.O_RDONLY):
            assert not lease(writer, fcntl.F_WRLCK)
        assert lease(writer, fcntl.F_WRLCK)
