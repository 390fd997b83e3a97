"""Encrypted volumes on a kernel that has dm-crypt; ``tests/unit`` asks what needs none.

Mostly on the file backend, whose volumes are attached in a moment; once over iSCSI.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from csi_driver.attach.errors import EncryptionFailed, NotEncrypted, WrongKey
from csi_driver.cinderlib import encryption
from tests.lab.storage import machine

if TYPE_CHECKING:
    from csi_driver.cinderlib.backend import Backend
    from csi_driver.cinderlib.volume import Volume

KEY = bytes(range(64))
CHEAP = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
SECRET = b"plain here, encrypted on the array"
VOLUMES = Path("/dev/shm/volumes")
SPACE = 64 << 20
"""Bytes from a volume's beginning, in which everything lies that a test writes."""

pytestmark = pytest.mark.usefixtures("nothing_left", "cheap")


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers that this kernel opens within a second; Argon2 takes it more than ten."""
    monkeypatch.setattr(encryption, "FORMAT_OPTIONS", CHEAP)


@pytest.fixture(scope="module")
def backend(library: None) -> Backend:
    import csi_driver.cinderlib as cinderlib

    return cinderlib.Backend(
        volume_driver="csi_driver.drivers.file.FileVolumeDriver",
        volume_backend_name="files",
        file_volume_directory=str(VOLUMES),
        max_over_subscription_ratio="20",
    )


@pytest.fixture
def volume(backend: Backend) -> Iterator[Volume]:
    made = backend.create_volume(1, encryption={"provider": "luks2"})
    yield made
    made.delete()
    assert list(VOLUMES.glob("volume-*")) == []
    assert str(VOLUMES) not in machine.run("losetup", "--list", "-n", "-O", "BACK-FILE")


def head(path: str | Path | None, length: int = SPACE) -> bytes:
    with Path(str(path)).open("rb") as device:
        return device.read(length)


def put(path: str | None, data: bytes = SECRET) -> None:
    with Path(str(path)).open("r+b") as device:
        device.write(data)


def read_by(volume: Volume, key: bytes | str) -> bytes:
    """The beginning of what a volume holds for whoever has the key."""
    path = volume.attach(key=key).path
    try:
        return head(path, len(SECRET))
    finally:
        volume.detach()


def file_of(volume: Volume) -> Path:
    return VOLUMES / volume.name_in_storage


def digest_of(volume: Volume) -> str:
    return hashlib.sha256(head(file_of(volume))).hexdigest()


def write_file(device: str | None, mountpoint: Path) -> None:
    mountpoint.mkdir()
    machine.run("mkfs.xfs", "-q", str(device))
    machine.run("mount", str(device), str(mountpoint))
    (mountpoint / "file").write_bytes(SECRET)
    machine.run("umount", str(mountpoint))


@pytest.mark.parametrize(
    ("provider", "key"), [("luks2", KEY), ("luks", "correct horse")], ids=["luks2", "luks"]
)
def test_a_whole_life(backend: Backend, tmp_path: Path, provider: str, key: bytes | str) -> None:
    volume = backend.create_volume(1, encryption={"provider": provider})
    connection = volume.attach(key=key)
    assert connection.path == f"/dev/mapper/crypt-{connection.id}"
    write_file(connection.path, tmp_path / "mounted")
    assert SECRET in head(connection.path)
    volume.detach()
    assert machine.opened() == []

    raw = volume.attach(raw=True)
    assert head(raw.path, 4) == b"LUKS"
    assert SECRET not in head(raw.path)
    volume.detach()

    again = volume.attach(key=key)
    machine.run("mount", str(again.path), str(tmp_path / "mounted"))
    assert (tmp_path / "mounted/file").read_bytes() == SECRET
    machine.run("umount", str(tmp_path / "mounted"))
    volume.detach()
    volume.delete()


def test_the_wrong_key_changes_nothing(volume: Volume) -> None:
    put(volume.attach(key=KEY).path)
    volume.detach()
    before = digest_of(volume)

    with pytest.raises(WrongKey):
        volume.attach(key=b"another")

    assert digest_of(volume) == before
    assert (volume.connections, machine.opened()) == ([], [])
    assert read_by(volume, KEY) == SECRET


def test_a_lost_header_is_never_written_again(volume: Volume) -> None:
    volume.attach(key=KEY)
    volume.detach()
    with file_of(volume).open("r+b") as file:
        file.truncate(0)
        file.truncate(1 << 30)

    with pytest.raises(NotEncrypted):
        volume.attach(key=KEY)

    assert not any(head(file_of(volume)))
    assert volume.connections == []


def test_copies_open_with_the_key_of_their_source(volume: Volume) -> None:
    put(volume.attach(key=KEY).path)
    volume.detach()
    snapshot = volume.create_snapshot()
    put(volume.attach(key=KEY).path, SECRET.upper())
    volume.detach()

    restored, clone = snapshot.create_volume(), volume.clone()

    assert read_by(restored, KEY) == SECRET
    assert read_by(clone, KEY) == SECRET.upper()
    with pytest.raises(WrongKey):
        clone.attach(key=b"another")
    for copy in (restored, clone, snapshot):
        copy.delete()


def test_both_may_be_open_at_once(volume: Volume) -> None:
    """A copy has the UUID of its source's header."""
    put(volume.attach(key=KEY).path)
    volume.detach()
    clone = volume.clone()

    mine, other = volume.attach(key=KEY), clone.attach(key=KEY)
    put(other.path, SECRET.upper())

    assert head(mine.path, len(SECRET)) == SECRET
    volume.detach()
    clone.detach()
    clone.delete()


def test_what_is_in_use_stays_open(volume: Volume, tmp_path: Path) -> None:
    connection = volume.attach(key=KEY)
    machine.run("mkfs.xfs", "-q", str(connection.path))
    machine.run("mount", str(connection.path), str(tmp_path))

    with pytest.raises(EncryptionFailed, match="in use") as refused:
        volume.detach()

    assert refused.value.advice == "Unmount what is on it first"
    assert connection.attached
    (tmp_path / "file").write_bytes(SECRET)
    machine.run("umount", str(tmp_path))
    volume.detach()


def test_an_attach_that_died_while_open_is_made_again(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    import csi_driver.cinderlib as cinderlib

    connection = volume.connect(cinderlib.get_connector_properties())

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(connection, "_put_device", dies)
        with pytest.raises(KeyboardInterrupt):
            connection.attach(key=KEY)
    assert len(machine.opened()) == 1

    connection.attach(key=KEY)
    assert len(machine.run("losetup", "--associated", str(file_of(volume))).splitlines()) == 1
    put(connection.path)
    connection.detach()
    assert machine.opened() == []
    connection.disconnect()
    assert read_by(volume, KEY) == SECRET


def test_one_that_is_attached_read_only(volume: Volume) -> None:
    import csi_driver.cinderlib as cinderlib

    here = cinderlib.get_connector_properties()
    connection = volume.connect(here, attach_mode="ro")
    with pytest.raises(EncryptionFailed, match="read-only"):
        connection.attach(key=KEY)
    connection.disconnect()
    assert not any(head(file_of(volume)))
    put(volume.attach(key=KEY).path)
    volume.detach()

    connection = volume.connect(here, attach_mode="ro")
    connection.attach(key=KEY)
    assert head(connection.path, len(SECRET)) == SECRET
    with pytest.raises(PermissionError):
        put(connection.path)
    connection.detach()
    connection.disconnect()


def test_over_iscsi(lvm: Backend) -> None:
    volume = lvm.create_volume(1, encryption={"provider": "luks2"})
    put(volume.attach(key=KEY).path)
    volume.detach()
    assert (machine.opened(), machine.sessions()) == ([], [])
    on_the_array = Path("/dev", machine.VOLUME_GROUP, volume.name_in_storage)
    header = subprocess.run(["cryptsetup", "isLuks", str(on_the_array)], check=False)
    assert header.returncode == 0
    assert SECRET not in head(on_the_array)

    assert read_by(volume, KEY) == SECRET
    volume.delete()
