"""Settings: what is refused before anything starts, and the defaults."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from csi_driver.base.errors import ConfigurationError
from csi_driver.config import (
    FILE_DRIVER,
    Hidden,
    Role,
    Settings,
    StoreKind,
    default_node_id,
    default_state_dir,
    validated,
)

GOOD = Settings(
    state_dir=Path("/var/lib/cinder-csi"), endpoint="unix:///csi/csi.sock", node_id="node-1"
)


def changed(**changes: object) -> Settings:
    return msgspec.structs.replace(GOOD, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"driver_name": "d" * 63},
        {"driver_name": "Csi.Example.org"},
        {"node_id": "n" * 63},
        {"node_id": "ip-10-0-0-1.eu-west-1.compute.internal"},
        {"node_id": "7"},
        {"drain_seconds": 0.0},
        {"max_volumes": 0},
    ],
)
def test_what_can_be_used_is_taken_as_it_is(changes):
    settings = changed(**changes)
    assert validated(settings) is settings


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"state_dir": Path("state")}, "--state-dir"),
        ({"driver_name": ""}, "--driver-name"),
        ({"driver_name": "d" * 64}, "--driver-name"),
        ({"driver_name": ".example"}, "--driver-name"),
        ({"driver_name": "example."}, "--driver-name"),
        ({"driver_name": "exämple"}, "--driver-name"),
        ({"driver_name": "csi.example.org\n"}, "--driver-name"),
        ({"node_id": ""}, "--node-id"),
        ({"node_id": "n" * 64}, "--node-id"),
        ({"node_id": "../up"}, "--node-id"),
        ({"node_id": "a/b"}, "--node-id"),
        ({"max_volumes": -1}, "--max-volumes-per-node"),
        ({"drain_seconds": -0.5}, "--drain-seconds"),
        ({"drain_seconds": float("inf")}, "--drain-seconds"),
        ({"drain_seconds": float("nan")}, "--drain-seconds"),
        ({"takeover_grace": -1.0}, "--takeover-grace"),
        ({"takeover_attach_grace": float("nan")}, "--takeover-attach-grace"),
    ],
)
def test_what_cannot_be_used_is_refused_by_its_flag(changes, flag):
    with pytest.raises(ConfigurationError, match=f"^{flag} "):
        validated(changed(**changes))


@pytest.mark.parametrize(
    ("changes", "graces"),
    [
        ({}, (0.0, 0.0)),
        ({"store_url": Hidden("postgresql://db/records")}, (900.0, 60.0)),
        ({"store": StoreKind.KUBERNETES, "takeover_attach_grace": 5.0}, (900.0, 5.0)),
    ],
)
def test_another_controller_may_still_work_only_where_records_are_shared(changes, graces):
    settings = changed(**changes)
    assert (settings.grace_seconds, settings.attach_grace_seconds) == graces


def test_this_machines_own_defaults_can_be_used():
    assert validated(changed(node_id=default_node_id(), state_dir=default_state_dir()))


def test_without_root_state_is_kept_with_the_user(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/home/u/state")
    assert default_state_dir() == Path("/home/u/state/cinder-csi")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/u")
    assert default_state_dir() == Path("/home/u/.local/state/cinder-csi")


def test_the_embedded_backend_keeps_its_files_in_the_state_directory():
    (backend,) = GOOD.backends()
    assert backend.driver == FILE_DRIVER
    assert backend.options == {"file_volume_directory": "/var/lib/cinder-csi/volumes"}


@pytest.mark.parametrize(
    ("role", "controller", "node"),
    [(Role.ALL, True, True), (Role.CONTROLLER, True, False), (Role.NODE, False, True)],
)
def test_a_role_says_what_is_served(role, controller, node):
    assert (role.controller, role.node) == (controller, node)


def test_the_topology_key_belongs_to_the_driver():
    assert changed(driver_name="csi.example.org").topology_key == "topology.csi.example.org/node"
