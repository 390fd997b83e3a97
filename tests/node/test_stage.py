"""NodeStageVolume on real loop devices: what is made, checked, refused, repeated and undone."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from csi_driver.attach import devices, loop
from csi_driver.attach.errors import (
    AttachFailed,
    DeviceIdentityMismatch,
    DeviceReadError,
    DeviceSizeMismatch,
    UnsupportedTransport,
)
from csi_driver.attach.identity import XATTR
from csi_driver.attach.processes import run
from csi_driver.base.errors import InvalidRequest, SealError, StateDirectoryError
from csi_driver.base.sealing import KeyRing
from csi_driver.base.values import Confirmation, Formatting, FormattingState
from csi_driver.node import mounts
from csi_driver.node.errors import (
    DeadMount,
    DeviceReadOnly,
    FormattedMeanwhile,
    InvalidMountFlags,
    NodeStateDamaged,
    StagedIncompatible,
    StageRollbackFailed,
    StaleMount,
    TargetUnusable,
    UnsupportedCapability,
)
from csi_driver.node.filesystem_errors import (
    FilesystemDamaged,
    FilesystemMismatch,
    ForeignSignature,
    FormattedButBlank,
    NotBlank,
    NotFormatted,
)
from csi_driver.node.ports import LedgerUnavailable
from csi_driver.node.state import Step, file_name
from tests.support.ledger import FailingLedger, MemoryLedger
from tests.support.node_bench import (
    BLOCK,
    EXT4_BYTES,
    MIB,
    MOUNT,
    READER,
    XFS,
    XFS_BYTES,
    Bench,
    TestVolume,
    named_after_reboot,
)

pytestmark = pytest.mark.root

FORMATTED = FormattingState.FORMATTED


def with_flags(*flags: str):
    return msgspec.structs.replace(MOUNT, mount_flags=flags)


def formatted(bench: Bench, volume: TestVolume) -> Formatting:
    confirmation = bench.ledger.confirmation(volume.id)
    assert confirmation is not None
    return confirmation.formatting


def bytes_of(volume: TestVolume) -> bytes:
    return volume.file.read_bytes()


# --- the first stage -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "size", "fs_type"), [(MOUNT, EXT4_BYTES, "ext4"), (XFS, XFS_BYTES, "xfs")]
)
def test_a_new_volume_is_formatted_mounted_and_confirmed(bench, capability, size, fs_type):
    volume = bench.volume(size)
    staging = bench.stage(volume, capability)
    found = mounts.find(staging)
    assert found is not None
    assert found.fs_type == fs_type
    Path(staging, "file").write_text("content")
    made = devices.signatures(str(volume.file))
    assert [(s.type, s.uuid) for s in made] == [(fs_type, volume.formatting.fs_uuid)]
    expected = Formatting(state=FORMATTED, fs_type=fs_type, fs_uuid=volume.formatting.fs_uuid)
    assert formatted(bench, volume) == expected
    assert bench.recorded(volume).step is Step.STAGED


def test_a_second_stage_elsewhere_finds_the_data(bench):
    volume = bench.volume()
    Path(bench.stage(volume), "file").write_text("content")
    bench.unstage(volume)
    # The grant of an old publish_context still says "never formatted": the ledger knows better.
    assert Path(bench.stage(volume), "file").read_text() == "content"


def test_a_missing_staging_directory_is_made(bench):
    volume = bench.volume()
    Path(bench.staging(volume)).rmdir()
    request = msgspec.structs.replace(
        bench.stage_request(volume), staging_path=str(bench.directory / "not" / "there")
    )
    bench.service.stage(request)
    assert mounts.find(request.staging_path) is not None


def test_mount_flags_are_applied(bench):
    staging = bench.stage(bench.volume(), with_flags("noatime", "nodev"))
    found = mounts.find(staging)
    assert found is not None
    assert {"noatime", "nodev"} <= set(found.options)


def test_no_password_is_in_the_state_directory(bench):
    volume = bench.volume()
    data = {"device_path": str(volume.file), "access_mode": "rw", "auth_password": "hunter2"}
    bench.stage(volume, connection={"driver_volume_type": "local", "data": data})
    files = [path for path in (bench.directory / "state").rglob("*") if path.is_file()]
    assert files
    assert not any(b"hunter2" in path.read_bytes() for path in files)


# --- block volumes ---------------------------------------------------------------------------


def test_a_block_volume_is_attached_and_confirmed_raw(bench):
    volume = bench.volume()
    staging = bench.stage(volume, BLOCK)
    assert mounts.find(staging) is None
    assert formatted(bench, volume).state is FormattingState.RAW
    assert len(loop.devices_of(volume.file)) == 1
    assert devices.edges_are_zero(str(volume.file))


def test_a_volume_that_was_given_out_raw_is_never_formatted(bench):
    volume = bench.volume()
    bench.stage(volume, BLOCK)
    bench.unstage(volume)
    with pytest.raises(NotFormatted):
        bench.stage(volume)
    assert bench.nothing_left(volume)
    assert devices.edges_are_zero(str(volume.file))


def test_a_filesystem_that_a_block_user_made_is_used_and_the_volume_stays_raw(bench):
    volume = bench.volume()
    bench.stage(volume, BLOCK)
    run(["mkfs.ext4", "-q", bench.recorded(volume).device])
    bench.unstage(volume)
    bench.stage(volume)
    assert formatted(bench, volume).state is FormattingState.RAW


# --- what must never be formatted ------------------------------------------------------------


def test_a_formatted_volume_that_looks_blank_is_refused_and_stays_untouched(bench):
    volume = bench.volume()
    recorded = Formatting(state=FORMATTED, fs_type="ext4", fs_uuid=volume.formatting.fs_uuid)
    with pytest.raises(FormattedButBlank):
        bench.stage(volume, formatting=recorded)
    assert bench.nothing_left(volume)
    assert devices.edges_are_zero(str(volume.file))


def test_a_never_formatted_volume_with_a_foreign_filesystem_is_refused(bench):
    volume = bench.volume()
    run(["mkfs.ext4", "-q", str(volume.file)])
    before = bytes_of(volume)
    with pytest.raises(ForeignSignature):
        bench.stage(volume)
    assert bench.nothing_left(volume)
    assert bytes_of(volume) == before


def test_a_never_formatted_volume_with_bytes_at_its_end_is_refused(bench):
    volume = bench.volume()
    with volume.file.open("r+b") as content:
        content.seek(-8, os.SEEK_END)
        content.write(b"somebody")
    before = bytes_of(volume)
    with pytest.raises(NotBlank):
        bench.stage(volume)
    assert bytes_of(volume) == before


def test_an_imported_volume_is_used_with_its_filesystem_and_then_known(bench):
    volume = bench.volume()
    run(["mkfs.ext4", "-q", "-U", volume.formatting.fs_uuid, str(volume.file)])
    bench.stage(volume, formatting=Formatting(state=FormattingState.UNKNOWN))
    expected = Formatting(state=FORMATTED, fs_type="ext4", fs_uuid=volume.formatting.fs_uuid)
    assert formatted(bench, volume) == expected


def test_another_filesystem_than_the_recorded_one_is_refused(bench):
    volume = bench.volume()
    run(["mkfs.ext4", "-q", str(volume.file)])
    recorded = Formatting(state=FORMATTED, fs_type="ext4", fs_uuid=volume.formatting.fs_uuid)
    with pytest.raises(FilesystemMismatch):
        bench.stage(volume, formatting=recorded)
    assert bench.nothing_left(volume)


def test_our_own_unfinished_filesystem_is_made_again(bench):
    volume = bench.volume()
    run(["mkfs.ext4", "-q", "-U", volume.formatting.fs_uuid, str(volume.file)])
    with volume.file.open("r+b") as content:  # group descriptors and inode tables gone
        content.seek(8192)
        content.write(os.urandom(4 * MIB))
    bench.stage(volume)
    assert formatted(bench, volume).state is FORMATTED
    bench.unstage(volume)
    run(["e2fsck", "-f", "-n", str(volume.file)])


def test_a_damaged_filesystem_with_data_is_refused_and_not_mounted(bench):
    volume = bench.volume()
    bench.stage(volume)
    bench.unstage(volume)
    with volume.file.open("r+b") as content:
        content.seek(8192)
        content.write(os.urandom(4 * MIB))
    with pytest.raises(FilesystemDamaged):
        bench.stage(volume)
    assert bench.nothing_left(volume)


# --- the ledger ------------------------------------------------------------------------------


def test_nothing_is_attached_when_the_ledger_cannot_be_read(bench):
    bench.ledger = FailingLedger(reads=0)
    bench.restart()
    volume = bench.volume()
    with pytest.raises(LedgerUnavailable):
        bench.stage(volume)
    assert bench.nothing_left(volume)


def test_nothing_is_written_when_the_ledger_goes_away_before_mkfs(bench):
    bench.ledger = FailingLedger(reads=1)
    bench.restart()
    volume = bench.volume()
    with pytest.raises(LedgerUnavailable):
        bench.stage(volume)
    assert bench.nothing_left(volume)
    assert not any(bytes_of(volume))


def test_a_volume_that_another_node_formats_in_this_moment_is_not_formatted_again(bench):
    volume = bench.volume()

    class AnotherNode(MemoryLedger):
        """Its confirmation comes between the first and the second look."""

        def confirmation(self, volume_id: str) -> Confirmation | None:
            seen = super().confirmation(volume_id)
            theirs = Formatting(state=FORMATTED, fs_type="ext4", fs_uuid="theirs")
            self.confirm(Confirmation(volume_id=volume_id, formatting=theirs))
            return seen

    bench.ledger = AnotherNode()
    bench.restart()
    with pytest.raises(FormattedMeanwhile):
        bench.stage(volume)
    assert bench.nothing_left(volume)
    assert not any(bytes_of(volume))


def test_a_stage_that_cannot_be_confirmed_fails_and_the_next_one_goes_on(bench):
    ledger = bench.ledger = FailingLedger(reads=-1, writes=0)
    bench.restart()
    volume = bench.volume()
    with pytest.raises(LedgerUnavailable):
        bench.stage(volume)
    assert bench.nothing_left(volume)
    ledger.writes = -1
    bench.stage(volume)
    assert formatted(bench, volume).fs_uuid == volume.formatting.fs_uuid


def test_a_formatted_volume_is_staged_without_the_ledger(bench):
    volume = bench.volume()
    bench.stage(volume)
    bench.unstage(volume)
    known = formatted(bench, volume)
    bench.ledger = FailingLedger()
    bench.restart()
    assert mounts.find(bench.stage(volume, formatting=known)) is not None


# --- proofs of the device --------------------------------------------------------------------


def test_a_device_smaller_than_recorded_is_refused(bench):
    volume = bench.volume()
    with pytest.raises(DeviceSizeMismatch):
        bench.stage(volume, size_bytes=volume.size_bytes + MIB)
    assert bench.nothing_left(volume)


@pytest.mark.parametrize("source", ["record", "connection", "ledger"])
def test_a_device_of_another_identity_is_refused_wherever_it_was_told(bench, source):
    volume = bench.volume()
    os.setxattr(volume.file, XATTR, b"right")
    data = {"device_path": str(volume.file), "access_mode": "rw"}
    changes: dict[str, object] = {}
    if source == "record":
        changes["identity"] = "file:wrong"
    elif source == "connection":
        data["identity"] = "file:wrong"
        changes["connection"] = {"driver_volume_type": "local", "data": data}
    else:
        bench.ledger.confirm(
            Confirmation(volume_id=volume.id, formatting=volume.formatting, identity="file:wrong")
        )
    with pytest.raises(DeviceIdentityMismatch, match="file:wrong"):
        bench.stage(volume, **changes)
    assert bench.nothing_left(volume)
    assert not any(bytes_of(volume))


def test_the_identity_is_learned_at_the_first_stage_and_required_from_then_on(bench):
    volume = bench.volume()
    os.setxattr(volume.file, XATTR, b"one")
    bench.stage(volume)
    confirmation = bench.ledger.confirmation(volume.id)
    assert confirmation is not None
    assert confirmation.identity == "file:one"
    bench.unstage(volume)
    os.setxattr(volume.file, XATTR, b"other")
    with pytest.raises(DeviceIdentityMismatch):
        bench.stage(volume)


def test_a_device_that_cannot_be_read_to_its_end_is_refused(bench):
    volume = bench.volume()
    bench.stage(volume)
    bench.unstage(volume)
    device = loop.attach(volume.file)
    os.truncate(volume.file, volume.size_bytes - 2 * MIB)
    data = {"device_path": device, "access_mode": "rw"}
    with pytest.raises(DeviceReadError):
        bench.stage(volume, connection={"driver_volume_type": "local", "data": data})


def test_a_volume_whose_file_is_gone_leaves_nothing(bench):
    volume = bench.volume()
    volume.file.unlink()
    with pytest.raises(AttachFailed):
        bench.stage(volume)
    assert bench.state.read(volume.id) is None


def test_a_transport_that_this_node_does_not_know_leaves_nothing(bench):
    volume = bench.volume()
    with pytest.raises(UnsupportedTransport):
        bench.stage(volume, connection={"driver_volume_type": "carrier-pigeon", "data": {}})
    assert bench.state.read(volume.id) is None


def test_a_writable_volume_on_a_read_only_device_is_refused(bench):
    volume = bench.volume()
    data = {"device_path": loop.attach(volume.file, readonly=True), "access_mode": "rw"}
    with pytest.raises(DeviceReadOnly):
        bench.stage(volume, connection={"driver_volume_type": "local", "data": data})
    assert bench.state.read(volume.id) is None


def test_nothing_is_attached_when_the_state_cannot_be_written(bench):
    volume = bench.volume()
    (bench.directory / "state").mkdir()
    (bench.directory / "state" / "volumes").touch()
    with pytest.raises(StateDirectoryError):
        bench.stage(volume)
    assert loop.devices_of(volume.file) == []


# --- read-only -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "changes"),
    [(READER, {}), (MOUNT, {"readonly": True}), (with_flags("ro"), {})],
    ids=["mode", "context", "flag"],
)
def test_a_read_only_volume_has_a_read_only_device_and_mount(bench, capability, changes):
    volume = bench.volume()
    Path(bench.stage(volume), "file").write_text("content")
    bench.unstage(volume)
    before = bytes_of(volume)
    staging = bench.stage(volume, capability, **changes)
    found = mounts.find(staging)
    assert found is not None
    assert found.read_only
    assert devices.is_read_only(bench.recorded(volume).device)
    assert Path(staging, "file").read_text() == "content"
    bench.unstage(volume)
    assert bytes_of(volume) == before


def test_a_never_formatted_volume_is_not_formatted_for_a_reader(bench):
    volume = bench.volume()
    with pytest.raises(NotFormatted, match="writable once"):
        bench.stage(volume, READER)
    assert bench.nothing_left(volume)
    assert not any(bytes_of(volume))


# --- repeats, other calls, leftovers ---------------------------------------------------------


@pytest.mark.parametrize("capability", [MOUNT, BLOCK], ids=["mount", "block"])
def test_a_repeated_stage_changes_nothing(bench, capability):
    volume = bench.volume()
    staging = bench.stage(volume, capability)
    before = (mounts.find(staging), bench.recorded(volume), loop.devices_of(volume.file))
    bench.restart()
    bench.stage(volume, capability)
    assert (mounts.find(staging), bench.recorded(volume), loop.devices_of(volume.file)) == before


@pytest.mark.parametrize("other", [BLOCK, READER, with_flags("noatime")])
def test_another_capability_on_a_staged_volume_is_refused(bench, other):
    volume = bench.volume()
    staging = bench.stage(volume)
    with pytest.raises(StagedIncompatible):
        bench.stage(volume, other)
    assert mounts.find(staging) is not None


def test_another_path_for_a_staged_volume_is_refused(bench):
    volume = bench.volume()
    staging = bench.stage(volume)
    request = msgspec.structs.replace(bench.stage_request(volume), staging_path=staging + "-2")
    with pytest.raises(StagedIncompatible, match="staged at"):
        bench.service.stage(request)


def test_a_foreign_mount_at_the_staging_path_is_named_and_left_alone(bench):
    volume = bench.volume()
    staging = bench.staging(volume)
    run(["mount", "-t", "tmpfs", "foreign", staging])
    with pytest.raises(StaleMount, match="foreign"):
        bench.stage(volume)
    found = mounts.find(staging)
    assert found is not None
    assert found.source == "foreign"
    assert loop.devices_of(volume.file) == []


def test_a_mount_over_the_staged_one_is_named_and_left_alone(bench):
    volume = bench.volume()
    staging = bench.stage(volume)
    run(["mount", "-t", "tmpfs", "foreign", staging])
    with pytest.raises(StaleMount, match="foreign"):
        bench.stage(volume)


def test_a_symbolic_link_as_staging_path_is_refused(bench):
    volume = bench.volume()
    staging = Path(bench.staging(volume))
    staging.rmdir()
    staging.symlink_to(bench.directory)
    with pytest.raises(TargetUnusable, match="symbolic link"):
        bench.stage(volume)


@pytest.mark.parametrize(
    ("capability", "size"), [(MOUNT, EXT4_BYTES), (XFS, XFS_BYTES)], ids=["ext4", "xfs"]
)
def test_a_dead_filesystem_is_unmounted_and_staged_again(bench, capability, size):
    volume = bench.volume(size)
    staging = bench.stage(volume, capability)
    Path(staging, "file").write_text("content")
    os.sync()
    run(["xfs_io", "-x", "-c", "shutdown", staging])
    bench.stage(volume, capability)
    assert Path(staging, "file").read_text() == "content"
    assert len(loop.devices_of(volume.file)) == 1


def test_a_dead_filesystem_that_pods_still_have_is_told(bench):
    volume = bench.volume(XFS_BYTES)
    staging = bench.stage(volume, XFS)
    target = bench.publish(volume, capability=XFS)
    run(["xfs_io", "-x", "-c", "shutdown", staging])
    with pytest.raises(DeadMount, match=target):
        bench.stage(volume, XFS)


def test_a_volume_that_a_reboot_took_is_staged_again(bench):
    volume, other = bench.volume(), bench.volume(name="other")
    staging = bench.stage(volume)
    Path(staging, "file").write_text("content")
    staged = bench.recorded(volume)
    bench.unstage(volume)
    bench.stage(other)
    bench.state.write(named_after_reboot(staged, bench.recorded(other)))
    bench.stage(volume, READER)
    assert Path(staging, "file").read_text() == "content"
    assert mounts.find(bench.staging(other)) is not None


@pytest.mark.parametrize("step", [step for step in Step if step is not Step.STAGED])
def test_what_a_crash_left_at_any_step_is_undone_before_a_new_stage(bench, step):
    volume = bench.volume()
    staging = bench.stage(volume)
    bench.state.write(msgspec.structs.replace(bench.recorded(volume), step=step))
    bench.restart()
    bench.stage(volume)
    assert mounts.find(staging) is not None
    assert len(loop.devices_of(volume.file)) == 1
    assert bench.recorded(volume).step is Step.STAGED


def test_a_loop_device_that_a_crash_left_unrecorded_is_removed(bench):
    volume = bench.volume()
    bench.stage(volume)
    staged = bench.recorded(volume)
    bench.unstage(volume)
    bench.attacher.connect(
        {"driver_volume_type": "local", "data": {"device_path": str(volume.file)}}
    )
    unknown = {"device": "", "device_number": "", "loop": "", "device_info": {}, "fingerprint": ""}
    bench.state.write(msgspec.structs.replace(staged, step=Step.ATTACHING, **unknown))
    bench.stage(volume)
    assert len(loop.devices_of(volume.file)) == 1


def test_a_damaged_state_file_is_named(bench):
    volume = bench.volume()
    bench.stage(volume)
    path = bench.directory / "state" / "volumes" / file_name(volume.id)
    path.write_text("{")
    with pytest.raises(NodeStateDamaged, match=path.name):
        bench.stage(volume)


def test_a_roll_back_that_fails_says_so_with_the_first_error_and_is_finished_later(bench):
    volume = bench.volume()
    staging = bench.staging(volume)

    class KeepsItBusy(FailingLedger):
        """Out of reach when asked to confirm, and by then a process uses the mount."""

        def confirm(self, confirmation: Confirmation) -> None:
            self.file = Path(staging, "open").open("w")  # noqa: SIM115 - closed by the test
            super().confirm(confirmation)

    ledger = bench.ledger = KeepsItBusy(reads=-1)
    bench.restart()
    with pytest.raises(StageRollbackFailed, match=r"out of reach.*busy"):
        bench.stage(volume)
    assert bench.recorded(volume).step is Step.CONFIRMING
    with pytest.raises(StageRollbackFailed, match=r"earlier stage.*busy"):
        bench.stage(volume)
    ledger.file.close()
    bench.unstage(volume)
    assert bench.nothing_left(volume)


# --- growth and clones -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "size"), [(MOUNT, EXT4_BYTES), (XFS, XFS_BYTES)], ids=["ext4", "xfs"]
)
def test_a_volume_restored_larger_than_its_source_has_its_filesystem_grown(bench, capability, size):
    volume = bench.volume(size)
    Path(bench.stage(volume, capability), "file").write_text("content")
    bench.unstage(volume)
    os.truncate(volume.file, 2 * size)
    staging = bench.stage(volume, capability, size_bytes=2 * size)
    status = os.statvfs(staging)
    assert status.f_blocks * status.f_frsize > 1.5 * size
    assert Path(staging, "file").read_text() == "content"


def test_an_xfs_clone_mounts_beside_its_source(bench):
    source = bench.volume(XFS_BYTES)
    Path(bench.stage(source, XFS), "file").write_text("content")
    bench.unstage(source)
    clone = bench.volume(XFS_BYTES, name="clone")
    run(["cp", "--sparse=always", str(source.file), str(clone.file)])
    bench.stage(source, XFS)
    staging = bench.stage(clone, XFS, formatting=formatted(bench, source))
    assert Path(staging, "file").read_text() == "content"
    assert mounts.find(bench.staging(source)) is not None


# --- requests that are refused ---------------------------------------------------------------


def test_a_mount_flag_that_the_filesystem_does_not_know_is_refused_unrepeated(bench):
    volume = bench.volume()
    with pytest.raises(InvalidMountFlags) as caught:
        bench.stage(volume, with_flags("password=hunter2"))
    assert "hunter2" not in str(caught.value)
    assert bench.nothing_left(volume)


@pytest.mark.parametrize("flag", ["remount", "bind", "noatime,loop=/dev/loop0", "offset=4096"])
def test_a_mount_flag_that_mount_itself_would_act_on_is_refused(bench, flag):
    volume = bench.volume()
    with pytest.raises(InvalidMountFlags):
        bench.stage(volume, with_flags(flag))
    assert bench.nothing_left(volume)


def test_a_volume_mount_group_is_refused(bench):
    with pytest.raises(UnsupportedCapability):
        bench.stage(bench.volume(), msgspec.structs.replace(MOUNT, volume_mount_group="1000"))


def test_a_publish_context_that_is_missing_or_sealed_by_others_is_refused(bench):
    volume = bench.volume()
    request = bench.stage_request(volume)
    with pytest.raises(InvalidRequest):
        bench.service.stage(msgspec.structs.replace(request, publish_context={}))
    bench.keys = KeyRing.generate()
    with pytest.raises(SealError):
        bench.service.stage(request)
    assert bench.nothing_left(volume)
