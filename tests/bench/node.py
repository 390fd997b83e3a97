"""Staging and publishing beside the commands that do the same by hand, and a node's memory."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from csi_driver.base.values import GIB
from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc.client import Client
from tests.bench import calls
from tests.bench.figures import Figure
from tests.bench.processes import serving
from tests.support import leftovers

STAGES = 100
COMPARED = 25

BARE_COMMANDS = "bare losetup, mkfs, mount, umount"


def stages_and_memory() -> Iterator[Figure]:
    """100 new volumes, one after the other: staged, published, and back again."""
    with (
        _workspace() as (directory, (control_dir, node_dir)),
        serving(node_dir, role="node", state=directory / "state") as node,
        serving(control_dir, role="controller", state=directory / "state") as control,
    ):
        yield _memory("memory of a node at rest", node.memory_mib())
        up, down = _Times(), _Times()
        work = _Work(control.client, node.client, directory)
        for number in range(STAGES):
            work.once(up, down)
            if number % (STAGES // COMPARED) == 0:
                _by_hand(directory, up, down)
        yield _memory(f"memory of a node after {STAGES} stages", node.memory_mib())
    for name, times in (("stage and publish", up), ("unpublish and unstage", down)):
        own, beside = statistics.median(times.own), statistics.median(times.bare)
        yield Figure(
            name=f"{name}, a new volume with xfs",
            setting="node",
            value=own,
            unit="ms",
            beside=beside,
            beside_name=BARE_COMMANDS,
        )
        yield Figure(
            name=f"{name}, more than the bare commands",
            setting="node",
            value=own - beside,
            unit="ms",
            bound=30,
        )


@dataclass
class _Times:
    """Milliseconds of the driver's calls and of the bare commands."""

    own: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)


@contextlib.contextmanager
def _workspace() -> Iterator[tuple[Path, tuple[Path, Path]]]:
    """A directory with a place for each of two processes; whatever is mounted below goes."""
    with TemporaryDirectory() as name:
        directory = Path(name)
        places = directory / "c", directory / "n"
        for place in places:
            place.mkdir()
        try:
            yield directory, places
        finally:
            leftovers.release(directory)


class _Work:
    """A volume's way to a Pod and back."""

    def __init__(self, control: Client, node: Client, directory: Path) -> None:
        self._control = control
        self._node = node
        self._node_id = node.node.NodeGetInfo(pb.NodeGetInfoRequest()).node_id
        self._staging = directory / "staging"
        self._target = directory / "target"
        self._staging.mkdir()

    def once(self, up: _Times, down: _Times) -> None:
        """Create, publish, stage, and undo it all; the node's calls are timed."""
        volume = calls.create(self._control)
        context = self._control.controller.ControllerPublishVolume(
            pb.ControllerPublishVolumeRequest(
                volume_id=volume.volume_id,
                node_id=self._node_id,
                volume_capability=calls.MOUNT_XFS,
                volume_context=volume.volume_context,
            )
        ).publish_context
        up.own.append(calls.milliseconds(lambda: self._up(volume, dict(context))))
        down.own.append(calls.milliseconds(lambda: self._down(volume)))
        self._control.controller.ControllerUnpublishVolume(
            pb.ControllerUnpublishVolumeRequest(volume_id=volume.volume_id, node_id=self._node_id)
        )
        calls.delete(self._control, volume.volume_id)

    def _up(self, volume: pb.Volume, context: dict[str, str]) -> None:
        self._node.node.NodeStageVolume(
            pb.NodeStageVolumeRequest(
                volume_id=volume.volume_id,
                publish_context=context,
                staging_target_path=str(self._staging),
                volume_capability=calls.MOUNT_XFS,
                volume_context=volume.volume_context,
            )
        )
        self._node.node.NodePublishVolume(
            pb.NodePublishVolumeRequest(
                volume_id=volume.volume_id,
                publish_context=context,
                staging_target_path=str(self._staging),
                target_path=str(self._target),
                volume_capability=calls.MOUNT_XFS,
                volume_context=volume.volume_context,
            )
        )

    def _down(self, volume: pb.Volume) -> None:
        self._node.node.NodeUnpublishVolume(
            pb.NodeUnpublishVolumeRequest(volume_id=volume.volume_id, target_path=str(self._target))
        )
        self._node.node.NodeUnstageVolume(
            pb.NodeUnstageVolumeRequest(
                volume_id=volume.volume_id, staging_target_path=str(self._staging)
            )
        )


def _by_hand(directory: Path, up: _Times, down: _Times) -> None:
    """The same work by the commands that an administrator would type."""
    file, staging, target = (directory / name for name in ("by-hand", "by-hand-s", "by-hand-t"))
    staging.mkdir(exist_ok=True)
    target.mkdir(exist_ok=True)
    with file.open("wb") as made:
        made.truncate(GIB)
    device = ""

    def bring_up() -> None:
        nonlocal device
        device = _run("losetup", "--find", "--show", "--direct-io=on", file).strip()
        _run("mkfs.xfs", "-q", "-K", device)
        _run("mount", "-t", "xfs", device, staging)
        _run("mount", "--bind", staging, target)

    def bring_down() -> None:
        _run("umount", target)
        _run("umount", staging)
        _run("losetup", "--detach", device)

    up.bare.append(calls.milliseconds(bring_up))
    down.bare.append(calls.milliseconds(bring_down))
    file.unlink()


def _run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _memory(name: str, value: float) -> Figure:
    return Figure(name=name, setting="node", value=value, unit="MiB", bound=90)
