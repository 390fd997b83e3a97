"""What is done for each operation of the node's table, and how its outcome is seen."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

from csi_driver.node.operations import FaultPoint
from tests.crash import requests
from tests.crash.bed import DATA, Bed
from tests.crash.requests import Call
from tests.support.disks import command

GROWN_BYTES = 3 << 29
"""More than the filesystem of a volume of 1 GiB can have."""


@dataclass
class Subject:
    """One volume on the node, and the call that is to be broken.

    :param instead: the call that a kubelet makes when it does not repeat this one.
    :param content: what is on the volume when all is well.
    """

    bed: Bed
    volume_id: str
    call: Call
    instead: Call
    fs_type: str = "ext4"
    content: str = DATA
    provoke: Callable[[], grpc.Future] | None = field(default=None)

    def begin(self) -> grpc.Future:
        """Make the call, in such a way that it comes to its point."""
        return self.provoke() if self.provoke else self.bed.begin(self.call)

    @property
    def staging(self) -> str:
        return str(self.bed.staging(self.volume_id))

    @property
    def target(self) -> str:
        return str(self.bed.target(self.volume_id))

    def mounts(self) -> tuple[int, int]:
        """How many mounts there are at the staging and at the target path."""
        mounts = self.bed.inventory().mounts
        return mounts.count(self.staging), mounts.count(self.target)

    def end(self) -> None:
        """End the volume's life on the node and compare: nothing is left, nothing was lost."""
        for last in (
            requests.node_unpublish(self.volume_id, self.bed.target(self.volume_id)),
            requests.node_unstage(self.volume_id, self.bed.staging(self.volume_id)),
            requests.unpublish(self.volume_id),
        ):
            self.bed.until_ok(last)
        assert self.bed.read(self.volume_id, self.fs_type) == self.content
        self.bed.clear()


def _stage(bed: Bed, point: FaultPoint, *, retried: bool) -> Subject:
    # A volume with data shows what is lost, a new one comes by every step.
    new = retried or point.step.name in ("formatting", "confirmed")
    volume_id = bed.new_volume() if new else bed.copy_of_golden()
    if point.step.undoing:
        bed.faults.arm("node/stage/staged/write", "fail")
    call = bed.stage_call(volume_id)
    instead = requests.node_unstage(volume_id, bed.staging(volume_id))
    return Subject(bed, volume_id, call, instead, content="" if new else DATA)


def _unstage(bed: Bed, point: FaultPoint, *, retried: bool) -> Subject:
    volume_id = bed.copy_of_golden()
    instead = bed.stage_call(volume_id)
    bed.until_ok(instead)
    if point.step.name == "set-aside":
        (state_file,) = (bed.state / "node" / "volumes").glob("*.json")
        state_file.write_text("{")
    call = requests.node_unstage(volume_id, bed.staging(volume_id))
    return Subject(bed, volume_id, call, instead)


def _publish(bed: Bed, point: FaultPoint, *, retried: bool) -> Subject:
    volume_id = bed.copy_of_golden()
    staging, target = bed.stage(volume_id), bed.target(volume_id)
    left_writable = point.step.name == "unmounting"
    call = requests.node_publish(volume_id, staging, target, readonly=left_writable)
    if left_writable:
        # As a crash within mount(8) leaves a read-only bind.
        bed.until_ok(call)
        command("mount", "-o", "remount,bind,rw", str(target))
    subject = Subject(bed, volume_id, call, requests.node_unpublish(volume_id, target))
    if point.step.name == "undone":
        subject.provoke = lambda: _publish_that_cannot_bind(subject)
    return subject


def _publish_that_cannot_bind(subject: Subject) -> grpc.Future:
    """Put a file where the directory was made, right before it is mounted upon."""
    faults, target = subject.bed.faults, subject.bed.target(subject.volume_id)
    faults.arm("node/publish/binding/recorded", "pause")
    call = subject.bed.begin(subject.call)
    faults.wait_until_paused(call)
    target.rmdir()
    target.touch()
    faults.resume()
    return call


def _unpublish(bed: Bed, point: FaultPoint, *, retried: bool) -> Subject:
    volume_id = bed.copy_of_golden()
    staging, target = bed.stage(volume_id), bed.target(volume_id)
    instead = requests.node_publish(volume_id, staging, target)
    bed.until_ok(instead)
    return Subject(bed, volume_id, requests.node_unpublish(volume_id, target), instead)


def _expand(bed: Bed, point: FaultPoint, *, retried: bool) -> Subject:
    # xfs: the kernel lets it grow while it is mounted without further privileges.
    volume_id = bed.new_volume("xfs")
    staging = bed.stage(volume_id, "xfs")
    (staging / "data").write_text(DATA)
    bed.until_ok(requests.expand(volume_id, 2))
    call = requests.node_expand(volume_id, staging, 2)
    instead = requests.node_unstage(volume_id, staging)
    return Subject(bed, volume_id, call, instead, fs_type="xfs")


PREPARE: dict[str, Callable[..., Subject]] = {
    "stage": _stage,
    "unstage": _unstage,
    "publish": _publish,
    "unpublish": _unpublish,
    "expand": _expand,
}
"""Operation -> what makes its subject."""


def see_done(subject: Subject, call: Call) -> None:
    """Compare what is on the node after a call of the subject was answered OK."""
    now = subject.bed.inventory()
    mounts = {
        "NodeStageVolume": (1, 0),
        "NodeUnstageVolume": (0, 0),
        "NodePublishVolume": (1, 1),
        "NodeUnpublishVolume": (1, 0),
        "NodeExpandVolume": (1, 0),
    }[call.method]
    assert subject.mounts() == mounts
    assert len(now.mounts) == sum(mounts)
    assert len(now.loop_devices) == len(now.node_states) == mounts[0]
    target = subject.bed.target(subject.volume_id)
    assert target.exists() == bool(mounts[1])
    if mounts[1]:
        assert (target / "data").read_text() == subject.content
    if call.method == "NodeExpandVolume":
        size = os.statvfs(subject.staging)
        assert size.f_blocks * size.f_frsize > GROWN_BYTES
