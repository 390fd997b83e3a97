"""Filesystems on real loop devices: probed, made, checked, mounted and grown."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from csi_driver.attach.errors import CommandFailed, DeviceReadError
from csi_driver.base.values import Formatting
from csi_driver.node import filesystems
from csi_driver.node.filesystem_errors import (
    FilesystemDamaged,
    FilesystemMismatch,
    FilesystemNotMade,
    ForeignSignature,
    GrowNotPermitted,
    UnsupportedFilesystem,
)
from csi_driver.node.filesystems import Action, Probed
from tests.support.disks import (
    EXT_BYTES,
    MIB,
    XFS_BYTES,
    command,
    copy,
    loop_device,
    make_filesystem,
    mounted,
    sparse_file,
    write_at,
)

pytestmark = pytest.mark.root

UUID = "6f1b2c3d-0000-4000-8000-00000000abcd"
OTHER = "11223344-5566-4788-99aa-bbccddeeff00"
TYPES = ("ext4", "ext3", "xfs")
BYTES = {"ext4": EXT_BYTES, "ext3": EXT_BYTES, "xfs": XFS_BYTES}
CAP_SYS_RESOURCE = 24


@dataclass(frozen=True)
class Disk:
    file: Path
    device: str

    def resize(self, size: int) -> None:
        os.truncate(self.file, size)
        command("losetup", "--set-capacity", self.device)


@contextlib.contextmanager
def disk(directory: Path, size: int, name: str = "volume") -> Iterator[Disk]:
    file = sparse_file(directory / name, size)
    with loop_device(file) as device:
        yield Disk(file, device)


@pytest.fixture
def blank(tmp_path: Path) -> Iterator[Disk]:
    with disk(tmp_path, XFS_BYTES) as it:
        yield it


@pytest.fixture(params=TYPES)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Disk, str]]:
    """A filesystem of each type made by the project on a disk of the least size."""
    fs_type = request.param
    with disk(tmp_path, BYTES[fs_type]) as it:
        filesystems.make(it.device, fs_type, UUID)
        yield it, fs_type


def mount(it: Disk, fs_type: str, point: Path) -> contextlib.AbstractContextManager[Path]:
    options = filesystems.mount_options(fs_type, [], readonly=False, device_readonly=False)
    return mounted(it.device, point, fs_type, *options)


def written_and_cut_off(it: Disk, fs_type: str, tmp_path: Path) -> Path:
    """A copy of the disk of a machine that lost power: the journal is dirty."""
    with mount(it, fs_type, tmp_path / "first") as point:
        (point / "kept").write_text("data")
        os.sync()
        (point / "late").write_text("more")
        with open(point / "late", "rb") as late:  # noqa: PTH123
            os.fsync(late.fileno())
        return copy(it.file, tmp_path / "copy")


class TestProbing:
    def test_a_new_disk_is_blank(self, blank: Disk) -> None:
        assert filesystems.probe(blank.device) == Probed(blank=True)

    def test_a_filesystem_is_told_with_its_uuid(self, made: tuple[Disk, str]) -> None:
        it, fs_type = made
        assert filesystems.probe(it.device) == Probed(fs_type=fs_type, uuid=UUID)

    @pytest.mark.parametrize("offset", [0, MIB - 1, XFS_BYTES - MIB, XFS_BYTES - 1])
    def test_one_byte_without_meaning_is_not_blank(self, blank: Disk, offset: int) -> None:
        write_at(blank.device, offset, b"x")
        assert filesystems.probe(blank.device) == Probed()

    def test_other_signatures_are_foreign(self, blank: Disk) -> None:
        command("mkswap", blank.device)
        assert filesystems.probe(blank.device) == Probed(foreign=("swap",))

    def test_a_medium_that_cannot_be_read_is_an_error_and_not_blank(self, blank: Disk) -> None:
        os.truncate(blank.file, 0)
        with pytest.raises(DeviceReadError):
            filesystems.probe(blank.device)


class TestMaking:
    @pytest.mark.parametrize("fs_type", TYPES)
    def test_over_something_else_is_refused(self, blank: Disk, fs_type: str) -> None:
        make_filesystem(blank.device, "ext4", OTHER)
        with pytest.raises(ForeignSignature, match="holds ext4"):
            filesystems.make(blank.device, fs_type, UUID)
        assert filesystems.probe(blank.device) == Probed(fs_type="ext4", uuid=OTHER)

    @pytest.mark.parametrize("second", TYPES)
    def test_again_over_our_own_is_allowed(self, blank: Disk, second: str) -> None:
        for fs_type in ("xfs", "ext4", second):
            filesystems.make(blank.device, fs_type, UUID)
            assert filesystems.probe(blank.device) == Probed(fs_type=fs_type, uuid=UUID)

    def test_under_a_mount_is_refused(self, made: tuple[Disk, str], tmp_path: Path) -> None:
        it, fs_type = made
        with mount(it, fs_type, tmp_path / "mnt") as point:
            (point / "file").write_text("data")
            with pytest.raises(FilesystemNotMade):
                filesystems.make(it.device, fs_type, UUID)
            assert (point / "file").read_text() == "data"

    def test_on_too_small_a_disk_is_told(self, tmp_path: Path) -> None:
        with disk(tmp_path, 16 * MIB) as it, pytest.raises(FilesystemNotMade, match=r"mkfs\.xfs"):
            filesystems.make(it.device, "xfs", UUID)

    def test_options_reach_mkfs(self, blank: Disk) -> None:
        filesystems.make(blank.device, "ext4", UUID, ["-L", "mine"])
        assert "mine" in command("blkid", "-p", blank.device)

    def test_another_type_is_refused(self, blank: Disk) -> None:
        with pytest.raises(UnsupportedFilesystem):
            filesystems.make(blank.device, "btrfs", UUID)
        assert filesystems.probe(blank.device) == Probed(blank=True)

    @pytest.mark.parametrize("fs_type", ["ext4", "ext3"])
    def test_that_ended_before_the_superblock_is_begun_again(
        self, blank: Disk, fs_type: str
    ) -> None:
        filesystems.make(blank.device, fs_type, UUID)
        # The state that a crash leaves: tables are written, the superblock is not.
        write_at(blank.device, 1024, bytes(1024))
        assert filesystems.probe(blank.device) == Probed(uuid=UUID)
        decision = filesystems.decide(Formatting(fs_uuid=UUID), fs_type, Probed(uuid=UUID))
        assert decision.action is Action.MAKE
        filesystems.make(blank.device, fs_type, UUID)
        assert filesystems.probe(blank.device) == Probed(fs_type=fs_type, uuid=UUID)


class TestChecking:
    def test_a_clean_filesystem_passes(self, made: tuple[Disk, str]) -> None:
        it, fs_type = made
        filesystems.check(it.device, fs_type)

    def test_a_dirty_journal_is_replayed(self, made: tuple[Disk, str], tmp_path: Path) -> None:
        it, fs_type = made
        with loop_device(written_and_cut_off(it, fs_type, tmp_path)) as device:
            filesystems.check(device, fs_type)
            with mount(Disk(it.file, device), fs_type, tmp_path / "second") as point:
                assert (point / "kept").read_text() == "data"
                assert (point / "late").read_text() == "more"

    @pytest.mark.parametrize("fs_type", ["ext4", "ext3"])
    def test_damage_that_needs_a_person_is_told(self, blank: Disk, fs_type: str) -> None:
        filesystems.make(blank.device, fs_type, UUID)
        # Without its root directory and marked as having errors.
        command("debugfs", "-w", "-R", "clri <2>", blank.device)
        command("debugfs", "-w", "-R", "ssv state 2", blank.device)
        with pytest.raises(FilesystemDamaged, match=f"run e2fsck -f {blank.device}"):
            filesystems.check(blank.device, fs_type)

    def test_damage_that_is_safe_to_repair_is_repaired(self, blank: Disk) -> None:
        filesystems.make(blank.device, "ext4", UUID)
        command("debugfs", "-w", "-R", "ssv free_blocks_count 1", blank.device)
        command("debugfs", "-w", "-R", "ssv state 2", blank.device)
        filesystems.check(blank.device, "ext4")
        command("e2fsck", "-f", "-n", blank.device)

    def test_an_unfinished_xfs_is_told(self, blank: Disk) -> None:
        filesystems.make(blank.device, "xfs", UUID)
        write_at(blank.device, 126, b"\x01")
        with pytest.raises(FilesystemDamaged, match="never finished"):
            filesystems.check(blank.device, "xfs")
        filesystems.make(blank.device, "xfs", UUID)
        filesystems.check(blank.device, "xfs")

    def test_a_mounted_filesystem_is_not_checked(self, blank: Disk, tmp_path: Path) -> None:
        filesystems.make(blank.device, "ext4", UUID)
        with (
            mount(blank, "ext4", tmp_path / "mnt"),
            pytest.raises(CommandFailed, match="mounted"),
        ):
            filesystems.check(blank.device, "ext4")


class TestGrowing:
    def test_a_new_filesystem_fills_its_device(self, made: tuple[Disk, str]) -> None:
        it, fs_type = made
        assert not filesystems.needs_growth(it.device, fs_type, None)
        assert not filesystems.grow_offline(it.device, fs_type)

    @pytest.mark.parametrize("extra", [1, 2, 3, 5, 6, 7, 9, 33, 64])
    def test_what_mkfs_leaves_over_is_not_grown_for_ever(self, tmp_path: Path, extra: int) -> None:
        for fs_type in ("ext4", "xfs"):
            with disk(tmp_path, 384 * MIB + extra * MIB, fs_type) as it:
                filesystems.make(it.device, fs_type, UUID)
                assert not filesystems.needs_growth(it.device, fs_type, None)

    @pytest.mark.parametrize("fs_type", ["ext4", "ext3"])
    def test_offline_keeps_data_and_uuid(self, tmp_path: Path, fs_type: str) -> None:
        with disk(tmp_path, EXT_BYTES) as it:
            filesystems.make(it.device, fs_type, UUID)
            with mount(it, fs_type, tmp_path / "mnt") as point:
                (point / "file").write_text("data")
            it.resize(4 * EXT_BYTES)
            assert filesystems.needs_growth(it.device, fs_type, None)
            assert filesystems.grow_offline(it.device, fs_type)
            assert not filesystems.needs_growth(it.device, fs_type, None)
            assert not filesystems.grow_offline(it.device, fs_type)
            assert filesystems.probe(it.device) == Probed(fs_type=fs_type, uuid=UUID)
            with mount(it, fs_type, tmp_path / "mnt") as point:
                assert (point / "file").read_text() == "data"
                assert os.statvfs(point).f_blocks * 4096 > 3 * EXT_BYTES

    def test_xfs_grows_only_while_mounted(self, blank: Disk, tmp_path: Path) -> None:
        filesystems.make(blank.device, "xfs", UUID)
        blank.resize(2 * XFS_BYTES)
        assert filesystems.needs_growth(blank.device, "xfs", None)
        assert not filesystems.grow_offline(blank.device, "xfs")
        with mount(blank, "xfs", tmp_path / "mnt") as point:
            assert filesystems.needs_growth(blank.device, "xfs", str(point))
            assert filesystems.grow_mounted(blank.device, str(point), "xfs")
            assert not filesystems.needs_growth(blank.device, "xfs", str(point))
            assert not filesystems.grow_mounted(blank.device, str(point), "xfs")
        assert not filesystems.needs_growth(blank.device, "xfs", None)

    def test_a_mounted_ext4_grows_or_says_which_capability_lacks(self, tmp_path: Path) -> None:
        with disk(tmp_path, EXT_BYTES) as it:
            filesystems.make(it.device, "ext4", UUID)
            with mount(it, "ext4", tmp_path / "mnt") as point:
                it.resize(4 * EXT_BYTES)
                assert filesystems.needs_growth(it.device, "ext4", str(point))
                if has_capability(CAP_SYS_RESOURCE):
                    assert filesystems.grow_mounted(it.device, str(point), "ext4")
                    assert not filesystems.needs_growth(it.device, "ext4", str(point))
                else:
                    with pytest.raises(GrowNotPermitted, match="CAP_SYS_RESOURCE"):
                        filesystems.grow_mounted(it.device, str(point), "ext4")

    @pytest.mark.parametrize("fs_type", TYPES)
    def test_another_filesystem_than_told_is_an_error(self, blank: Disk, fs_type: str) -> None:
        with pytest.raises(FilesystemMismatch):
            filesystems.needs_growth(blank.device, fs_type, None)


class TestMounting:
    def test_a_clone_mounts_beside_its_source(self, made: tuple[Disk, str], tmp_path: Path) -> None:
        it, fs_type = made
        clone = copy(it.file, tmp_path / "clone")
        with (
            loop_device(clone) as device,
            mount(it, fs_type, tmp_path / "source"),
            mount(Disk(clone, device), fs_type, tmp_path / "beside") as point,
        ):
            assert point.is_mount()

    def test_a_dirty_journal_on_a_read_only_device_is_not_passed_over_in_silence(
        self, made: tuple[Disk, str], tmp_path: Path
    ) -> None:
        it, fs_type = made
        file = written_and_cut_off(it, fs_type, tmp_path)
        before = command("sha256sum", str(file))
        with loop_device(file, readonly=True) as device:
            filesystems.check(device, fs_type)
            options = filesystems.mount_options(fs_type, [], readonly=True, device_readonly=True)
            with pytest.raises(subprocess.CalledProcessError) as refused:
                command("mount", "-t", fs_type, "-o", ",".join(options), device, str(tmp_path))
            assert "read-only" in refused.value.stderr
            flags = ["norecovery" if fs_type == "xfs" else "noload"]
            options = filesystems.mount_options(fs_type, flags, readonly=True, device_readonly=True)
            with mounted(device, tmp_path / "mnt", fs_type, *options) as point:
                assert point.is_mount()
        assert command("sha256sum", str(file)) == before

    @pytest.mark.parametrize(
        ("fs_type", "flags", "readonly", "device_readonly", "options"),
        [
            ("ext4", [], False, False, []),
            ("ext4", ["noatime", "noatime"], False, False, ["noatime"]),
            ("ext4", ["rw", "noatime"], True, False, ["noatime", "ro"]),
            ("ext3", ["noload"], True, True, ["noload", "ro"]),
            ("xfs", [], False, False, ["nouuid"]),
            ("xfs", ["nouuid"], False, False, ["nouuid"]),
            ("xfs", ["rw"], False, True, ["ro", "nouuid"]),
        ],
    )
    def test_options(
        self,
        fs_type: str,
        flags: list[str],
        readonly: bool,
        device_readonly: bool,
        options: list[str],
    ) -> None:
        assert filesystems.mount_options(fs_type, flags, readonly, device_readonly) == options


def has_capability(number: int) -> bool:
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> number & 1)
