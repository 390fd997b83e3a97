"""The documents' LVM backend, thin, exported by LIO with CHAP: the library on real storage."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from csi_driver.base.values import GIB
from tests.lab.storage import machine

if TYPE_CHECKING:
    from csi_driver.cinderlib.backend import Backend
    from csi_driver.cinderlib.volume import Volume

MIB = 1 << 20

pytestmark = pytest.mark.usefixtures("nothing_left")


def write(path: str | None, offset: int, data: bytes) -> None:
    """Write to a device, and to what is behind it."""
    assert path is not None
    descriptor = os.open(path, os.O_WRONLY)
    try:
        assert os.pwrite(descriptor, data, offset) == len(data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def content(volume: Volume, offset: int, length: int) -> bytes:
    """What a volume holds, read through an attachment of its own."""
    path = volume.attach().path
    assert path is not None
    try:
        with Path(path).open("rb") as file:
            file.seek(offset)
            return file.read(length)
    finally:
        volume.detach()


def size_of(device: str) -> int:
    return int(Path("/sys/class/block", Path(device).name, "size").read_text()) * 512


def test_the_documents_attach_example(lvm: Backend) -> None:
    vol = lvm.create_volume(size=1)
    attach = vol.attach()
    with open(attach.path, "w") as f:  # noqa: PTH123 - as the document has it
        f.write("*" * 100)
    vol.detach()
    assert content(vol, 0, 100) == b"*" * 100
    vol.delete()


def test_statistics_are_those_of_the_documents(lvm: Backend) -> None:
    stats = lvm.stats(refresh=True)
    assert (stats["storage_protocol"], stats["vendor_name"]) == ("iSCSI", "Open Source")
    (pool,) = stats["pools"]
    assert pool["thin_provisioning_support"] is True
    assert "LVMVolumeDriver:lab:cinder-volumes:thin" in pool["location_info"]
    # The thin pool takes 95 % of the group.
    assert 0.9 * machine.SIZE_GIB < float(pool["total_capacity_gb"]) <= machine.SIZE_GIB
    listed = lvm.create_volume(size=1)
    assert [volume.id for volume in lvm.volumes] == [listed.id]
    listed.delete()
    assert list(lvm.volumes) == []


def test_a_whole_life(lvm: Backend) -> None:
    first, later = os.urandom(MIB), os.urandom(MIB)
    volume = lvm.create_volume(size=1, name="life")
    assert machine.volumes() == {volume.name_in_storage}

    attached = volume.attach()
    write(attached.path, 0, first)
    assert machine.sessions()
    assert volume.status == "in-use"

    assert volume.extend(2) == 2 * GIB
    assert size_of(os.path.realpath(str(attached.path))) == 2 * GIB
    write(attached.path, 2 * GIB - MIB, later)
    volume.detach()
    assert (machine.sessions(), machine.disks(), machine.exports()) == ([], [], set())
    assert content(volume, 0, MIB) == first
    assert content(volume, 2 * GIB - MIB, MIB) == later

    snapshot = volume.create_snapshot("cut")
    path = volume.attach().path
    write(path, 0, later)
    volume.detach()

    restored = snapshot.create_volume()
    assert content(restored, 0, MIB) == first
    clone = volume.clone(size=3)
    assert content(clone, 0, MIB) == later
    assert clone.size == 3

    restored.delete()
    clone.delete()
    # Cinder's driver reverts thick volumes only; a thin one is copied back.
    snapshot.revert()
    assert content(volume, 0, MIB) == first
    snapshot.delete()
    volume.delete()


def test_a_failed_connection_leaves_no_export(lvm: Backend) -> None:
    from cinder import exception

    volume = lvm.create_volume(size=1)
    with pytest.raises(exception.InvalidConnectorException):
        volume.connect({"host": "nobody"})
    assert machine.exports() == set()
    volume.delete()


def test_no_command_is_given_a_password(lvm: Backend) -> None:
    volume = lvm.create_volume(size=1)
    connection = volume.attach()
    data = connection.conn_info["data"]
    assert data["auth_method"] == "CHAP"
    assert machine.chap_passwords() == {data["auth_password"]}

    records = [Path(record).read_text() for record in machine.node_records()]
    assert any(data["auth_password"] in record for record in records)
    modes = {Path(record).stat().st_mode & 0o777 for record in machine.node_records()}
    assert modes == {0o600}
    volume.detach()
    volume.delete()

    # The watch sees what is no secret: the same command has the user's name.
    assert machine.arguments_with(data["auth_username"])
    assert machine.arguments_with(data["auth_password"]) == []
