"""Calls in the orders in which a kubelet makes them: after restarts, reboots, and lost devices."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from csi_driver.attach import loop
from csi_driver.base.errors import CinderCSIError, OperationInProgress
from csi_driver.base.values import VolumeCapability
from csi_driver.node import mounts
from csi_driver.node.errors import StagedIncompatible, VolumeNotStaged
from tests.support.node_bench import BLOCK, MOUNT, Bench, TestVolume

pytestmark = pytest.mark.root

USES = pytest.mark.parametrize("capability", [MOUNT, BLOCK], ids=["mount", "block"])


def reboot(bench: Bench, volume: TestVolume, target: str) -> None:
    """Take away what a reboot takes: mounts and devices; files and directories stay."""
    mounts.unmount(target)
    mounts.unmount(bench.staging(volume))
    for device in loop.devices_of(volume.file):
        loop.detach(device)
    earlier = msgspec.structs.replace(bench.recorded(volume), boot_id="of an earlier boot")
    bench.state.write(earlier)
    bench.restart()


@USES
def test_every_call_can_be_repeated_by_a_new_process(bench: Bench, capability: VolumeCapability):
    volume = bench.volume()
    for call in (
        lambda: bench.stage(volume, capability),
        lambda: bench.publish(volume, capability=capability),
        lambda: bench.unpublish(volume),
        lambda: bench.unstage(volume),
    ):
        call()
        bench.restart()
        call()
    assert bench.nothing_left(volume)
    assert not Path(bench.target()).exists()


def test_an_unstage_without_a_stage_leaves_the_staging_path_alone(bench: Bench):
    volume = bench.volume()
    staging = Path(bench.staging(volume))
    bench.unstage(volume)
    assert list(staging.iterdir()) == []
    bench.stage(volume)
    assert os.path.ismount(staging)


@USES
def test_after_a_reboot_the_empty_target_that_is_left_is_used_again(
    bench: Bench, capability: VolumeCapability
):
    volume = bench.volume()
    bench.stage(volume, capability)
    target = bench.publish(volume, capability=capability)
    reboot(bench, volume, target)
    assert Path(target).exists()
    with pytest.raises(VolumeNotStaged):
        bench.publish(volume, capability=capability)
    bench.stage(volume, capability)
    assert bench.publish(volume, capability=capability) == target
    assert mounts.find(target) is not None
    bench.unpublish(volume)
    bench.unstage(volume)
    assert bench.nothing_left(volume)


def test_after_a_reboot_an_unpublish_and_an_unstage_without_their_opposites_are_fine(
    bench: Bench,
):
    volume = bench.volume()
    bench.stage(volume)
    target = bench.publish(volume)
    reboot(bench, volume, target)
    bench.unpublish(volume)
    bench.unstage(volume)
    assert bench.nothing_left(volume)
    assert not Path(target).exists()


@USES
def test_a_device_that_went_away_under_a_published_volume_is_cleaned_up(
    bench: Bench, capability: VolumeCapability
):
    """The kernel keeps the device, but nothing behind it answers any more."""
    volume = bench.volume()
    bench.stage(volume, capability)
    bench.publish(volume, capability=capability)
    os.truncate(volume.file, 0)
    volume.file.unlink()
    with pytest.raises(CinderCSIError):
        bench.expand(volume, bench.target(), volume.size_bytes)
    bench.unpublish(volume)
    bench.unstage(volume)
    assert bench.nothing_left(volume)
    with pytest.raises(CinderCSIError):
        bench.stage(volume, capability)
    assert bench.nothing_left(volume)


def test_of_two_different_stages_at_once_one_is_refused(bench: Bench):
    volume = bench.volume()
    one = bench.stage_request(volume)
    other = msgspec.structs.replace(one, staging_path=str(bench.directory / "elsewhere"))
    with ThreadPoolExecutor(2) as kubelets:
        calls = [kubelets.submit(bench.service.stage, request) for request in (one, other)]
    errors = [error for call in calls if (error := call.exception()) is not None]
    assert len(errors) == 1
    assert isinstance(errors[0], OperationInProgress | StagedIncompatible)
    assert len(loop.devices_of(volume.file)) == 1
