"""Sends the tests of this directory into a lab kernel, and gives them what they need there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab.host import relay
from tests.lab.storage import machine

if TYPE_CHECKING:
    from csi_driver.cinderlib.backend import Backend

HERE = Path(__file__).parent
INSIDE = relay.INSIDE in os.environ


def pytest_configure(config: pytest.Config) -> None:
    """Relay, on the host."""
    if not INSIDE:
        config.pluginmanager.register(relay.Relay(), "lab-relay")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is to run inside; its time is limited there."""
    for item in items:
        if HERE in item.path.parents and not INSIDE:
            item.add_marker(pytest.mark.in_lab_kernel)
            item.add_marker(pytest.mark.timeout(0))


@pytest.fixture(scope="session")
def host() -> None:
    """This kernel is a storage host with the volume group of the documents."""
    machine.start("lab")
    if relay.ADDRESS in os.environ:
        machine.add_address(os.environ[relay.ADDRESS])
    machine.make_volume_group()


@pytest.fixture(scope="session")
def library(host: None) -> None:
    """The library, set up as it can be only once in a process."""
    import csi_driver.cinderlib as cinderlib

    cinderlib.setup(file_locks_path="/run/lab/cinder", persistence_config={"storage": "memory"})


@pytest.fixture(scope="session")
def lvm(library: None) -> Backend:
    """The backend of the documents' examples, as they write it, on this address."""
    import csi_driver.cinderlib as cinderlib

    return cinderlib.Backend(
        volume_driver="cinder.volume.drivers.lvm.LVMVolumeDriver",
        volume_group="cinder-volumes",
        iscsi_protocol="iscsi",
        iscsi_helper="lioadm",
        volume_backend_name="lvm_iscsi",
        target_ip_address=os.environ.get(relay.ADDRESS, "127.0.0.1"),
    )


@pytest.fixture
def nothing_left(host: None) -> Iterator[None]:
    """Whatever the test makes, it removes."""
    assert machine.left() == {}
    yield
    assert machine.left() == {}
