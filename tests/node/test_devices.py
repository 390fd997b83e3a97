"""Questions to a device are answered from the medium, and what cannot be read is an error."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_driver.attach import devices
from csi_driver.attach.errors import (
    AmbivalentSignatures,
    DeviceReadError,
)
from csi_driver.attach.identity import XATTR
from csi_driver.attach.signatures import agree
from tests.support.disks import (
    EXT_BYTES,
    MIB,
    XFS_BYTES,
    command,
    loop_device,
    make_filesystem,
    sparse_file,
    write_at,
)

UUID = "6f1b2c3d-0000-4000-8000-00000000abcd"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return sparse_file(tmp_path / "volume", EXT_BYTES)


@pytest.fixture
def device(file: Path) -> Iterator[str]:
    with loop_device(file) as path:
        yield path


class TestAFile:
    def test_size(self, file: Path) -> None:
        assert devices.size_bytes(str(file)) == EXT_BYTES

    @pytest.mark.parametrize("size", [1, 4096, MIB, MIB + 1, 2 * MIB, 3 * MIB + 512])
    def test_of_any_size_shows_zero_edges(self, tmp_path: Path, size: int) -> None:
        file = sparse_file(tmp_path / "small", size)
        assert devices.edges_are_zero(str(file))
        write_at(file, size - 1, b"x")
        assert not devices.edges_are_zero(str(file))

    def test_without_bytes_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(DeviceReadError, match="no bytes"):
            devices.read_check(str(sparse_file(tmp_path / "empty", 0)))

    def test_that_is_missing_is_an_error(self, tmp_path: Path) -> None:
        for question in (
            devices.size_bytes,
            devices.read_check,
            devices.edges_are_zero,
            devices.identity_of,
            devices.flush,
            devices.is_read_only,
            devices.signatures,
        ):
            with pytest.raises(DeviceReadError):
                question(str(tmp_path / "missing"))

    def test_without_direct_io_is_read_all_the_same(self, tmp_path: Path) -> None:
        odd = sparse_file(tmp_path / "odd", 2 * MIB + 1)
        write_at(odd, 2 * MIB, b"x")
        assert devices.read_direct(str(odd), 2 * MIB, 1) == b"x"

    def test_can_be_flushed(self, file: Path) -> None:
        devices.flush(str(file))

    def test_is_writable(self, file: Path) -> None:
        assert not devices.is_read_only(str(file))


@pytest.mark.root
class TestABlockDevice:
    def test_size(self, device: str) -> None:
        assert devices.size_bytes(device) == EXT_BYTES

    @pytest.mark.parametrize("offset", [0, MIB - 1, EXT_BYTES - MIB, EXT_BYTES - 1])
    def test_one_byte_at_an_edge_is_seen(self, device: str, offset: int) -> None:
        assert devices.edges_are_zero(device)
        write_at(device, offset, b"x")
        assert not devices.edges_are_zero(device)

    def test_bytes_in_the_middle_are_not_looked_at(self, device: str) -> None:
        write_at(device, EXT_BYTES // 2, b"x")
        assert devices.edges_are_zero(device)

    def test_a_stale_page_cache_is_not_believed(self, file: Path, device: str) -> None:
        with open(device, "rb") as disk:  # noqa: PTH123 - held open: keeps the cache
            disk.read(4096)
            write_at(file, 0, b"x")
            assert not devices.edges_are_zero(device)

    @pytest.mark.parametrize("left", [0, MIB // 2, EXT_BYTES - 4096])
    def test_a_truncated_medium_is_a_read_error(self, file: Path, device: str, left: int) -> None:
        devices.read_check(device)
        os.truncate(file, left)
        with pytest.raises(DeviceReadError, match="cannot be read at byte"):
            devices.read_check(device)
        with pytest.raises(DeviceReadError):
            devices.edges_are_zero(device)

    def test_writing_can_be_forbidden_and_allowed(self, device: str) -> None:
        devices.set_read_only(device, True)
        assert devices.is_read_only(device)
        devices.set_read_only(device, False)
        assert not devices.is_read_only(device)

    def test_a_flush_reaches_the_medium(self, file: Path, device: str) -> None:
        descriptor = os.open(device, os.O_WRONLY)
        try:
            os.pwrite(descriptor, b"hello", 0)
            devices.flush(device)
            assert file.read_bytes()[:5] == b"hello"
        finally:
            os.close(descriptor)


@pytest.mark.root
class TestSignatures:
    def test_a_blank_device_has_none(self, device: str) -> None:
        assert devices.signatures(device) == ()

    @pytest.mark.parametrize("fs_type", ["ext4", "ext3", "xfs"])
    def test_a_filesystem_is_told_with_its_uuid(self, tmp_path: Path, fs_type: str) -> None:
        file = sparse_file(tmp_path / "volume", XFS_BYTES)
        with loop_device(file) as device:
            make_filesystem(device, fs_type, UUID)
            assert devices.signatures(device) == (
                devices.Signature(type=fs_type, usage="filesystem", uuid=UUID),
            )

    def test_swap_and_labels_are_told(self, device: str) -> None:
        command("mkswap", "-L", "paging", "-U", UUID, device)
        assert devices.signatures(device) == (
            devices.Signature(type="swap", usage="other", uuid=UUID, label="paging"),
        )

    def test_a_partition_table_is_told(self, device: str) -> None:
        # One Linux partition from sector 2048, and the magic of a DOS boot record.
        entry = struct.pack("<B3xB3xII", 0, 0x83, 2048, 4096)
        write_at(device, 446, entry.ljust(64, b"\0") + b"\x55\xaa")
        assert devices.signatures(device) == (devices.Signature("dos", "partition-table"),)

    def test_two_filesystems_at_once_are_an_error(self, tmp_path: Path) -> None:
        with loop_device(sparse_file(tmp_path / "volume", XFS_BYTES)) as device:
            make_filesystem(device, "xfs")
            sector = sparse_file(tmp_path / "ext", XFS_BYTES)
            make_filesystem(str(sector), "ext4")
            with open(sector, "rb") as other:  # noqa: PTH123
                other.seek(1024)
                write_at(device, 1024, other.read(1024))
            with pytest.raises(AmbivalentSignatures):
                devices.signatures(device)


class TestTwoProbes:
    EXT4 = devices.Signature("ext4", "filesystem", UUID)
    DOS = devices.Signature("dos", "partition-table")

    def test_that_see_nothing_agree(self) -> None:
        assert agree("/dev/x", "", ()) == ()

    def test_that_see_the_same_agree_and_the_believed_one_comes_first(self) -> None:
        assert agree("/dev/x", "ext4", (self.DOS, self.EXT4)) == (self.EXT4, self.DOS)

    @pytest.mark.parametrize(
        ("believed", "found"), [("", (EXT4,)), ("ext4", ()), ("xfs", (EXT4, DOS))]
    )
    def test_that_see_different_things_are_an_error(
        self, believed: str, found: tuple[devices.Signature, ...]
    ) -> None:
        with pytest.raises(AmbivalentSignatures):
            agree("/dev/x", believed, found)


@pytest.mark.root
class TestIdentityOfALoopDevice:
    def test_is_the_attribute_of_its_file(self, file: Path, device: str) -> None:
        assert devices.identities_of(device) == ()
        os.setxattr(file, XATTR, UUID.encode())
        assert devices.identity_of(device) == f"file:{UUID}"
        assert devices.identity_of(str(file)) == f"file:{UUID}"

    def test_is_not_that_of_a_file_that_took_its_place(self, file: Path, device: str) -> None:
        os.setxattr(file, XATTR, UUID.encode())
        other = sparse_file(file.with_name("other"), MIB)
        os.setxattr(other, XATTR, b"another")
        other.replace(file)
        assert devices.identity_of(device) == ""
