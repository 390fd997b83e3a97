"""Connections: hosts that may use a volume, and volumes that are devices of this host."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
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
VM = "b2a2b4b8-0c5d-4b39-b7a5-5b7e6dbb2f20"


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


@pytest.mark.root
def test_the_error_of_an_attach_is_told_even_if_it_cannot_be_taken_back(
    make: Make, tmp_path: Path
) -> None:
    from csi_driver.attach.errors import AttachFailed

    backend = make(double_directory=str(tmp_path))
    volume = backend.create_volume(1)
    (tmp_path / volume.name_in_storage).unlink()
    faults.of_backend(backend.id).fail("terminate_connection", VendorError("busy"))

    with pytest.raises(AttachFailed):
        volume.attach()

    (left,) = volume.connections
    assert left.status == "error"
    left.disconnect()
    assert backend.driver.connected == []


def test_a_connection_of_another_host_is_not_local(backend: cinderlib.Backend) -> None:
    connection = backend.create_volume(1).connect(NODE1)

    with pytest.raises(cinderlib.NotLocal):
        connection.extend()
    connection.detach()
    assert connection.connected


# -- what a connection tells ---------------------------------------------------


def test_a_connection_tells_all_of_it(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(1)
    connection = volume.connect(NODE1, mountpoint="/data", instance_uuid=VM, attached_host="node1")

    assert connection.volume is volume
    assert (connection.volume_id, connection.backend) == (volume.id, backend)
    assert connection.status == "attached"
    assert connection.connector["host"] == "node1"
    assert connection.connection_info == {
        "conn": connection.conn_info,
        "connector": NODE1,
        "device": None,
    }
    assert (connection.device, connection.attach_info) == (None, {})
    assert (connection.mountpoint, connection.instance_uuid) == ("/data", VM)
    assert connection.attached_host == "node1"
    with pytest.raises(cinderlib.InvalidVolume, match="neither rw nor ro"):
        volume.connect(NODE1, attach_mode="wr")


def test_the_host_s_properties_are_asked_for_by_the_caller_s_execute(make: Make) -> None:
    ran = []

    def execute(*command: str, **_: Any) -> tuple[str, str]:
        ran.append(command[0])
        return "", ""

    properties = cinderlib.get_connector_properties("sudo", "", True, True, "here", execute)
    assert (properties["host"], properties["multipath"]) == ("here", True)
    assert "multipathd" in ran


def test_os_brick_s_connector_is_behind_the_host_s_properties(
    backend: cinderlib.Backend,
) -> None:
    connection = backend.create_volume(1).connect(NODE1)

    data = connection.conn_info["data"]
    assert connection.connector.get_volume_paths(data) == [data["device_path"]]
    with pytest.raises(AttributeError):
        _ = connection.connector.nothing_like_this


@pytest.mark.parametrize(
    ("connector", "keywords", "expected"),
    [
        ({}, {"use_multipath": True}, True),
        ({"multipath": True}, {"use_multipath": False}, False),
        ({"multipath": True}, {}, True),
        ({}, {}, False),
    ],
)
def test_multipath_is_as_the_call_says_else_as_the_host_does(
    backend: cinderlib.Backend,
    connector: dict[str, Any],
    keywords: dict[str, Any],
    expected: bool,
) -> None:
    connection = backend.create_volume(1).connect({**NODE1, **connector}, **keywords)

    again = cinderlib.Connection.get_by_id(connection.id)
    assert again.use_multipath is expected
    assert again._attacher()._settings.multipath is expected


@pytest.mark.parametrize(
    ("data", "several"),
    [
        ({"target_portals": ["192.0.2.1:3260", "192.0.2.2:3260"]}, True),
        ({"target_portals": ["192.0.2.1:3260"]}, False),
        ({"target_wwn": ["5001", "5002"]}, True),
        ({"target_wwn": "5001"}, False),
        ({}, False),
    ],
)
def test_multipath_is_guessed_from_the_ways_that_the_array_names(
    data: dict[str, Any], several: bool
) -> None:
    from csi_driver.cinderlib.connection_info import has_several_paths

    assert has_several_paths({"data": data}) is several


def test_scan_attempts_are_those_of_the_call(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(1)

    assert volume.connect(NODE1).scan_attempts == 3
    connection = volume.connect(NODE2, device_scan_attempts=7)
    assert connection.scan_attempts == 7
    assert connection._attacher()._settings.device_scan_attempts == 7


@pytest.mark.root
def test_multipath_of_a_local_attach_is_the_backend_s_option_or_the_call_s(
    make: Make, tmp_path: Path
) -> None:
    backend = make(double_directory=str(tmp_path), use_multipath_for_image_xfer=True)
    volume = backend.create_volume(1)

    with backend_attach(volume, use_multipath=False) as connection:
        assert not connection.use_multipath
        assert not connection.connector["enforce_multipath"]
    asked: list[dict[str, Any]] = []
    from csi_driver.cinderlib import session

    attacher = session.current().attacher

    def noted(**settings: Any) -> Any:
        asked.append(settings)
        return attacher(**settings)

    session.current().attacher = noted  # type: ignore[method-assign]
    with backend_attach(volume):
        assert asked[0] == {"multipath": True, "enforce_multipath": False}


@contextlib.contextmanager
def backend_attach(volume: cinderlib.Volume, **keywords: Any) -> Iterator[cinderlib.Connection]:
    connection = volume.attach(**keywords)
    try:
        yield connection
    finally:
        connection.volume.detach()


# -- several hosts -------------------------------------------------------------


def test_each_step_asks_the_array_once_and_the_export_lives_as_long_as_a_connection(
    backend: cinderlib.Backend,
) -> None:
    volume = backend.create_volume(1, multiattach=True)
    calls = faults.of_backend(backend.id).operations
    begin = len(calls())

    first = volume.connect(NODE1)
    second = cinderlib.Volume.get_by_id(volume.id).connect(NODE2)
    first.disconnect()
    assert (volume.status, volume.connections) == ("in-use", [second])
    second.disconnect()

    assert calls()[begin:] == [
        "create_export",
        "initialize_connection",
        "create_export",
        "initialize_connection",
        "terminate_connection",
        "terminate_connection",
        "remove_export",
    ]
    assert volume.status == "available"


@pytest.mark.parametrize("step", ["create_export", "initialize_connection"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_second_host_that_fails_to_connect_leaves_the_first_as_it_was(
    backend: cinderlib.Backend, step: str, when: Any
) -> None:
    volume = backend.create_volume(1, multiattach=True)
    first = volume.connect(NODE1)
    faults.of_backend(backend.id).fail(step, VendorError("no"), when)

    with pytest.raises(VendorError):
        volume.connect(NODE2)

    assert backend.driver.connected == [(backend.driver.connected[0][0], "node1")]
    assert len(backend.driver.exported) == 1
    assert volume.connections == [first]
    assert first.connected


def test_a_device_that_the_caller_attached_itself_is_noted(backend: cinderlib.Backend) -> None:
    connection = backend.create_volume(1).connect(NODE1)

    with pytest.raises(cinderlib.InvalidVolume, match="no path"):
        connection.device_attached({"type": "block"})
    connection.device_attached({"path": "/dev/sdx", "type": "block"})

    again = cinderlib.Connection.get_by_id(connection.id)
    assert (again.path, again.attached_here) == ("/dev/sdx", True)
    assert again.device == again.attach_info["device"] == {"path": "/dev/sdx", "type": "block"}
    with pytest.raises(cinderlib.InvalidVolume, match="attached already"):
        again.device_attached({"path": "/dev/sdy"})
    again.detach()
    assert not connection.volume.connections[0].attached
