"""Snapshots of several files at one moment."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.drivers.conftest import Backend, Disk

FIFREEZE = 0xC0045877  # linux/fs.h


@pytest.fixture
def exception(cinder: Any) -> Any:
    from cinder import exception

    return exception


@pytest.fixture
def consistent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Group snapshots are of a type that asks for one moment."""
    from cinder.volume import volume_utils

    monkeypatch.setattr(volume_utils, "is_group_a_cg_snapshot_type", lambda _: True)


def test_all_volumes_are_cut(backend: Backend, consistent: None) -> None:
    volumes = [backend.created(1, b"one"), backend.created(2, b"two")]
    cuts = [backend.snapshot(volume) for volume in volumes]

    told = backend.driver.create_group_snapshot(None, SimpleNamespace(), cuts)

    assert told[0] == {"status": "available"}
    assert told[1] == [{"id": cut.id, "status": "available"} for cut in cuts]
    assert [backend.read(cut, 3) for cut in cuts] == [b"one", b"two"]


def test_every_other_group_is_left_to_the_manager(backend: Backend) -> None:
    with pytest.raises(NotImplementedError):
        backend.driver.create_group_snapshot(None, {"group_type_id": None}, [])


def test_a_volume_that_cannot_be_held_still_leaves_nothing(
    ext4: Disk, load: Any, devices: SimpleNamespace, consistent: None, exception: Any
) -> None:
    backend = load(ext4.path)
    volumes = [backend.created(1, b"one"), backend.created(1, b"two")]
    writer = os.open(devices.attach(backend.path(volumes[1])), os.O_RDWR)
    before = backend.names()
    try:
        with pytest.raises(exception.VolumeIsBusy):
            backend.driver.create_group_snapshot(
                None, SimpleNamespace(), [backend.snapshot(volume) for volume in volumes]
            )
    finally:
        os.close(writer)

    assert backend.names() == before


def test_filesystems_in_use_are_held_still_together(
    backend: Backend,
    devices: SimpleNamespace,
    consistent: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from csi_driver.drivers import copying

    volumes = [backend.created(1), backend.created(1)]
    places = []
    for volume in volumes:
        device = devices.attach(backend.path(volume))
        devices.run("mkfs.xfs", "-q", device)
        places.append(devices.mount(device))
        (places[-1] / "file").write_text("before")
    held = []

    def look(source: int, target: int) -> bool:
        # A frozen filesystem says so to whoever asks it to freeze again.
        for place in places:
            descriptor = os.open(place, os.O_RDONLY)
            try:
                fcntl.ioctl(descriptor, FIFREEZE, 0)
            except OSError as error:
                held.append(error.errno)
            finally:
                os.close(descriptor)
        return take(source, target)

    take = copying.reflink
    monkeypatch.setattr(copying, "reflink", look)
    cuts = [backend.snapshot(volume) for volume in volumes]
    backend.driver.create_group_snapshot(None, SimpleNamespace(), cuts)

    assert held == [errno.EBUSY] * 4
    for place in places:
        (place / "after").write_text("written at once: nothing is frozen any more")
    for cut in cuts:
        with Path(devices.attach(backend.path(cut))).open("rb") as device:
            assert device.read(4) == b"XFSB"
