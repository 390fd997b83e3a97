"""The node service as a whole: calls at once, expand, stats, registration, drain."""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from csi_driver.attach.processes import run
from csi_driver.base.errors import OperationInProgress, ShuttingDown
from csi_driver.base.values import Confirmation
from csi_driver.node.errors import (
    DeadMount,
    DeviceNotGrown,
    InvalidCapacityRange,
    VolumePathNotFound,
)
from csi_driver.node.filesystem_errors import GrowNotPermitted
from csi_driver.node.requests import Usage
from tests.support.ledger import MemoryLedger
from tests.support.node_bench import (
    BLOCK,
    EXT4_BYTES,
    MIB,
    MOUNT,
    NODE,
    READER,
    XFS,
    XFS_BYTES,
    Bench,
)

root = pytest.mark.root


class SlowLedger(MemoryLedger):
    """Holds every confirmation until it is let go; counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.go = threading.Event(), threading.Event()
        self.confirmed = 0

    def confirm(self, confirmation: Confirmation) -> None:
        self.reached.set()
        self.go.wait()
        self.confirmed += 1
        super().confirm(confirmation)


@pytest.fixture
def slow(bench: Bench) -> SlowLedger:
    bench.ledger = ledger = SlowLedger()
    bench.restart()
    return ledger


def held(slow: SlowLedger, call: Future[object]) -> Future[object]:
    """The call once it is held at its confirmation, or has failed before."""
    call.add_done_callback(lambda _: slow.reached.set())
    slow.reached.wait()
    return call


# --- calls at once ---------------------------------------------------------------------------


@root
def test_another_call_on_a_busy_volume_is_told_what_runs_and_where(bench, slow):
    volume = bench.volume()
    with ThreadPoolExecutor() as callers:
        first = held(slow, callers.submit(bench.stage, volume))
        with pytest.raises(OperationInProgress, match=r"NodeStageVolume .* 'confirming'"):
            bench.unstage(volume)
        assert "NodeStageVolume" in bench.service.running()[0]
        slow.go.set()
        first.result()
    bench.unstage(volume)
    assert bench.service.running() == []


@root
def test_equal_calls_at_once_are_done_once(bench, slow):
    volume = bench.volume()
    request = bench.stage_request(volume)
    with ThreadPoolExecutor() as callers:
        first = held(slow, callers.submit(bench.service.stage, request))
        others = [callers.submit(bench.service.stage, request) for _ in range(3)]
        slow.go.set()
        for call in (first, *others):
            call.result()
    assert slow.confirmed == 1


@root
def test_other_volumes_do_not_wait_for_a_busy_one(bench, slow):
    volume, other = bench.volume(), bench.volume(name="other")
    with ThreadPoolExecutor() as callers:
        first = held(slow, callers.submit(bench.stage, volume))
        bench.unstage(other)
        slow.go.set()
        first.result()


@root
def test_a_drain_waits_for_what_runs_and_starts_nothing_more(bench, slow):
    volume = bench.volume()
    with ThreadPoolExecutor() as callers:
        first = held(slow, callers.submit(bench.stage, volume))
        assert bench.service.drain(timeout=0) is False
        with pytest.raises(ShuttingDown):
            bench.publish(bench.volume(name="other"))
        slow.go.set()
        first.result()
        assert bench.service.drain() is True


@root
def test_many_volumes_are_staged_and_unstaged_at_once(bench):
    volumes = [bench.volume(name=f"vol-{n}") for n in range(16)]
    with ThreadPoolExecutor(16) as callers:
        staged = list(callers.map(bench.stage, volumes))
        assert all(os.path.ismount(path) for path in staged)
        list(callers.map(bench.unstage, volumes))
    assert all(bench.nothing_left(volume) for volume in volumes)


# --- expand ----------------------------------------------------------------------------------


@root
def test_a_mounted_xfs_grows_to_its_device(bench):
    volume = bench.volume(XFS_BYTES)
    staging = bench.stage(volume, XFS)
    target = bench.publish(volume, capability=XFS)
    os.truncate(volume.file, 2 * XFS_BYTES)
    assert bench.expand(volume, target, required=2 * XFS_BYTES) == 2 * XFS_BYTES
    status = os.statvfs(staging)
    assert status.f_blocks * status.f_frsize > 1.5 * XFS_BYTES


@root
def test_an_ext4_that_may_not_grow_while_mounted_grows_when_it_is_staged_again(bench):
    volume = bench.volume()
    staging = bench.stage(volume)
    os.truncate(volume.file, 2 * EXT4_BYTES)
    # The kernel wants CAP_SYS_RESOURCE, which not every machine gives to a test.
    with contextlib.suppress(GrowNotPermitted):
        bench.expand(volume, staging, required=2 * EXT4_BYTES)
    bench.unstage(volume)
    bench.stage(volume)
    status = os.statvfs(staging)
    assert status.f_blocks * status.f_frsize > 1.5 * EXT4_BYTES


@root
def test_an_expand_that_was_done_is_fine(bench):
    volume = bench.volume()
    staging = bench.stage(volume)
    assert bench.expand(volume, staging, required=MIB) == EXT4_BYTES
    assert bench.expand(volume, staging) == EXT4_BYTES


@root
def test_a_block_volume_shows_its_new_size_at_once(bench):
    volume = bench.volume()
    bench.stage(volume, BLOCK)
    target = bench.publish(volume, capability=BLOCK)
    os.truncate(volume.file, 2 * EXT4_BYTES)
    assert bench.expand(volume, target, required=2 * EXT4_BYTES) == 2 * EXT4_BYTES
    with Path(target).open("rb") as device:
        assert device.seek(0, os.SEEK_END) == 2 * EXT4_BYTES


@root
def test_a_device_that_has_not_grown_yet_is_told(bench):
    volume = bench.volume()
    staging = bench.stage(volume)
    with pytest.raises(DeviceNotGrown, match=str(EXT4_BYTES)):
        bench.expand(volume, staging, required=2 * EXT4_BYTES)


@root
def test_a_read_only_filesystem_cannot_grow(bench):
    volume = bench.volume(XFS_BYTES)
    bench.stage(volume, XFS)
    bench.unstage(volume)
    staging = bench.stage(volume, msgspec.structs.replace(READER, fs_type="xfs"))
    os.truncate(volume.file, 2 * XFS_BYTES)
    with pytest.raises(GrowNotPermitted, match="read-only"):
        bench.expand(volume, staging, required=2 * XFS_BYTES)


@root
def test_a_limit_below_the_requirement_is_refused(bench):
    with pytest.raises(InvalidCapacityRange):
        bench.expand(bench.volume(), "/somewhere", required=2, limit=1)


@root
def test_an_expand_where_the_volume_is_not_is_refused(bench):
    volume = bench.volume()
    with pytest.raises(VolumePathNotFound):
        bench.expand(volume, "/somewhere")
    bench.stage(volume)
    with pytest.raises(VolumePathNotFound):
        bench.expand(volume, bench.target())


# --- stats -----------------------------------------------------------------------------------


@root
@pytest.mark.parametrize("where", ["staging", "target"])
def test_stats_of_a_filesystem_are_bytes_and_inodes(bench, where):
    volume = bench.volume()
    staging = bench.stage(volume)
    target = bench.publish(volume)
    Path(staging, "file").write_bytes(os.urandom(4 * MIB))
    os.sync()
    sizes, inodes = bench.service.stats(volume.id, target if where == "target" else staging)
    assert (sizes.unit, inodes.unit) == ("BYTES", "INODES")
    assert 4 * MIB <= sizes.used < sizes.used + sizes.available <= sizes.total <= EXT4_BYTES
    assert 0 < inodes.used < inodes.total


@root
@pytest.mark.parametrize("where", ["staging", "target"])
def test_stats_of_a_block_volume_are_its_size(bench, where):
    volume = bench.volume()
    staging = bench.stage(volume, BLOCK)
    target = bench.publish(volume, capability=BLOCK)
    usage = bench.service.stats(volume.id, target if where == "target" else staging)
    assert usage == (Usage(unit="BYTES", total=EXT4_BYTES),)


@root
@pytest.mark.parametrize("capability", [MOUNT, BLOCK], ids=["mount", "block"])
def test_stats_where_the_volume_is_not_are_refused(bench, capability):
    volume, other = bench.volume(), bench.volume(name="other")
    with pytest.raises(VolumePathNotFound):
        bench.service.stats(volume.id, bench.staging(volume))
    bench.stage(volume, capability)
    bench.stage(other, capability)
    theirs = bench.publish(other, capability=capability)
    for path in ("/missing", str(bench.directory), theirs):
        with pytest.raises(VolumePathNotFound):
            bench.service.stats(volume.id, path)


@root
def test_stats_of_a_dead_filesystem_say_so(bench):
    volume = bench.volume(XFS_BYTES)
    staging = bench.stage(volume, XFS)
    run(["xfs_io", "-x", "-c", "shutdown", staging])
    with pytest.raises(DeadMount):
        bench.service.stats(volume.id, staging)


# --- the node itself -------------------------------------------------------------------------


def test_info_tells_what_it_was_set_up_with(bench):
    info = bench.service.info()
    assert (info.node_id, info.max_volumes) == (NODE, 32)
    assert info.topology == {"example.org/node": NODE}


@pytest.mark.root
def test_a_node_tells_how_it_is_reached(bench):
    registration = bench.service.registration()
    assert registration.connector["host"]
    assert (registration.node_id, registration.max_volumes) == (NODE, 32)
    assert registration.topology == {"example.org/node": NODE}


def test_a_request_shows_neither_flags_nor_secrets_in_a_log(bench):
    flagged = msgspec.structs.replace(MOUNT, mount_flags=("password=hunter2",))
    request = msgspec.structs.replace(
        bench.stage_request(bench.volume(), flagged), secrets={"passphrase": "hunter2"}
    )
    assert "hunter2" not in repr(request)
