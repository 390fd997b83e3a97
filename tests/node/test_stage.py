"""NodeStageVolume on real loop devices: what is made and mounted, and how."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from csi_driver.attach import devices, loop
from csi_driver.attach.processes import run
from csi_driver.base.errors import InvalidRequest, SealError
from csi_driver.base.sealing import KeyRing
from csi_driver.base.values import Formatting, FormattingState
from csi_driver.node import mounts
from csi_driver.node.errors import (
    InvalidMountFlags,
    UnsupportedCapability,
)
from csi_driver.node.filesystem_errors import (
    NotFormatted,
)
from csi_driver.node.state import Step
from tests.support.ledger import FailingLedger
from tests.support.node_bench import (
    BLOCK,
    EXT4_BYTES,
    MOUNT,
    READER,
    XFS,
    XFS_BYTES,
    with_flags,
)

pytestmark = pytest.mark.root

FORMATTED = FormattingState.FORMATTED


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
    assert bench.formatting(volume) == expected
    assert bench.recorded(volume).step is Step.STAGED


def test_a_second_stage_elsewhere_finds_the_data(bench):
    volume = bench.volume()
    Path(bench.stage(volume), "file").write_text("content")
    bench.unstage(volume)
    # The grant of an old publish_context still says "never formatted": the ledger knows better.
    assert Path(bench.stage(volume), "file").read_text() == "content"


def test_what_only_the_ledger_knows_is_confirmed_by_every_node_that_gives_the_volume_out(bench):
    """Who confirmed it may have the volume no more; then its word does not count."""
    bench.ledger = FailingLedger(reads=-1, writes=2)
    bench.restart()
    volume = bench.volume()
    bench.stage(volume)
    bench.unstage(volume)
    assert bench.ledger.writes == 1
    bench.stage(volume)
    assert bench.ledger.writes == 0
    bench.unstage(volume)
    # What is in the record was taken over, and no node need say it.
    bench.stage(volume, formatting=bench.formatting(volume))


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
    assert bench.formatting(volume).state is FormattingState.RAW
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
    assert bench.formatting(volume).state is FormattingState.RAW


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
    before = volume.file.read_bytes()
    staging = bench.stage(volume, capability, **changes)
    found = mounts.find(staging)
    assert found is not None
    assert found.read_only
    assert devices.is_read_only(bench.recorded(volume).device)
    assert Path(staging, "file").read_text() == "content"
    bench.unstage(volume)
    assert volume.file.read_bytes() == before


def test_a_never_formatted_volume_is_not_formatted_for_a_reader(bench):
    volume = bench.volume()
    with pytest.raises(NotFormatted, match="writable once"):
        bench.stage(volume, READER)
    assert bench.nothing_left(volume)
    assert not any(volume.file.read_bytes())


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
    staging = bench.stage(clone, XFS, formatting=bench.formatting(source))
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
