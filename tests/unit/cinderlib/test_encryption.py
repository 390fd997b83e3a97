"""Volumes encrypted where they are attached: the record decides about the LUKS header."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import csi_driver.cinderlib as cinderlib
from csi_driver.attach.errors import EncryptionFailed, NotEncrypted, WrongKey
from csi_driver.cinderlib import encryption
from csi_driver.cinderlib.persistence.records import Encryption
from tests.unit.cinderlib.conftest import Make

KEY = bytes(range(32))
CHEAP = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
SPECS = {"provider": "luks2", "cipher": "aes-xts-plain64", "key_size": 256}
HAS_DM_CRYPT = "device-mapper" in Path("/proc/misc").read_text()

pytestmark = pytest.mark.root

Encrypted = Callable[..., tuple[cinderlib.Volume, Path]]


@pytest.fixture
def encrypted(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Encrypted:
    """Makes an encrypted volume and tells its file."""
    monkeypatch.setattr(encryption, "FORMAT_OPTIONS", CHEAP)
    backend = make(double_directory=str(tmp_path))

    def new(**specs: Any) -> tuple[cinderlib.Volume, Path]:
        volume = backend.create_volume(1, encryption={**SPECS, **specs})
        return volume, tmp_path / volume.name_in_storage

    return new


def stored(volume: cinderlib.Volume) -> Encryption:
    found = cinderlib.Volume.get_by_id(volume.id)._record.encryption
    assert found is not None
    return found


def attach_once(volume: cinderlib.Volume, key: bytes | str = KEY) -> None:
    """Attach and detach; where the kernel has no dm-crypt the opening fails at its end."""
    if HAS_DM_CRYPT:
        volume.attach(key=key)
        volume.detach()
        return
    with pytest.raises(EncryptionFailed, match="cannot be opened"):
        volume.attach(key=key)


def header_of(file: Path) -> str:
    done = subprocess.run(["cryptsetup", "luksDump", str(file)], capture_output=True, check=False)
    return done.stdout.decode() if done.returncode == 0 else ""


def opens(file: Path, passphrase: str) -> bool:
    command = ["cryptsetup", "open", "--test-passphrase", "--key-file=-", str(file)]
    return subprocess.run(command, input=passphrase.encode(), check=False).returncode == 0


# -- specs ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("luks", "no encryption specs"),
        ({"provider": "plain"}, "not luks or luks2"),
        ({"provider": "luks2", "colour": "red"}, "no encryption spec colour"),
        ({"key_size": "256"}, "128, 256 or 512"),
        ({"control_location": "back-end"}, "hosts encrypt"),
    ],
)
def test_wrong_specs_are_explained(backend: cinderlib.Backend, given: Any, said: str) -> None:
    with pytest.raises(cinderlib.InvalidVolume, match=said):
        backend.create_volume(1, encryption=given)

    assert backend.volumes == []


def test_cinder_sees_the_specs_and_hosts_see_that_it_is_encrypted(
    backend: cinderlib.Backend,
) -> None:
    from csi_driver.cinderlib.runtime.database import PROVIDED

    volume = backend.create_volume(1, encryption=SPECS)
    specs = stored(volume)

    info = volume.connect({"host": "node1"}).conn_info

    assert info["data"]["encrypted"] is True
    cinder_id = volume._record.cinder_id
    assert PROVIDED["volume_encryption_metadata_get"](None, cinder_id) == {
        **SPECS,
        "control_location": "front-end",
        "encryption_key_id": specs.key_id,
    }
    row = PROVIDED["volume_get"](None, cinder_id)
    assert row["encryption_key_id"] == specs.key_id
    kind = PROVIDED["volume_type_encryption_get"](None, row["volume_type_id"])
    assert kind["provider"] == "luks2"
    assert "encryption_key_id" not in cinderlib.Volume.get_by_id(volume.id)._record.provider


def test_what_an_encrypted_volume_cannot_do_is_refused(backend: cinderlib.Backend) -> None:
    with pytest.raises(cinderlib.InvalidVolume, match="multiattach"):
        backend.create_volume(1, encryption=SPECS, multiattach=True)
    volume = backend.create_volume(1, encryption=SPECS)

    with pytest.raises(cinderlib.InvalidVolume, match="multiattach"):
        volume.retype(multiattach=True)
    with pytest.raises(cinderlib.OperationNotSupported):
        volume.retype(extra_specs={"tier": "fast"})  # as in Cinder: no driver is asked
    with pytest.raises(cinderlib.InvalidVolume, match="encrypted"):
        volume.unmanage()
    with pytest.raises(cinderlib.InvalidVolume, match="as its source"):
        volume.clone(encryption=SPECS)
    with pytest.raises(cinderlib.InvalidVolume, match="needs its key"):
        volume.attach()

    assert backend.driver.retyped == ()
    assert volume.connections == []


# -- the header ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "key", "passphrase"),
    [("luks2", KEY, KEY.hex()), ("luks", "correct horse", "correct horse")],
    ids=["luks2", "luks"],
)
def test_the_first_attach_writes_the_header_and_records_it(
    encrypted: Encrypted, provider: str, key: bytes | str, passphrase: str
) -> None:
    volume, file = encrypted(provider=provider)
    assert not stored(volume).formatted

    attach_once(volume, key)

    assert stored(volume).formatted
    header = header_of(file)
    assert header.split("Version:")[1].split()[0] == ("1" if provider == "luks" else "2")
    assert "xts-plain64" in header
    assert opens(file, passphrase)
    assert not opens(file, "another")
    assert volume.connections == []
    snapshot = volume.create_snapshot()
    copy = snapshot.create_volume()
    assert stored(copy) == stored(volume)


def test_no_key_is_stored(encrypted: Encrypted, store: Any) -> None:
    volume, _ = encrypted()
    attach_once(volume)

    connection = volume.attach(raw=True)
    told = volume.dumps + connection.dumps

    assert KEY.hex() not in told
    volume.detach()


def test_a_lost_header_is_never_written_again(encrypted: Encrypted) -> None:
    volume, file = encrypted()
    attach_once(volume)
    with file.open("r+b") as content:
        content.write(bytes(32 << 20))

    with pytest.raises(NotEncrypted, match="no LUKS header"):
        volume.attach(key=KEY)

    assert header_of(file) == ""
    assert volume.connections == []


def test_no_header_is_written_over_data(encrypted: Encrypted) -> None:
    volume, file = encrypted()
    with file.open("r+b") as content:
        content.seek(-4096, 2)
        content.write(b"somebody's")

    with pytest.raises(EncryptionFailed, match="holds data"):
        volume.attach(key=KEY)

    assert not stored(volume).formatted
    assert header_of(file) == ""
    assert volume.connections == []


def test_a_header_from_before_a_crash_is_taken_over_by_its_key_alone(
    encrypted: Encrypted,
) -> None:
    volume, file = encrypted()
    command = ["cryptsetup", "-q", "luksFormat", *CHEAP, "--key-file=-", str(file)]
    subprocess.run(command, input=KEY.hex().encode(), check=True)
    before = header_of(file)

    with pytest.raises(WrongKey):
        volume.attach(key=b"another")
    assert not stored(volume).formatted
    attach_once(volume)

    assert stored(volume).formatted
    assert header_of(file) == before


def test_the_wrong_key_is_told_apart(encrypted: Encrypted) -> None:
    volume, file = encrypted()
    attach_once(volume)
    before = header_of(file)

    with pytest.raises(WrongKey):
        volume.attach(key="no horse, no staple")

    assert header_of(file) == before
    assert volume.connections == []


def test_a_revert_goes_back_to_the_header_of_then(encrypted: Encrypted) -> None:
    volume, file = encrypted()
    snapshot = volume.create_snapshot()
    attach_once(volume)

    volume.revert(snapshot)

    assert not stored(volume).formatted
    assert header_of(file) == ""
    attach_once(volume)
    assert header_of(file)


def test_an_imported_volume_gets_no_header(make: Make, tmp_path: Path) -> None:
    backend = make(double_directory=str(tmp_path))
    with (tmp_path / "lun7").open("wb") as file:
        file.truncate(1 << 30)

    volume = backend.manage_volume({"source-name": "lun7"}, encryption=SPECS)

    with pytest.raises(NotEncrypted):
        volume.attach(key=KEY)
    assert header_of(tmp_path / volume.name_in_storage) == ""
