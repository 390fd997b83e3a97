"""Mounts and loop devices below a directory, found and released, on the real kernel."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import leftovers

pytestmark = pytest.mark.root


def run(*command: object) -> str:
    words = [str(word) for word in command]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    leftovers.release(tmp_path)


@pytest.fixture
def device(directory: Path) -> str:
    """A loop device with a filesystem on it."""
    image = directory / "image"
    with image.open("wb") as file:
        file.truncate(16 * 1024**2)
    run("mkfs.ext4", "-q", image)
    return run("losetup", "--find", "--show", image)


def test_a_mount_and_its_loop_device_are_found_and_released(directory: Path, device: str) -> None:
    point = directory / "a point"
    point.mkdir()
    run("mount", device, point)

    assert leftovers.mounts_below(directory) == [point]
    assert leftovers.loop_devices_below(directory) == [device]
    assert leftovers.release(directory) == [f"mount {point}", f"loop device {device}"]
    assert leftovers.mounts_below(directory) == []
    assert leftovers.loop_devices_below(directory) == []


def test_stacked_mounts_are_released_from_the_top(directory: Path, device: str) -> None:
    outer = directory / "outer"
    inner = outer / "inner"
    outer.mkdir()
    run("mount", device, outer)
    inner.mkdir()
    run("mount", "--bind", outer, inner)

    assert leftovers.mounts_below(directory) == [inner, outer]
    leftovers.release(directory)
    assert leftovers.mounts_below(directory) == []


def test_a_busy_mount_is_released_too(directory: Path, device: str) -> None:
    point = directory / "point"
    point.mkdir()
    run("mount", device, point)
    with (point / "open").open("w"):
        leftovers.release(directory)
    assert leftovers.mounts_below(directory) == []


def test_a_loop_device_whose_file_is_gone_is_found(directory: Path, device: str) -> None:
    (directory / "image").unlink()
    assert leftovers.loop_devices_below(directory) == [device]


def test_what_lies_elsewhere_is_left_alone(directory: Path, device: str) -> None:
    other = directory / "other"
    other.mkdir()
    assert leftovers.release(other) == []
    assert leftovers.loop_devices_below(directory) == [device]
