"""An attach that dies before it is recorded: what it left goes with the next, and nothing else.

A volume that is a file becomes a loop device, which outlives the process that made it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import csi_driver.cinderlib as cinderlib
from csi_driver.attach import loop
from csi_driver.attach.attacher import Attacher
from csi_driver.attach.errors import LoopDeviceBusy
from csi_driver.cinderlib.connection import Connection
from csi_driver.cinderlib.persistence.store import RecordConflict
from tests.support import disks, leftovers
from tests.unit.cinderlib.conftest import Make
from tests.unit.cinderlib.test_bootstrap import ROOT, run

pytestmark = pytest.mark.root

BEGIN = """
import csi_driver.cinderlib as cinderlib
cinderlib.setup({state!r}, persistence_config={{"storage": "db"}})
backend = cinderlib.Backend(
    "files",
    volume_driver="csi_driver.drivers.file.FileVolumeDriver",
    file_volume_directory={state!r} + "/volumes",
)
"""

CONNECT = """
backend.create_volume(1).connect(cinderlib.get_connector_properties())
"""

DIE = """
import os, signal
from csi_driver.attach import loop

def dying(call, moment):
    def dies(*args, **kwargs):
        if moment == "after":
            call(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
    return dies

loop.{name} = dying(loop.{name}, {moment!r})
backend.volumes[0].connections[0].attach()
"""

FINISH = """
volume, = backend.volumes
connection, = volume.connections
connection.attach()
with open(connection.path, "r+b", buffering=0) as device:
    device.write(b"mine")
told = connection.path
connection.detach()
connection.disconnect()
volume.delete()
print(json.dumps([told, len(backend.volumes)]))
"""


def test_killed_at_every_point_one_after_another_it_is_made_by_the_next(tmp_path: Path) -> None:
    """First it dies before and after the device is made, then while that is removed."""
    begin = BEGIN.format(state=str(tmp_path))

    def dies(name: str, moment: str, before: str = "") -> int:
        """The number of loop devices after an attach that was killed there."""
        code = begin + before + DIE.format(name=name, moment=moment)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=False)
        assert done.returncode == -signal.SIGKILL
        return len(leftovers.loop_devices_below(tmp_path))

    try:
        assert dies("attach", "before", CONNECT) == 0
        assert dies("attach", "after") == 1
        assert dies("detach_made_by", "before") == 1
        assert dies("detach_made_by", "after") == 0
        device, volumes = run(begin + FINISH)
        assert leftovers.loop_devices_below(tmp_path) == []
    finally:
        leftovers.release(tmp_path)
    assert device.startswith("/dev/loop")
    assert volumes == 0


class Died(BaseException):
    """What no code of the library handles, like the end of the process."""


@pytest.fixture
def volume(make: Make, tmp_path: Path) -> Iterator[cinderlib.Volume]:
    yield make(double_directory=str(tmp_path)).create_volume(1)
    leftovers.release(tmp_path)


Die = Callable[..., Connection]


@pytest.fixture
def die(volume: cinderlib.Volume, monkeypatch: pytest.MonkeyPatch) -> Die:
    """Lets an attach of the volume die before it is recorded; the connection."""

    def died(*_: Any) -> None:
        raise Died

    def die(connection: Connection | None = None) -> Connection:
        made = connection or volume.connect(cinderlib.get_connector_properties())
        with monkeypatch.context() as patched:
            patched.setattr(Connection, "_put_device", died)
            with pytest.raises(Died):
                made.attach()
        return made

    return die


def devices_of(volume: cinderlib.Volume, directory: Path) -> list[str]:
    return loop.devices_of(directory / volume.name_in_storage)


def test_another_connection_removes_it_too(
    volume: cinderlib.Volume, die: Die, tmp_path: Path
) -> None:
    """As after ``volume.attach()``, whose connection nobody has."""
    died = die()
    assert len(devices_of(volume, tmp_path)) == 1
    attached = volume.attach()
    assert devices_of(volume, tmp_path) == [attached.path]
    died.refresh()
    assert died._record.operation is None

    volume.detach()
    died.disconnect()
    volume.delete()


def test_the_end_of_the_connection_removes_it(
    volume: cinderlib.Volume, die: Die, tmp_path: Path
) -> None:
    die().disconnect()
    assert devices_of(volume, tmp_path) == []
    volume.delete()


def test_so_does_the_cleanup_of_the_volume(
    volume: cinderlib.Volume, die: Die, tmp_path: Path
) -> None:
    die()
    volume.cleanup()
    assert leftovers.loop_devices_below(tmp_path) == []


def test_the_devices_of_others_stay(volume: cinderlib.Volume, die: Die, tmp_path: Path) -> None:
    """Of another connection that is attached, of a node plugin, of a person."""
    other = volume.connect(cinderlib.get_connector_properties())
    other.attach()
    file = tmp_path / volume.name_in_storage
    of_a_node = loop.attach(file)
    with disks.loop_device(file) as by_hand:
        theirs = {other.path, of_a_node, by_hand}
        died = die()
        assert len(devices_of(volume, tmp_path)) == 4
        died.attach()
        assert set(devices_of(volume, tmp_path)) == {*theirs, died.path}
        died.detach()
        died.disconnect()
        assert set(devices_of(volume, tmp_path)) == theirs
    other.detach()
    assert devices_of(volume, tmp_path) == [of_a_node]


def test_a_device_of_a_later_attach_of_the_same_connection_stays(
    volume: cinderlib.Volume, die: Die, tmp_path: Path
) -> None:
    """A process has the connection from before: its record tells of the attach that died."""
    connection = die()
    before = connection._record
    connection.attach()
    stale = Connection._of_record(
        msgspec.structs.replace(before, version=connection._record.version)
    )
    stale._remove_remains()
    assert devices_of(volume, tmp_path) == [connection.path]


def test_an_attach_that_another_process_takes_for_dead_fails(
    volume: cinderlib.Volume, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What it made is gone; it must not be recorded as the volume's device."""
    connection = volume.connect(cinderlib.get_connector_properties())
    connect = Attacher.connect

    def overtaken(*args: Any, **kwargs: Any) -> Any:
        made = connect(*args, **kwargs)
        Connection.get_by_id(connection.id)._remove_remains()
        return made

    with monkeypatch.context() as patched:
        patched.setattr(Attacher, "connect", overtaken)
        with pytest.raises(RecordConflict):
            connection.attach()
    assert devices_of(volume, tmp_path) == []
    connection.refresh()
    connection.attach()
    assert devices_of(volume, tmp_path) == [connection.path]


def test_one_that_is_taken_for_dead_before_it_made_a_device_removes_it_itself(
    volume: cinderlib.Volume, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = volume.connect(cinderlib.get_connector_properties())
    connect = Attacher.connect

    def overtaken(*args: Any, **kwargs: Any) -> Any:
        Connection.get_by_id(connection.id)._remove_remains()
        return connect(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Attacher, "connect", overtaken)
        with pytest.raises(RecordConflict):
            connection.attach()
    assert devices_of(volume, tmp_path) == []


def test_what_another_host_has_begun_is_left_to_it(
    volume: cinderlib.Volume, die: Die, tmp_path: Path
) -> None:
    """Hosts may share a store: that attach may be alive, and its device is not here."""
    theirs = die()
    operation = theirs._record.operation
    assert operation is not None
    theirs._put(operation=msgspec.structs.replace(operation, owner="other.example/7"))
    attached = volume.attach()
    assert Connection.get_by_id(theirs.id)._record == theirs._record
    assert attached.path in devices_of(volume, tmp_path)
    volume.detach()


def test_one_that_is_in_use_stays_and_is_told(
    volume: cinderlib.Volume, die: Die, tmp_path: Path
) -> None:
    died = die()
    (device,) = devices_of(volume, tmp_path)
    disks.make_filesystem(device, "ext4")
    with disks.mounted(device, tmp_path / "mounted", "ext4"):
        for attempt in (died.attach, volume.attach, died.disconnect):
            with pytest.raises(LoopDeviceBusy, match="mounted at"):
                attempt()
        assert devices_of(volume, tmp_path) == [device]
    died.attach()
    assert devices_of(volume, tmp_path) == [died.path]


def test_a_connection_is_ended_by_force_though_it_is_in_use(
    volume: cinderlib.Volume, die: Die, tmp_path: Path
) -> None:
    died = die()
    (device,) = devices_of(volume, tmp_path)
    disks.make_filesystem(device, "ext4")
    with disks.mounted(device, tmp_path / "mounted", "ext4"):
        died.disconnect(force=True)
    assert volume.connections == []
