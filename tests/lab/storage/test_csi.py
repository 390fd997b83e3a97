"""`cinder-csi serve` with the LVM backend: the calls of Kubernetes, over iSCSI with CHAP."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from csi_driver.base.values import GIB
from csi_driver.cli.demo_life import Life
from csi_driver.rpc._generated import csi_pb2 as pb
from tests.lab.storage import machine
from tests.support.calls import Calls
from tests.support.driver_process import DriverProcess

CONFIGURATION = """
backends:
  - name: lvm
    volume_driver: cinder.volume.drivers.lvm.LVMVolumeDriver
    options:
      volume_group: cinder-volumes
      target_helper: lioadm
      target_protocol: iscsi
      target_ip_address: 127.0.0.1
"""

WAIT = 120.0

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(scope="module")
def csi(host: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calls]:
    directory = tmp_path_factory.mktemp("csi")
    (directory / "csi.yaml").write_text(CONFIGURATION)
    process = DriverProcess(directory, arguments=["--config", str(directory / "csi.yaml")])
    with process, Calls(process) as calls:
        yield calls
        print(process.logs())


def capability(kind: str) -> Any:
    """Of a file system of this kind, or of a raw block device."""
    mode = pb.VolumeCapability.AccessMode(mode=pb.VolumeCapability.AccessMode.SINGLE_NODE_WRITER)
    if kind == "block":
        return pb.VolumeCapability(block=pb.VolumeCapability.BlockVolume(), access_mode=mode)
    mount = pb.VolumeCapability.MountVolume(fs_type=kind)
    return pb.VolumeCapability(mount=mount, access_mode=mode)


def test_the_life_of_the_demo(csi: Calls, tmp_path: Path) -> None:
    """Snapshot, restore into a larger volume, clone mounted beside its source, expand mounted."""
    life = Life(csi, tmp_path)
    life.create()
    life.controller_publish()
    life.stage()
    life.publish()
    life.write()
    life.snapshot()
    life.restore()
    life.compare_restored()
    life.clone()
    life.compare_clone()
    life.expand()
    life.stats()
    passwords = machine.chap_passwords()
    life.unpublish()
    life.unstage()
    assert (machine.sessions(), machine.disks()) == ([], [])
    life.controller_unpublish()
    life.delete()
    assert len(passwords) == 3
    assert [line for password in passwords for line in machine.arguments_with(password)] == []


@pytest.mark.parametrize("kind", ["ext4", "block"])
def test_a_volume_expands_while_it_is_used(csi: Calls, tmp_path: Path, kind: str) -> None:
    node_id = csi.node.NodeGetInfo(pb.NodeGetInfoRequest(), timeout=WAIT).node_id
    wanted, staging, target = capability(kind), tmp_path / "staging", tmp_path / "target"
    if kind != "block":
        staging.mkdir()
    request = csi.create_request(kind)
    del request.volume_capabilities[:]
    request.volume_capabilities.append(wanted)
    volume_id = csi.controller.CreateVolume(request, timeout=WAIT).volume.volume_id
    published = csi.controller.ControllerPublishVolume(
        pb.ControllerPublishVolumeRequest(
            volume_id=volume_id, node_id=node_id, volume_capability=wanted
        ),
        timeout=WAIT,
    )
    context = dict(published.publish_context)
    csi.node.NodeStageVolume(
        pb.NodeStageVolumeRequest(
            volume_id=volume_id,
            publish_context=context,
            staging_target_path=str(staging),
            volume_capability=wanted,
        ),
        timeout=WAIT,
    )
    csi.node.NodePublishVolume(
        pb.NodePublishVolumeRequest(
            volume_id=volume_id,
            publish_context=context,
            staging_target_path=str(staging),
            target_path=str(target),
            volume_capability=wanted,
        ),
        timeout=WAIT,
    )
    file = target if kind == "block" else target / "data"
    data = os.urandom(1 << 20)
    with file.open("r+b" if kind == "block" else "wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())

    new_size = pb.CapacityRange(required_bytes=2 * GIB)
    csi.controller.ControllerExpandVolume(
        pb.ControllerExpandVolumeRequest(volume_id=volume_id, capacity_range=new_size),
        timeout=WAIT,
    )
    csi.node.NodeExpandVolume(
        pb.NodeExpandVolumeRequest(
            volume_id=volume_id,
            volume_path=str(target),
            staging_target_path=str(staging),
            capacity_range=new_size,
            volume_capability=wanted,
        ),
        timeout=WAIT,
    )
    assert capacity(kind, target) > 1.8 * GIB
    assert file.open("rb").read(1 << 20) == data

    csi.node.NodeUnpublishVolume(
        pb.NodeUnpublishVolumeRequest(volume_id=volume_id, target_path=str(target)), timeout=WAIT
    )
    csi.unstage(volume_id, str(staging))
    assert (machine.sessions(), machine.disks()) == ([], [])
    csi.unpublish(volume_id, node_id)
    csi.delete(volume_id)


def capacity(kind: str, target: Path) -> int:
    if kind != "block":
        status = os.statvfs(target)
        return status.f_blocks * status.f_frsize
    with target.open("rb") as device:
        return device.seek(0, os.SEEK_END)
