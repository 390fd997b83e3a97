"""Two paths to one volume: the documents' multipath example, with a target on two portals."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from csi_driver.base.values import GIB
from tests.lab.storage import machine
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from csi_driver.cinderlib.backend import Backend

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(scope="module")
def multipath(lvm: Backend) -> Iterator[Backend]:
    """A backend that asks for several paths, and the daemon that joins them."""
    import csi_driver.cinderlib as cinderlib

    Path("/etc/multipath.conf").write_text("defaults { find_multipaths no }\n")
    machine.run("modprobe", "-a", "dm_multipath", "dm_round_robin", "dm_service_time")
    machine.run("multipathd")
    wait_until("multipathd answers", lambda: "pid" in machine.run("multipathd", "show", "daemon"))
    options = {"use-multipath_for_image_xfer": True}  # spelt as in the document
    yield cinderlib.Backend(
        volume_driver="cinder.volume.drivers.lvm.LVMVolumeDriver",
        volume_group="cinder-volumes",
        iscsi_protocol="iscsi",
        iscsi_helper="lioadm",
        volume_backend_name="lvm_multipath",
        target_ip_address="127.0.0.1",
        iscsi_secondary_ip_addresses=["127.0.0.2"],
        **options,
    )
    machine.run("multipathd", "shutdown")


def test_one_device_of_two_paths_survives_the_loss_of_one(multipath: Backend) -> None:
    volume = multipath.create_volume(size=1)
    path = volume.attach().path
    assert path is not None
    assert len(machine.sessions()) == 2
    name = Path(path).resolve().name
    disks = [disk.name for disk in Path("/sys/block", name, "slaves").iterdir()]
    assert len(disks) == 2

    before, after = os.urandom(1 << 20), os.urandom(1 << 20)
    write(path, before)
    Path("/sys/block", disks[0], "device/state").write_text("offline\n")
    write(path, after)
    Path("/sys/block", disks[0], "device/state").write_text("running\n")

    assert volume.extend(2) == 2 * GIB
    volume.detach()
    assert (machine.sessions(), machine.disks()) == ([], [])

    path = volume.attach().path
    assert path is not None
    with open(path, "rb") as device:  # noqa: PTH123
        assert device.read(len(after)) == after
    volume.detach()
    volume.delete()


def write(path: str, data: bytes) -> None:
    with open(path, "r+b") as device:  # noqa: PTH123
        device.write(data)
        device.flush()
        os.fsync(device.fileno())
