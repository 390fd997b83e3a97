"""Connecting and disconnecting: exports, undoing, and what a host is told."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from csi_driver.cinderlib.persistence.records import Phase
from tests.doubles.faults import VendorError
from tests.unit.cinderlib.conftest import Loaded


def test_a_connection_gets_the_info_of_the_driver_completed(loaded: Loaded) -> None:
    volume = loaded.made_volume()

    changed, connected = loaded.manager.connect(volume, loaded.connection(volume))

    assert connected.connection_info == {
        "driver_volume_type": "local",
        "data": {
            "device_path": f"volume-{volume.cinder_id}",
            "access_mode": "rw",
            "cacheable": False,
            "encrypted": False,
            "enforce_multipath": False,
            "qos_specs": None,
        },
    }
    assert changed.provider["provider_auth"] == "CHAP user secret"
    assert changed.provider["provider_id"] == f"array-{volume.cinder_id}"


def test_a_read_only_connection_says_so(loaded: Loaded) -> None:
    volume = loaded.made_volume()

    _, connected = loaded.manager.connect(volume, loaded.connection(volume, attach_mode="ro"))

    assert connected.connection_info["data"]["access_mode"] == "ro"


def test_the_backend_s_options_reach_the_connection_info(load: Callable[..., Loaded]) -> None:
    loaded = load(report_discard_supported=True, disk_geometry="512e")
    volume = loaded.made_volume(
        10,
        extra_specs={"cacheable": "<is> True"},
        qos_specs={"consumer": "both", "total_iops_sec_per_gb": "5"},
    )

    _, connected = loaded.manager.connect(volume, loaded.connection(volume))

    data = connected.connection_info["data"]
    assert data["discard"] is True
    assert (data["physical_block_size"], data["logical_block_size"]) == ("4096", "512")
    assert data["cacheable"] is True
    assert data["qos_specs"] == {"total_iops_sec": 50}


def test_the_connection_info_is_plain_json(loaded: Loaded) -> None:
    volume = loaded.made_volume()
    loaded.driver.initialize_connection = lambda volume, connector: {
        "driver_volume_type": "iscsi",
        "data": {"target_portals": ("a", "b"), "target_lun": 1},
    }

    _, connected = loaded.manager.connect(volume, loaded.connection(volume))

    assert connected.connection_info["data"]["target_portals"] == ["a", "b"]
    assert msgspec.json.decode(msgspec.json.encode(connected)) is not None


def test_a_refused_connector_leaves_the_backend_alone(loaded: Loaded) -> None:
    from cinder import exception

    volume = loaded.made_volume()

    with pytest.raises(exception.InvalidConnectorException):
        loaded.manager.connect(volume, loaded.connection(volume, connector={"ip": "192.0.2.1"}))

    assert loaded.faults.operations()[-1] == "create_volume"


@pytest.mark.parametrize(
    ("operation", "when", "undone"),
    [
        ("create_export", "before", ["remove_export"]),
        ("create_export", "after", ["remove_export"]),
        ("initialize_connection", "before", ["remove_export"]),
        ("initialize_connection", "after", ["remove_export"]),
    ],
)
def test_a_failed_connection_takes_its_export_back(
    loaded: Loaded, operation: str, when: str, undone: list[str]
) -> None:
    volume = loaded.made_volume()
    loaded.faults.fail(operation, VendorError("no"), when)  # type: ignore[arg-type]

    with pytest.raises(VendorError):
        loaded.manager.connect(volume, loaded.connection(volume))

    assert loaded.faults.operations()[-len(undone) :] == undone
    assert loaded.driver.exported == set()


def test_a_failed_connection_leaves_the_export_that_others_use(loaded: Loaded) -> None:
    volume = loaded.made_volume()
    volume, first = loaded.manager.connect(volume, loaded.connection(volume, "node1"))
    loaded.faults.fail("initialize_connection", VendorError("no"))

    with pytest.raises(VendorError):
        loaded.manager.connect(volume, loaded.connection(volume, "node2"), [first])

    assert loaded.driver.exported == {volume.cinder_id}
    assert loaded.driver.connected == [(volume.cinder_id, "node1")]


def test_info_that_cannot_be_completed_terminates_the_connection(loaded: Loaded) -> None:
    volume = loaded.made_volume(qos_specs={"consumer": "front-end", "read_iops_sec_per_gb": "many"})

    with pytest.raises(ValueError, match="many"):
        loaded.manager.connect(volume, loaded.connection(volume))

    assert loaded.driver.connected == []
    assert loaded.driver.exported == set()


def test_a_failing_undo_does_not_hide_the_first_error(loaded: Loaded) -> None:
    volume = loaded.made_volume()
    loaded.faults.fail("initialize_connection", VendorError("first"))
    loaded.faults.fail("remove_export", VendorError("second"))

    with pytest.raises(VendorError, match="first"):
        loaded.manager.connect(volume, loaded.connection(volume))


def test_the_export_goes_with_the_last_connection_only(loaded: Loaded) -> None:
    volume = loaded.made_volume()
    volume, first = loaded.manager.connect(volume, loaded.connection(volume, "node1"))
    volume, second = loaded.manager.connect(volume, loaded.connection(volume, "node2"), [first])

    volume = loaded.manager.disconnect(volume, first, [second])
    assert loaded.driver.exported == {volume.cinder_id}
    assert loaded.driver.connected == [(volume.cinder_id, "node2")]

    loaded.manager.disconnect(volume, second)
    assert loaded.driver.exported == set()
    assert loaded.driver.connected == []


def test_a_disconnect_may_be_repeated(loaded: Loaded) -> None:
    volume = loaded.made_volume()
    volume, connection = loaded.manager.connect(volume, loaded.connection(volume))

    loaded.manager.disconnect(volume, connection)
    loaded.manager.disconnect(volume, connection, force=True)

    assert loaded.driver.connected == []


def test_the_driver_sees_every_attachment_with_its_connector(loaded: Loaded) -> None:
    volume = loaded.made_volume()
    volume, first = loaded.manager.connect(volume, loaded.connection(volume, "node1"))
    first = msgspec.structs.replace(first, phase=Phase.ATTACHED)
    second = loaded.connection(volume, "node2")
    seen: list[list[tuple[str, str]]] = []

    def look(volume: object, *_: object, **__: object) -> None:
        seen.append(
            [(a.connector["host"], a.attach_status) for a in volume.volume_attachment]  # type: ignore[attr-defined]
        )

    loaded.driver.create_export = lambda context, volume, connector: look(volume)
    loaded.driver.terminate_connection = look
    loaded.manager.connect(volume, second, [first])
    loaded.manager.disconnect(volume, second, [first])

    assert seen == [
        [("node1", "attached"), ("node2", "attaching")],
        [("node1", "attached"), ("node2", "attached")],
    ]


def test_an_export_is_made_again_with_what_the_driver_returns(loaded: Loaded) -> None:
    volume = loaded.made_volume()

    again = loaded.manager.ensure_export(volume)

    assert again.provider["provider_auth"] == "CHAP again secret"
    assert loaded.driver.exported == {volume.cinder_id}
