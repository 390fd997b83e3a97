"""NodeUnstageVolume: leaves nothing, needs nothing, and may be repeated."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from csi_driver.attach import loop
from csi_driver.attach.errors import LoopDeviceBusy
from csi_driver.attach.processes import run
from csi_driver.base.errors import SealError
from csi_driver.base.sealing import KeyRing
from csi_driver.node import mounts
from csi_driver.node.errors import StillPublished, TargetBusy
from csi_driver.node.state import Step, file_name
from tests.support.ledger import FailingLedger
from tests.support.node_bench import BLOCK, MOUNT, XFS, XFS_BYTES, named_after_reboot

pytestmark = pytest.mark.root

USES = pytest.mark.parametrize("capability", [MOUNT, BLOCK], ids=["mount", "block"])


@USES
def test_it_leaves_nothing_and_a_repeat_is_fine(bench, capability):
    volume = bench.volume()
    bench.stage(volume, capability)
    bench.unstage(volume)
    assert bench.nothing_left(volume)
    bench.unstage(volume)


def test_a_volume_that_was_never_here_is_fine(bench):
    bench.service.unstage("unknown", str(bench.directory / "missing"))


@USES
def test_it_needs_no_ledger_and_works_in_a_new_process(bench, capability):
    volume = bench.volume()
    bench.stage(volume, capability)
    bench.ledger = FailingLedger()
    bench.restart()
    bench.unstage(volume)
    assert bench.nothing_left(volume)


def test_what_was_written_is_in_the_backend_afterwards(bench):
    volume = bench.volume()
    Path(bench.stage(volume), "file").write_text("content that was not synced")
    bench.unstage(volume)
    assert b"content that was not synced" in volume.file.read_bytes()


@USES
def test_a_volume_whose_file_is_deleted_is_detached(bench, capability):
    volume = bench.volume()
    bench.stage(volume, capability)
    volume.file.unlink()
    bench.unstage(volume)
    assert bench.nothing_left(volume)


def test_a_dead_filesystem_is_unstaged(bench):
    volume = bench.volume(XFS_BYTES)
    staging = bench.stage(volume, XFS)
    run(["xfs_io", "-x", "-c", "shutdown", staging])
    bench.unstage(volume)
    assert bench.nothing_left(volume)


def test_a_device_that_fails_to_flush_cannot_stop_it(bench):
    volume = bench.volume()
    bench.stage(volume)
    os.truncate(volume.file, 0)
    bench.unstage(volume)
    assert bench.nothing_left(volume)


def test_without_a_state_file_the_mount_and_its_loop_device_go(bench):
    volume = bench.volume()
    bench.stage(volume)
    bench.state.remove(volume.id)
    bench.unstage(volume)
    assert bench.nothing_left(volume)


def test_with_a_damaged_state_file_the_mount_goes_and_the_file_is_kept_for_people(bench):
    volume = bench.volume()
    bench.stage(volume)
    path = bench.directory / "state" / "volumes" / file_name(volume.id)
    path.write_text("{")
    bench.unstage(volume)
    assert bench.nothing_left(volume)
    assert path.with_suffix(".damaged").read_text() == "{"
    bench.unstage(volume)


def test_without_the_key_a_file_volume_is_detached_all_the_same(bench):
    volume = bench.volume()
    bench.stage(volume)
    bench.keys = KeyRing.generate()
    bench.unstage(volume)
    assert bench.nothing_left(volume)


def test_without_the_key_a_device_that_needs_it_stays_recorded(bench):
    volume = bench.volume()
    data = {"device_path": loop.attach(volume.file), "access_mode": "rw"}
    bench.stage(volume, connection={"driver_volume_type": "local", "data": data})
    bench.keys = KeyRing.generate()
    with pytest.raises(SealError):
        bench.unstage(volume)
    assert bench.recorded(volume).step is Step.UNSTAGING


def test_after_a_reboot_only_the_record_goes(bench):
    volume, other = bench.volume(), bench.volume(name="other")
    bench.stage(volume)
    staged = bench.recorded(volume)
    bench.unstage(volume)
    bench.stage(other)
    bench.state.write(named_after_reboot(staged, bench.recorded(other)))
    bench.unstage(volume)
    assert bench.nothing_left(volume)
    assert mounts.find(bench.staging(other)) is not None


@pytest.mark.parametrize("step", list(Step))
def test_what_a_crash_left_at_any_step_is_undone(bench, step):
    volume = bench.volume()
    bench.stage(volume)
    bench.state.write(msgspec.structs.replace(bench.recorded(volume), step=step))
    bench.restart()
    bench.unstage(volume)
    assert bench.nothing_left(volume)


@USES
def test_a_published_volume_stays_whole(bench, capability):
    volume = bench.volume()
    bench.stage(volume, capability)
    target = bench.publish(volume, capability=capability)
    with pytest.raises(StillPublished, match=target):
        bench.unstage(volume)
    assert mounts.find(target) is not None
    assert bench.recorded(volume).step is Step.STAGED
    bench.unpublish(volume)
    bench.unstage(volume)
    assert bench.nothing_left(volume)


def test_a_target_that_is_not_mounted_any_more_does_not_stop_it(bench):
    volume = bench.volume()
    bench.stage(volume)
    mounts.unmount(bench.publish(volume))
    bench.unstage(volume)
    assert bench.nothing_left(volume)


def test_a_volume_staged_at_another_path_is_unstaged_there(bench):
    volume = bench.volume()
    bench.stage(volume)
    bench.service.unstage(volume.id, str(bench.directory / "elsewhere"))
    assert bench.nothing_left(volume)


def test_a_busy_staging_path_is_told_and_the_retry_finishes(bench):
    volume = bench.volume()
    staging = bench.stage(volume)
    with Path(staging, "file").open("w"), pytest.raises(TargetBusy, match=str(os.getpid())):
        bench.unstage(volume)
    assert bench.recorded(volume).step is Step.UNSTAGING
    bench.unstage(volume)
    assert bench.nothing_left(volume)


def test_a_device_that_somebody_holds_is_told_and_the_retry_finishes(bench):
    volume = bench.volume()
    bench.stage(volume, BLOCK)
    descriptor = os.open(bench.recorded(volume).device, os.O_RDONLY)
    try:
        with pytest.raises(LoopDeviceBusy):
            bench.unstage(volume)
    finally:
        os.close(descriptor)
    bench.unstage(volume)
    assert bench.nothing_left(volume)
