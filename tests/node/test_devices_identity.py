"""One spelling for the names of a volume, from connection info and from sysfs."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_driver.attach.devices import expected_identity
from csi_driver.attach.errors import DeviceIdentityMismatch
from csi_driver.attach.identity import identities_in_sysfs, normalise

NAA = "naa.624a9370abcdef0123456789abcdef01"
OTHER = "naa.624a9370abcdef0123456789abcdef02"
NGUID = "0011223344556677001434aabbccddee"
UUID = "11223344-5566-4788-99aa-bbccddeeff00"


@pytest.mark.parametrize(
    ("spelt", "name"),
    [
        (NAA, NAA),
        (NAA.upper(), NAA),
        ("3" + NAA[4:], NAA),
        ("0x" + NAA[4:], NAA),
        ("mpath-3" + NAA[4:], NAA),
        (NAA[4:].upper(), NAA),
        ("62:4a:93:70:ab:cd:ef:01:23:45:67:89:ab:cd:ef:01", NAA),
        ("5000c500a1b2c3d4", "naa.5000c500a1b2c3d4"),
        ("20025385a1b2c3d4e", "eui.0025385a1b2c3d4e"),
        ("eui.0025385a1b2c3d4e", "eui.0025385a1b2c3d4e"),
        (NGUID, f"eui.{NGUID}"),
        (UUID.upper(), f"uuid.{UUID}"),
        ("t10.ATA     QEMU HARDDISK   QM00001 ", "t10.ata qemu harddisk qm00001"),
        (f"file:{UUID}", f"file:{UUID}"),
        ("some-serial", "some-serial"),
        ("", ""),
        ("0" * 32, ""),
        ("00000000-0000-0000-0000-000000000000", ""),
    ],
)
def test_every_spelling_comes_to_one(spelt: str, name: str) -> None:
    assert normalise(spelt) == name


def test_the_kind_is_taken_from_who_knows_it() -> None:
    # As an NGUID these digits are no NAA name though they begin with 6.
    assert normalise("6" + NGUID[1:], "eui.") == "eui.6" + NGUID[1:]
    assert normalise(UUID.replace("-", ""), "uuid.") == f"uuid.{UUID}"


@given(st.text(st.characters(codec="ascii"), max_size=60))
def test_a_name_in_the_one_spelling_stays_as_it_is(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({}, ""),
        ({"wwn": "3" + NAA[4:], "target_wwn": ["5000c500a1b2c3d4"]}, NAA),
        ({"volume_nguid": NGUID, "vol_uuid": UUID}, f"eui.{NGUID}"),
        ({"volume_nguid": None, "vol_uuid": UUID}, f"uuid.{UUID}"),
        ({"identity": f"file:{UUID}", "device_path": "/x"}, f"file:{UUID}"),
    ],
)
def test_the_expected_name_is_taken_from_connection_data(
    data: Mapping[str, object], name: str
) -> None:
    assert expected_identity({"driver_volume_type": "any", "data": data}) == name


def block(directory: Path, **files: str) -> Path:
    """A directory as sysfs has one for a disk; ``device__wwid`` is ``device/wwid``."""
    for name, text in files.items():
        file = directory / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def test_a_scsi_disk_is_named_by_its_page_83(tmp_path: Path) -> None:
    disk = block(tmp_path / "sda", device__wwid=NAA)
    assert identities_in_sysfs("/dev/sda", disk) == (NAA,)


def test_an_nvme_namespace_goes_by_all_its_names(tmp_path: Path) -> None:
    namespace = block(
        tmp_path / "nvme0n1",
        nguid="00112233-4455-6677-0014-34aabbccddee",
        uuid=UUID,
        eui="00 00 00 00 00 00 00 00",
        wwid=f"uuid.{UUID}",
    )
    assert identities_in_sysfs("/dev/nvme0n1", namespace) == (f"eui.{NGUID}", f"uuid.{UUID}")


def test_a_virtual_disk_is_named_by_its_serial(tmp_path: Path) -> None:
    disk = block(tmp_path / "vda", serial="Disk-1")
    assert identities_in_sysfs("/dev/vda", disk) == ("serial.disk-1",)


def test_a_disk_without_names_has_none(tmp_path: Path) -> None:
    assert identities_in_sysfs("/dev/vda", block(tmp_path / "vda")) == ()


def multipath(directory: Path, uuid: str, **paths: str) -> Path:
    mapper = block(directory / "dm-0", dm__uuid=uuid)
    (mapper / "slaves").mkdir()
    for name, wwid in paths.items():
        (mapper / "slaves" / name).symlink_to(block(directory / name, device__wwid=wwid))
    return mapper


def test_a_multipath_device_is_named_as_its_paths(tmp_path: Path) -> None:
    mapper = multipath(tmp_path, "mpath-3" + NAA[4:], sda=NAA, sdb=NAA)
    assert identities_in_sysfs("/dev/dm-0", mapper) == (NAA,)


def test_paths_that_disagree_are_an_error(tmp_path: Path) -> None:
    mapper = multipath(tmp_path, "mpath-3" + NAA[4:], sda=NAA, sdb=OTHER)
    with pytest.raises(DeviceIdentityMismatch, match=f"sda: {NAA}; sdb: {OTHER}"):
        identities_in_sysfs("/dev/dm-0", mapper)


def test_an_encrypted_device_is_named_as_what_lies_below(tmp_path: Path) -> None:
    mapper = multipath(tmp_path, "CRYPT-LUKS2-0011-name", sda=NAA)
    assert identities_in_sysfs("/dev/dm-0", mapper) == (NAA,)


def test_a_logical_volume_is_not_named_as_its_disk(tmp_path: Path) -> None:
    mapper = multipath(tmp_path, "LVM-abc", sda=NAA)
    assert identities_in_sysfs("/dev/dm-0", mapper) == ()
