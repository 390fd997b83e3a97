"""Connections: hosts that may use a volume, and volumes that are devices of this host."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import csi_driver.cinderlib as cinderlib
from csi_driver.cinderlib.persistence.memory import MemoryStore
from csi_driver.cinderlib.persistence.records import ConnectionRecord
from tests.doubles import faults
from tests.doubles.faults import VendorError
from tests.unit.cinderlib.conftest import Make

NODE1 = {"host": "node1"}
NODE2 = {"host": "node2"}


def test_a_connected_volume_is_in_use_and_not_deleted(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(1)

    connection = volume.connect(NODE1, attach_mode="ro", mountpoint="/data")

    assert connection.connected
    assert not connection.attached
    assert connection.path is None
    assert (connection.protocol, connection.attach_mode) == ("local", "ro")
    assert connection.conn_info["data"]["access_mode"] == "ro"
    assert connection.connector_info == NODE1
    assert volume.status == "in-use"
    assert volume._record.provider["provider_auth"] == "CHAP user secret"
    with pytest.raises(cinderlib.InvalidVolume, match=connection.id):
        volume.delete()

    volume.disconnect(connection)

    assert not connection.connected
    assert volume.status == "available"
    assert backend.driver.connected == []
    assert backend.driver.exported == set()
    with pytest.raises(cinderlib.ConnectionNotFound):
        cinderlib.Connection.get_by_id(connection.id)
    volume.delete()


def test_the_export_stays_until_the_last_host_is_disconnected(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(1)
    first, second = volume.connect(NODE1), volume.connect(NODE2)

    first.disconnect()
    assert backend.driver.exported
    assert volume.status == "in-use"

    second.disconnect()
    assert not backend.driver.exported


def test_a_connection_is_recorded_before_the_driver_is_called(
    backend: cinderlib.Backend, store: MemoryStore
) -> None:
    seen: list[str] = []
    export = backend.driver.create_export

    def create(*args: Any) -> Any:
        seen.extend(record.phase for record in store.list(ConnectionRecord))
        return export(*args)

    backend.driver.create_export = create
    backend.create_volume(1).connect(NODE1)

    assert seen == ["attaching"]


def test_a_failed_connection_leaves_nothing(backend: cinderlib.Backend, store: MemoryStore) -> None:
    volume = backend.create_volume(1)
    faults.of_backend(backend.id).fail("initialize_connection", VendorError("no"), "after")

    with pytest.raises(VendorError) as raised:
        volume.connect(NODE1)

    assert isinstance(raised.value.resource, cinderlib.Connection)  # type: ignore[attr-defined]
    assert backend.driver.connected == []
    assert backend.driver.exported == set()
    assert store.list(ConnectionRecord) == []
    assert volume.status == "available"


def test_a_failed_connection_that_cannot_be_taken_back_stays_to_be_disconnected(
    backend: cinderlib.Backend,
) -> None:
    volume = backend.create_volume(1)
    trouble = faults.of_backend(backend.id)
    trouble.fail("initialize_connection", VendorError("no"), "after")
    trouble.fail("terminate_connection", VendorError("still no"))

    with pytest.raises(VendorError, match=r"^no$"):
        volume.connect(NODE1)

    (left,) = volume.connections
    assert not left.connected
    assert backend.driver.connected
    left.disconnect()
    assert volume.connections == []
    assert backend.driver.connected == []


def test_a_failed_disconnection_may_be_repeated_with_all_that_it_needs(
    backend: cinderlib.Backend,
) -> None:
    volume = backend.create_volume(1)
    connection = volume.connect(NODE1)
    faults.of_backend(backend.id).fail("terminate_connection", VendorError("no"))
    with pytest.raises(VendorError):
        connection.disconnect()

    again = cinderlib.Connection.get_by_id(connection.id)
    assert again.connector_info == NODE1
    again.disconnect()
    assert backend.driver.connected == []


def test_a_refused_connector_leaves_no_record(
    backend: cinderlib.Backend, store: MemoryStore
) -> None:
    from cinder import exception

    volume = backend.create_volume(1)
    with pytest.raises(exception.InvalidConnectorException):
        volume.connect({"ip": "192.0.2.1"})

    assert store.list(ConnectionRecord) == []


@pytest.mark.root
def test_an_attached_volume_is_a_device_that_keeps_what_is_written(
    make: Make, tmp_path: Path
) -> None:
    backend = make(double_directory=str(tmp_path))
    volume = backend.create_volume(1)
    connection = volume.attach()
    try:
        assert connection.attached_here
        assert connection.path
        assert volume.local_attach.id == connection.id  # type: ignore[union-attr]
        with open(connection.path, "r+b", buffering=0) as device:  # noqa: PTH123
            assert device.seek(0, os.SEEK_END) == 1 << 30
            device.seek(0)
            device.write(b"kept" * 128)
            os.fsync(device.fileno())
        with pytest.raises(cinderlib.InvalidVolume, match="attached"):
            connection.attach()
        with pytest.raises(cinderlib.InvalidVolume, match="Detach it first"):
            connection.disconnect()
        assert volume.extend(2) == 2 << 30
        with open(connection.path, "rb", buffering=0) as device:  # noqa: PTH123
            assert device.seek(0, os.SEEK_END) == 2 << 30
    finally:
        volume.detach()

    assert volume.local_attach is None
    assert volume.connections == []
    assert (tmp_path / volume.name_in_storage).read_bytes()[:8] == b"keptkept"
    with pytest.raises(cinderlib.InvalidVolume, match="not attached"):
        volume.detach()
    volume.delete()


@pytest.mark.root
def test_a_volume_that_cannot_become_a_device_is_disconnected_again(
    make: Make, tmp_path: Path
) -> None:
    from csi_driver.attach.errors import AttachFailed

    backend = make(double_directory=str(tmp_path))
    volume = backend.create_volume(1)
    (tmp_path / volume.name_in_storage).unlink()

    with pytest.raises(AttachFailed):
        volume.attach()

    assert volume.connections == []
    assert backend.driver.connected == []


def test_a_connection_of_another_host_is_not_local(backend: cinderlib.Backend) -> None:
    connection = backend.create_volume(1).connect(NODE1)

    with pytest.raises(cinderlib.NotLocal):
        connection.extend()
    connection.detach()
    assert connection.connected
