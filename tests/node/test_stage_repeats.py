"""NodeStageVolume again: repeats, other calls, and what a crash or a reboot left."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from csi_driver.attach import loop
from csi_driver.attach.processes import run
from csi_driver.base.values import Confirmation
from csi_driver.node import mounts
from csi_driver.node.errors import (
    DeadMount,
    InvalidMountFlags,
    NodeStateDamaged,
    StagedIncompatible,
    StageRollbackFailed,
    StaleMount,
    TargetUnusable,
)
from csi_driver.node.state import Step, file_name
from tests.support.ledger import FailingLedger
from tests.support.node_bench import (
    BLOCK,
    EXT4_BYTES,
    MOUNT,
    READER,
    XFS,
    XFS_BYTES,
    named_after_reboot,
    with_flags,
)

pytestmark = pytest.mark.root


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


def test_remains_are_undone_even_when_the_new_call_is_refused(bench):
    volume = bench.volume()
    bench.stage(volume)
    bench.state.write(msgspec.structs.replace(bench.recorded(volume), step=Step.CONFIRMING))
    with pytest.raises(InvalidMountFlags):
        bench.stage(volume, with_flags("remount"))
    assert bench.nothing_left(volume)


def test_remains_below_a_foreign_mount_are_kept_and_the_mount_is_named(bench):
    volume = bench.volume()
    staging = bench.stage(volume)
    bench.state.write(msgspec.structs.replace(bench.recorded(volume), step=Step.CONFIRMING))
    run(["mount", "-t", "tmpfs", "foreign", staging])
    with pytest.raises(StageRollbackFailed, match="foreign"):
        bench.stage(volume)
    found = mounts.find(staging)
    assert found is not None
    assert found.source == "foreign"


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
