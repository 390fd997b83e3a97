"""Real filesystems to keep volume files on, and the driver as a backend loads it."""

from __future__ import annotations

import itertools
import shutil
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from csi_driver.attach import loop
from csi_driver.cinderlib.exceptions import NotSetUp
from csi_driver.cinderlib.persistence.records import Phase, SnapshotRecord, VolumeRecord
from csi_driver.cinderlib.runtime import bootstrap, drivers, ovo, rows
from csi_driver.drivers.directory_mark import MARK

REFLINK = {"xfs", "btrfs"}
# Btrfs is the second filesystem with reflink: tested where its tools are installed.
FILESYSTEMS = ["xfs", "ext4", "tmpfs", *(["btrfs"] if shutil.which("mkfs.btrfs") else [])]


@dataclass(frozen=True)
class Disk:
    """A directory on a filesystem of that kind."""

    kind: str
    path: Path

    @property
    def reflink(self) -> bool:
        return self.kind in REFLINK


def run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True)
    return done.stdout.decode()


def mount_new(kind: str, place: Path, size_mib: int, undo: ExitStack) -> None:
    """Mount a new filesystem of that kind and size at ``place``; ``undo`` unmounts it."""
    place.mkdir()
    if kind == "tmpfs":
        run("mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "none", place)
    else:
        image = place.with_suffix(".img")
        with image.open("wb") as file:
            file.truncate(size_mib << 20)
        undo.callback(image.unlink)
        run(f"mkfs.{kind}", "-q", image)
        run("mount", "-o", "loop", image, place)
    undo.callback(run, "umount", place)


@pytest.fixture(scope="session")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """A large sparse disk of each kind, made when it is first asked for."""
    base = tmp_path_factory.mktemp("disks")
    with ExitStack() as undo:

        def get(kind: str) -> Path:
            place = base / kind
            if not place.exists():
                mount_new(kind, place, 12 << 10, undo)
            return place

        yield get


@pytest.fixture
def disk_of(mounted: Callable[[str], Path]) -> Iterator[Callable[[str], Disk]]:
    """Directories of one test, removed after it."""
    made: list[Path] = []

    def make(kind: str) -> Disk:
        path = mounted(kind) / uuid.uuid4().hex
        path.mkdir()
        made.append(path)
        return Disk(kind, path)

    yield make
    for path in made:
        shutil.rmtree(path)


@pytest.fixture(params=FILESYSTEMS)
def disk(request: pytest.FixtureRequest, disk_of: Callable[[str], Disk]) -> Disk:
    """A test that uses this runs on every kind of filesystem."""
    return disk_of(request.param)


@pytest.fixture
def ext4(disk_of: Callable[[str], Disk]) -> Disk:
    """A filesystem that cannot share blocks."""
    return disk_of("ext4")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str, int], Disk]]:
    """Disks of one's own, of a size in MiB: for what depends on what is free."""
    with ExitStack() as undo:

        def make(kind: str, size_mib: int) -> Disk:
            place = tmp_path / f"small-{kind}"
            mount_new(kind, place, size_mib, undo)
            return Disk(kind, place / "volumes")

        yield make


@pytest.fixture(scope="session")
def cinder(tmp_path_factory: pytest.TempPathFactory) -> bootstrap.RuntimeSettings:
    """The process, set up for Cinder drivers."""
    try:
        return bootstrap.active()
    except NotSetUp:
        bootstrap.setup(bootstrap.RuntimeSettings(state_path=tmp_path_factory.mktemp("cinder")))
        return bootstrap.active()


@dataclass(frozen=True)
class Backend:
    """A loaded driver, and Cinder's objects to call it with."""

    driver: Any
    host: str

    def volume(self, size: int = 1, cinder_id: str = "", **fields: Any) -> Any:
        cinder_id = cinder_id or str(uuid.uuid4())
        return ovo.volume(ovo.request_context(), self._volume_row(cinder_id, size, **fields))

    def snapshot(self, volume: Any, cinder_id: str = "") -> Any:
        record = SnapshotRecord(
            id="s",
            name="",
            volume_id="v",
            backend="file",
            phase=Phase.AVAILABLE,
            size_gib=volume.size,
            cinder_id=cinder_id or str(uuid.uuid4()),
            created_at=0.0,
        )
        row = rows.snapshot_row(
            record, self._volume_row(volume.id, volume.size), volume.id, self._owner()
        )
        return ovo.snapshot(ovo.request_context(), row)

    def created(self, size: int = 1, content: bytes = b"") -> Any:
        """A volume that exists, with some content at its beginning."""
        volume = self.volume(size)
        self.driver.create_volume(volume)
        self.write(volume, content)
        return volume

    def path(self, thing: Any) -> Path:
        return Path(self.driver.configuration.file_volume_directory) / thing.name

    def write(self, volume: Any, content: bytes, offset: int = 0) -> None:
        with self.path(volume).open("r+b") as file:
            file.seek(offset)
            file.write(content)

    def read(self, thing: Any, length: int, offset: int = 0) -> bytes:
        with self.path(thing).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def names(self) -> set[str]:
        """What is in the directory, but for its lock and mark."""
        directory = Path(self.driver.configuration.file_volume_directory)
        return {path.name for path in directory.iterdir()} - {".lock", MARK}

    def pool(self) -> dict[str, Any]:
        return self.driver.get_volume_stats(refresh=True)["pools"][0]

    def connector(self) -> dict[str, Any]:
        return {"host": socket.gethostname()}

    def _volume_row(self, cinder_id: str, size: int, **fields: Any) -> rows.Row:
        record = VolumeRecord(
            id="v",
            name="",
            backend="file",
            phase=Phase.AVAILABLE,
            size_gib=size,
            cinder_id=cinder_id,
            created_at=0.0,
            **fields,
        )
        return rows.volume_row(
            record, host=self.host, pool="file", owner=self._owner(), source_ids={}
        )

    def _owner(self) -> dict[str, str]:
        return {"user_id": "u", "project_id": "p"}


_numbers = itertools.count()


@pytest.fixture
def load(cinder: bootstrap.RuntimeSettings) -> Callable[..., Backend]:
    """Loads the driver by its name, as every backend is loaded."""

    def load(directory: Path, **options: Any) -> Backend:
        name = f"file{next(_numbers)}"
        options = {
            "volume_driver": "csi_driver.drivers.file.FileVolumeDriver",
            "file_volume_directory": str(directory),
            **options,
        }
        return Backend(drivers.load(name, options, is_empty=True), drivers.host_of(name))

    return load


@pytest.fixture
def backend(disk: Disk, load: Callable[..., Backend]) -> Backend:
    """The driver on every kind of filesystem."""
    return load(disk.path)


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """Loop devices and mounts that are gone after the test."""
    with ExitStack() as undo:

        def attach(file: Path) -> str:
            device = loop.attach(file)
            undo.callback(loop.detach, device)
            return device

        def mount(device: str) -> Path:
            place = tmp_path / f"mnt-{Path(device).name}"
            place.mkdir()
            run("mount", device, place)
            undo.callback(run, "umount", place)
            return place

        yield SimpleNamespace(attach=attach, mount=mount, run=run)
