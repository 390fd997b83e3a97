"""A process with three backends of three makers at once, and threads at work on all of them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import csi_driver.cinderlib as cinderlib
from csi_driver.config import FILE_DRIVER
from tests.doubles.faults import PATIENCE_SECONDS
from tests.simulators.conftest import connector, kaminario_options, xtremio_options
from tests.simulators.kaminario import Kaminario
from tests.simulators.xtremio import XtremIO

pytestmark = [
    pytest.mark.usefixtures("library"),
    pytest.mark.filterwarnings("ignore:Unverified HTTPS request"),
]


@pytest.fixture
def backends(xms: XtremIO, k2: Kaminario, tmp_path: Path) -> list[cinderlib.Backend]:
    return [
        cinderlib.Backend(
            "file", volume_driver=FILE_DRIVER, file_volume_directory=str(tmp_path / "volumes")
        ),
        cinderlib.Backend("xtremio", **xtremio_options(xms, xtremio_clean_unused_ig=True)),
        cinderlib.Backend("kaminario", **kaminario_options(k2)),
    ]


def live(backend: cinderlib.Backend, number: int) -> None:
    """A volume's life, without copies: those of Kaminario go through this host."""
    volume = backend.create_volume(1, name=f"{backend.id}-{number}")
    snapshot = volume.create_snapshot("cut")
    volume.extend(2)
    # Files are reached from their own host alone.
    host = socket.gethostname() if backend.id == "file" else f"n{number}"
    connection = volume.connect(connector(host))
    assert connection.connected
    assert connection.connector_info["host"] == host
    connection.disconnect()
    snapshot.delete()
    assert [found.name for found in cinderlib.Volume.get_by_name(volume.name)] == [volume.name]
    volume.delete()


def test_threads_work_on_all_backends_at_once(
    backends: list[cinderlib.Backend], xms: XtremIO, k2: Kaminario, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(9) as pool:
        work = [pool.submit(live, each, number) for number in range(4) for each in backends]
        for done in work:
            done.result()

    assert xms.everything() == k2.everything() == {}
    assert list((tmp_path / "volumes").glob("volume-*")) == []
    assert [each.volumes for each in backends] == [[], [], []]


def test_an_array_that_hangs_keeps_no_other_backend_waiting(
    backends: list[cinderlib.Backend], xms: XtremIO, k2: Kaminario
) -> None:
    file, xtremio, kaminario = backends
    gate = xms.hold("POST", "volumes")
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(xtremio.create_volume, 1)
        gate.wait_until_entered()
        try:
            live(file, 1)
            live(kaminario, 1)
            assert not slow.done()
        finally:
            gate.release()
        assert slow.result(PATIENCE_SECONDS).status == "available"


def test_the_same_array_may_be_two_backends(
    xms: XtremIO, backends: list[cinderlib.Backend]
) -> None:
    other = cinderlib.Backend("second", **xtremio_options(xms))

    made: list[Any] = [each.create_volume(1) for each in (backends[1], other)]

    assert [volume.backend.id for volume in made] == ["xtremio", "second"]
    assert xms.names() == {volume._record.cinder_id for volume in made}
    assert [len(each.volumes) for each in (backends[1], other)] == [1, 1]


def test_errors_of_one_backend_are_its_own(backends: list[cinderlib.Backend], xms: XtremIO) -> None:
    xms.go_dark(0)
    attempts: list[Callable[[], Any]] = [
        lambda each=each: each.create_volume(1) for each in backends
    ]
    outcomes = []
    for attempt in attempts:
        try:
            outcomes.append(attempt().status)
        except Exception as error:
            outcomes.append(type(error).__name__)

    assert outcomes == ["available", "VolumeDriverException", "available"]
