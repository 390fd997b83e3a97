"""A connection from another host: the three steps of the documents, on two kernels.

The backend, its target and the records are here; the other kernel is attached to them over a
network and knows nothing else.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from csi_driver.base.values import GIB
from tests.lab.storage import machine
from tests.lab.storage.agent import call
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from csi_driver.cinderlib.backend import Backend

pytestmark = [pytest.mark.two_kernels, pytest.mark.usefixtures("nothing_left")]


@pytest.fixture(scope="module")
def there(host: None) -> Iterator[dict[str, Any]]:
    """The connector properties of the other host; it ends with the tests of this module."""
    told: list[str] = []

    def answers() -> bool:
        with contextlib.suppress(OSError):
            told.append(call("properties"))
        return bool(told)

    # The two kernels start at once.
    wait_until("The other kernel answers", answers)
    yield json.loads(told[0])
    call("stop")


def test_connect_here_attach_there(lvm: Backend, there: dict[str, Any]) -> None:
    assert there["host"] == "there"
    assert there["initiator"].endswith(":there")
    volume = lvm.create_volume(size=1)

    connection = volume.connect(there)
    assert (connection.connected, connection.protocol) == (True, "iscsi")
    assert not connection.attached_here

    information = json.dumps(connection.conn_info)
    device = json.loads(call("attach", information))
    data = os.urandom(1 << 20)
    digest = call("write", device["path"], base64.b64encode(data).decode())
    assert digest == hashlib.sha256(data).hexdigest()
    # No session of this host: the data came over the network.
    assert (machine.sessions(), machine.disks()) == ([], [])

    volume.extend(2)
    device_info = json.dumps(device["device_info"])
    assert int(call("extend", information, device_info)) == 2 * GIB

    assert json.loads(call("detach", information, device_info)) == []
    assert call("arguments_with", connection.conn_info["data"]["auth_username"])
    assert call("arguments_with", connection.conn_info["data"]["auth_password"]) == []
    volume.disconnect(connection)
    assert machine.exports() == set()

    # What was written there is read here.
    path = volume.attach().path
    assert path is not None
    with open(path, "rb") as file:  # noqa: PTH123
        assert file.read(len(data)) == data
    volume.detach()
    volume.delete()
