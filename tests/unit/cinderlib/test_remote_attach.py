"""The three steps of a connection on two hosts: a process that manages, one that attaches.

The second process has no backend and loads no driver: it tells its properties, gets JSON,
attaches, writes and detaches.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import csi_driver.cinderlib as cinderlib
from tests.support import leftovers
from tests.unit.cinderlib.conftest import Make
from tests.unit.cinderlib.test_bootstrap import run

pytestmark = pytest.mark.root

SETUP = """
import csi_driver.cinderlib as cinderlib
cinderlib.setup({state!r}, fail_on_missing_backend=False)
"""

ATTACH = """
connection = cinderlib.load({text!r})
connection.attach()
with open(connection.path, "r+b", buffering=0) as device:
    device.write(b"remote" * 1024)
    os.fsync(device.fileno())
told = {{"attached": connection.attached_here, "path": connection.path}}
"""

DETACH = """
connection.detach()
homes = ("cinder.volume.drivers.", "csi_driver.drivers.", "tests.doubles")
drivers = [name for name in sys.modules if name.startswith(homes)]
print(json.dumps({**told, "drivers": drivers, "after": connection.attached}))
"""


def test_a_volume_is_attached_where_no_backend_is_known(make: Make, tmp_path: Path) -> None:
    backend = make(double_directory=str(tmp_path / "array"))
    volume = backend.create_volume(1)
    begin = SETUP.format(state=str(tmp_path / "host"))

    properties = run(begin + "print(json.dumps(cinderlib.get_connector_properties()))")
    connection = volume.connect(properties)
    told = run(begin + ATTACH.format(text=connection.to_jsons()) + DETACH)

    assert told["attached"]
    assert told["path"].startswith("/dev/")
    assert (told["drivers"], told["after"]) == ([], False)
    assert leftovers.loop_devices_below(tmp_path) == []
    assert (tmp_path / "array" / volume.name_in_storage).read_bytes()[:6] == b"remote"
    connection.disconnect()
    assert volume.status == "available"
    volume.delete()


def test_a_later_process_of_the_host_detaches_by_the_json_that_the_first_gave(
    make: Make, tmp_path: Path
) -> None:
    backend = make(double_directory=str(tmp_path / "array"))
    volume = backend.create_volume(1)
    begin = SETUP.format(state=str(tmp_path / "host"))
    properties = run(begin + "print(json.dumps(cinderlib.get_connector_properties()))")
    connection = volume.connect(properties)

    text = run(
        begin
        + ATTACH.format(text=connection.to_jsons())
        + "print(json.dumps(connection.to_jsons()))"
    )
    assert len(leftovers.loop_devices_below(tmp_path)) == 1
    attached: Any = cinderlib.load(text, save=True)
    assert attached == connection
    assert volume.connections[0].attached_host == json.loads(text)["record"]["attached_host"]

    told = run(begin + f"connection = cinderlib.load({text!r})\ntold = {{}}\n" + DETACH)
    assert told["after"] is False
    assert leftovers.loop_devices_below(tmp_path) == []
    connection.disconnect(force=True)
    assert backend.driver.connected == []
