"""NodePublishVolume and NodeUnpublishVolume on real mounts."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest

from csi_driver.attach.processes import run
from csi_driver.node import mounts
from csi_driver.node.errors import (
    CapabilityNotStaged,
    MountFailed,
    PublishedIncompatible,
    PublishRollbackFailed,
    SecondTarget,
    StagingPathMissing,
    StaleMount,
    TargetBusy,
    TargetUnusable,
    VolumeNotStaged,
)
from csi_driver.node.requests import PublishRequest
from csi_driver.node.state import Step, file_name
from tests.support.node_bench import (
    BLOCK,
    MOUNT,
    MULTI,
    READER,
    XFS,
    XFS_BYTES,
    failing_program,
    named_after_reboot,
)

pytestmark = pytest.mark.root

USES = pytest.mark.parametrize("capability", [MOUNT, BLOCK], ids=["mount", "block"])
MULTI_BLOCK = msgspec.structs.replace(BLOCK, mode=MULTI.mode)


# --- publish ---------------------------------------------------------------------------------


def test_a_filesystem_is_visible_at_a_directory_made_with_its_parents(bench):
    volume = bench.volume()
    staging = bench.stage(volume)
    target = bench.publish(volume)
    Path(target, "file").write_text("content")
    assert Path(staging, "file").read_text() == "content"


def test_a_block_device_is_visible_at_a_file(bench):
    volume = bench.volume()
    bench.stage(volume, BLOCK)
    target = bench.publish(volume, capability=BLOCK)
    assert stat.S_ISBLK(Path(target).stat().st_mode)
    with Path(target).open("r+b") as device:
        device.write(b"content")
        os.fsync(device.fileno())
    bench.unpublish(volume)
    bench.unstage(volume)
    assert volume.file.read_bytes().startswith(b"content")


def test_a_read_only_publish_of_a_writable_volume_cannot_be_written(bench):
    volume = bench.volume()
    staging = bench.stage(volume)
    target = bench.publish(volume, readonly=True)
    with pytest.raises(OSError, match="Read-only"):
        Path(target, "file").touch()
    Path(staging, "file").touch()


def test_a_volume_staged_read_only_is_published_read_only(bench):
    volume = bench.volume()
    bench.stage(volume)
    bench.unstage(volume)
    bench.stage(volume, READER)
    target = bench.publish(volume, capability=READER)
    found = mounts.find(target)
    assert found is not None
    assert found.read_only


def test_mount_flags_of_the_stage_hold_at_the_target(bench):
    volume = bench.volume()
    capability = msgspec.structs.replace(MOUNT, mount_flags=("noexec", "noatime"))
    bench.stage(volume, capability)
    found = mounts.find(bench.publish(volume, capability=capability, readonly=True))
    assert found is not None
    assert {"ro", "noexec", "noatime"} <= set(found.options)


@USES
def test_a_repeat_changes_nothing(bench, capability):
    volume = bench.volume()
    bench.stage(volume, capability)
    target = bench.publish(volume, capability=capability)
    before = mounts.find(target)
    bench.restart()
    bench.publish(volume, capability=capability)
    assert mounts.find(target) == before


@USES
def test_an_empty_target_that_is_there_is_used(bench, capability):
    volume = bench.volume()
    bench.stage(volume, capability)
    target = Path(bench.target())
    target.parent.mkdir(parents=True)
    target.touch() if capability is BLOCK else target.mkdir()
    bench.publish(volume, capability=capability)
    assert mounts.find(str(target)) is not None


def fill_directory(target: Path) -> None:
    target.mkdir()
    (target / "file").write_text("somebody's")


@pytest.mark.parametrize(
    ("capability", "make"),
    [
        (MOUNT, fill_directory),
        (MOUNT, lambda target: target.write_text("somebody's")),
        (MOUNT, lambda target: target.symlink_to("/tmp")),
        (BLOCK, lambda target: target.write_text("somebody's")),
        (BLOCK, lambda target: target.mkdir()),
        (BLOCK, lambda target: target.symlink_to("/dev/null")),
    ],
)
def test_a_target_that_is_not_ours_to_use_is_refused_and_kept(bench, capability, make):
    volume = bench.volume()
    bench.stage(volume, capability)
    target = Path(bench.target())
    target.parent.mkdir(parents=True)
    make(target)
    before = target.lstat()
    with pytest.raises(TargetUnusable):
        bench.publish(volume, capability=capability)
    assert target.lstat() == before
    assert bench.recorded(volume).targets == ()


def test_a_foreign_mount_at_the_target_is_named_and_left_alone(bench):
    volume = bench.volume()
    bench.stage(volume)
    target = Path(bench.target())
    target.mkdir(parents=True)
    run(["mount", "-t", "tmpfs", "foreign", str(target)])
    with pytest.raises(StaleMount, match="foreign"):
        bench.publish(volume)
    found = mounts.find(str(target))
    assert found is not None
    assert found.source == "foreign"


def test_without_a_staging_path_it_is_refused(bench):
    request = PublishRequest(volume_id="v", staging_path="", target_path="/t", capability=MOUNT)
    with pytest.raises(StagingPathMissing):
        bench.service.publish(request)


def test_a_volume_that_is_not_staged_is_refused(bench):
    volume = bench.volume()
    with pytest.raises(VolumeNotStaged):
        bench.publish(volume)
    assert not Path(bench.target()).exists()


def test_a_volume_that_is_staged_elsewhere_is_refused(bench):
    volume = bench.volume()
    bench.stage(volume)
    request = PublishRequest(
        volume_id=volume.id,
        staging_path=str(bench.directory / "elsewhere"),
        target_path=bench.target(),
        capability=MOUNT,
    )
    with pytest.raises(VolumeNotStaged):
        bench.service.publish(request)


@USES
def test_after_a_reboot_it_is_not_staged(bench, capability):
    volume, other = bench.volume(), bench.volume(name="other")
    bench.stage(volume, capability)
    staged = bench.recorded(volume)
    bench.unstage(volume)
    bench.stage(other, capability)
    bench.state.write(named_after_reboot(staged, bench.recorded(other)))
    with pytest.raises(VolumeNotStaged):
        bench.publish(volume, capability=capability)


def test_a_block_volume_whose_device_shows_another_file_is_not_staged(bench):
    volume, other = bench.volume(), bench.volume(name="other")
    bench.stage(volume, BLOCK)
    staged = bench.recorded(volume)
    bench.unstage(volume)
    bench.stage(other, BLOCK)
    taken_over = named_after_reboot(staged, bench.recorded(other))
    bench.state.write(msgspec.structs.replace(taken_over, boot_id=staged.boot_id))
    with pytest.raises(VolumeNotStaged):
        bench.publish(volume, capability=BLOCK)


def test_a_dead_filesystem_is_not_published(bench):
    volume = bench.volume(XFS_BYTES)
    run(["xfs_io", "-x", "-c", "shutdown", bench.stage(volume, XFS)])
    with pytest.raises(VolumeNotStaged):
        bench.publish(volume, capability=XFS)


def test_half_a_stage_is_not_published(bench):
    volume = bench.volume()
    bench.stage(volume)
    bench.state.write(msgspec.structs.replace(bench.recorded(volume), step=Step.CONFIRMING))
    with pytest.raises(VolumeNotStaged, match="confirming"):
        bench.publish(volume)


@pytest.mark.parametrize(
    "wanted",
    [BLOCK, XFS, msgspec.structs.replace(MOUNT, mount_flags=("noatime",))],
    ids=["block", "xfs", "flags"],
)
def test_what_was_staged_in_another_way_is_refused(bench, wanted):
    volume = bench.volume()
    bench.stage(volume)
    with pytest.raises(CapabilityNotStaged):
        bench.publish(volume, capability=wanted)


def test_other_arguments_for_a_published_target_are_refused(bench):
    volume = bench.volume()
    bench.stage(volume)
    target = bench.publish(volume)
    with pytest.raises(PublishedIncompatible):
        bench.publish(volume, readonly=True)
    found = mounts.find(target)
    assert found is not None
    assert not found.read_only


@USES
def test_a_second_target_needs_an_access_mode_that_allows_it(bench, capability):
    volume = bench.volume()
    bench.stage(volume, capability)
    first = bench.publish(volume, "a", capability)
    with pytest.raises(SecondTarget, match=first):
        bench.publish(volume, "b", capability)
    assert not Path(bench.target("b")).exists()
    mounts.unmount(first)  # as a reboot would: the record alone does not occupy it
    bench.publish(volume, "b", capability)


@pytest.mark.parametrize("capability", [MULTI, MULTI_BLOCK], ids=["mount", "block"])
def test_several_targets_come_and_go_on_their_own(bench, capability):
    volume = bench.volume()
    bench.stage(volume, capability)
    first, second = (bench.publish(volume, name, capability) for name in "ab")
    bench.unpublish(volume, "a")
    assert mounts.find(first) is None
    assert mounts.find(second) is not None
    assert [t.target_path for t in bench.recorded(volume).targets] == [second]


def test_a_read_only_publish_that_a_crash_left_writable_is_made_again(bench):
    volume = bench.volume()
    staging = bench.stage(volume)
    target = bench.publish(volume, readonly=True)
    mounts.unmount(target)
    mounts.bind(staging, target)
    bench.publish(volume, readonly=True)
    found = mounts.find(target)
    assert found is not None
    assert found.read_only


def test_a_target_of_an_earlier_staging_is_replaced(bench):
    volume = bench.volume()
    bench.stage(volume)
    target = bench.publish(volume)
    mounts.unmount(target)
    run(["mount", "-t", "tmpfs", "left", target])
    bench.publish(volume)
    found = mounts.find(target)
    assert found is not None
    assert found.device == bench.recorded(volume).device_number


def test_a_bind_that_fails_leaves_no_target_and_no_record(bench, monkeypatch):
    volume = bench.volume()
    bench.stage(volume)
    failing_program(bench, monkeypatch, "mount", "echo out of mounts >&2")
    with pytest.raises(MountFailed, match="out of mounts"):
        bench.publish(volume)
    assert not Path(bench.target()).exists()
    assert bench.recorded(volume).targets == ()


def test_a_publish_that_cannot_be_undone_says_so_and_stays_recorded(bench, monkeypatch):
    volume = bench.volume()
    bench.stage(volume)
    failing_program(bench, monkeypatch, "mount", f"touch {bench.target()}/left")
    with pytest.raises(PublishRollbackFailed, match="cannot be removed"):
        bench.publish(volume)
    assert [t.target_path for t in bench.recorded(volume).targets] == [bench.target()]


# --- unpublish -------------------------------------------------------------------------------


@USES
def test_an_unpublish_removes_the_target_and_a_repeat_is_fine(bench, capability):
    volume = bench.volume()
    bench.stage(volume, capability)
    target = Path(bench.publish(volume, capability=capability))
    bench.unpublish(volume)
    assert not target.exists()
    assert target.parent.is_dir()
    assert bench.recorded(volume).targets == ()
    bench.unpublish(volume)


def test_an_unpublish_of_what_was_never_there_is_fine(bench):
    bench.service.unpublish("unknown", str(bench.directory / "missing" / "deep"))


@pytest.mark.parametrize("damage", [None, "{"], ids=["missing", "damaged"])
def test_an_unpublish_needs_no_state(bench, damage):
    volume = bench.volume()
    bench.stage(volume)
    target = Path(bench.publish(volume))
    path = bench.directory / "state" / "volumes" / file_name(volume.id)
    path.unlink() if damage is None else path.write_text(damage)
    bench.unpublish(volume)
    assert not target.exists()


def test_every_layer_at_the_target_is_unmounted(bench):
    volume = bench.volume()
    staging = bench.stage(volume)
    target = bench.publish(volume)
    mounts.bind(staging, target)
    bench.unpublish(volume)
    assert not Path(target).exists()
    bench.unstage(volume)
    assert bench.nothing_left(volume)


def test_a_busy_target_is_told_and_kept(bench):
    volume = bench.volume()
    bench.stage(volume)
    target = bench.publish(volume)
    with Path(target, "file").open("w"), pytest.raises(TargetBusy, match=str(os.getpid())):
        bench.unpublish(volume)
    assert mounts.find(target) is not None
    bench.unpublish(volume)


@pytest.mark.parametrize(
    "make",
    [
        fill_directory,
        lambda target: target.write_text("somebody's"),
        lambda target: target.symlink_to("/tmp"),
        os.mkfifo,
    ],
    ids=["directory", "file", "link", "fifo"],
)
def test_what_is_not_ours_to_remove_is_kept(bench, make):
    target = Path(bench.target())
    target.parent.mkdir(parents=True)
    make(target)
    before = target.lstat()
    with pytest.raises(TargetUnusable):
        bench.service.unpublish("vol-1", str(target))
    assert target.lstat() == before
