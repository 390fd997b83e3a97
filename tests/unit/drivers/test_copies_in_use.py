"""Snapshots and clones of a volume that somebody is writing to.

The volume is behind a loop device with a filesystem on it, as a node sets it up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from csi_driver.attach import loop

pytestmark = pytest.mark.root

RECORD = 64 << 10


@dataclass
class Writer:
    """Writes files 0, 1, 2, ... one after the other, each with its number in all its bytes."""

    place: Path
    warm: Event = field(default_factory=Event)
    stop: Event = field(default_factory=Event)
    written: int = 0

    def run(self) -> None:
        while not self.stop.is_set():
            (self.place / str(self.written)).write_bytes(content(self.written))
            self.written += 1
            # Reuse of blocks, so that a copy which is not of one moment shows.
            if self.written > 100:
                (self.place / str(self.written - 100)).unlink()
            if self.written == 200:
                self.warm.set()


def content(number: int) -> bytes:
    return number.to_bytes(4, "big") * (RECORD // 4)


@contextmanager
def writing(place: Path) -> Iterator[Writer]:
    writer = Writer(place)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(writer.run)
        try:
            assert writer.warm.wait(60)
            yield writer
        finally:
            writer.stop.set()
        done.result()


@pytest.fixture
def in_use(backend, devices) -> tuple[Any, Path]:
    volume = backend.created()
    device = devices.attach(backend.path(volume))
    devices.run("mkfs.ext4", "-q", device)
    return volume, devices.mount(device)


def check_content(place: Path, before: int) -> None:
    """Without gap up to a point; whole what was written before the call.

    What was written during it is there up to a byte: a filesystem keeps data in
    memory for a while, and a copy at once is like a power cut.
    """
    numbers = sorted(int(path.name) for path in place.iterdir() if path.name.isdigit())
    assert numbers[-1] + 1 >= before
    assert numbers == [0, *range(numbers[1], numbers[-1] + 1)]
    for number in numbers:
        data = (place / str(number)).read_bytes()
        assert content(number).startswith(data), f"file {number} holds something else"
        assert number >= before or len(data) == RECORD, f"file {number} is not whole"


def test_a_snapshot_taken_under_writes_holds_one_moment(backend, disk, in_use, devices):
    volume, place = in_use
    snapshot = backend.snapshot(volume)
    with writing(place) as writer:
        before = writer.written
        backend.driver.create_snapshot(snapshot)
    restored = backend.volume()
    backend.driver.create_volume_from_snapshot(restored, snapshot)

    if not disk.reflink:
        # Frozen for the copy: nothing is left to be recovered from the journal.
        assert "needs_recovery" not in devices.run("dumpe2fs", "-h", backend.path(restored))
        devices.run("e2fsck", "-fn", backend.path(restored))
    check_content(devices.mount(devices.attach(backend.path(restored))), before)


def test_the_volume_works_on_after_a_copy(backend, in_use):
    volume, place = in_use
    for _ in range(3):
        (place / "file").write_text("written before")
        backend.driver.create_cloned_volume(backend.volume(), volume)
        (place / "file").write_text("written after")
    assert not [name for name in backend.names() if name.startswith(".")]


def test_what_was_written_before_the_call_is_in_the_copy(backend, in_use, devices):
    volume, place = in_use
    (place / "file").write_text("not flushed by its writer")
    clone = backend.volume()
    backend.driver.create_cloned_volume(clone, volume)
    copy = devices.mount(devices.attach(backend.path(clone)))
    assert (copy / "file").read_text() == "not flushed by its writer"


@pytest.mark.parametrize("use", ["a raw device", "the file itself"])
def test_a_use_that_cannot_be_held_is_copied_at_once_or_not_at_all(
    backend, disk, devices, use, cinder
):
    from cinder import exception

    volume = backend.created(content=b"data")
    snapshot = backend.snapshot(volume)
    if use == "a raw device":
        device = devices.attach(backend.path(volume))
    else:
        writer = os.open(backend.path(volume), os.O_RDWR)
    if disk.reflink:
        backend.driver.create_snapshot(snapshot)
        assert backend.read(snapshot, 4) == b"data"
    else:
        with pytest.raises(exception.VolumeIsBusy, match="open for writing"):
            backend.driver.create_snapshot(snapshot)
        assert backend.names() == {volume.name}
    if use == "a raw device":
        loop.detach(device)
    else:
        os.close(writer)
    backend.driver.create_snapshot(backend.snapshot(volume))
