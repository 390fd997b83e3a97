"""Simulated arrays, and Cinder's own drivers that talk to them: by the library and by CSI."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import csi_driver.cinderlib as cinderlib
from csi_driver.cinderlib import session
from csi_driver.cinderlib.failures import FailureKind, classify
from csi_driver.cinderlib.persistence.memory import MemoryStore
from tests.simulators.kaminario import Kaminario
from tests.simulators.server import Array
from tests.simulators.xtremio import CLUSTER, XtremIO
from tests.support import cinder_process
from tests.support.controller_bench import ControllerBench

Make = Callable[..., cinderlib.Backend]

XTREMIO = "cinder.volume.drivers.dell_emc.xtremio.XtremIOISCSIDriver"
KAMINARIO = "cinder.volume.drivers.kaminario.kaminario_iscsi.KaminarioISCSIDriver"


@pytest.fixture(autouse=True)
def _direct_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """The arrays are on loopback: no proxy of the machine is asked.

    Nor are its certificates loaded: urllib3 does that for every connection, though the drivers
    check none, and XtremIO's makes one for every request.  Most of the time of these tests.
    """
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    monkeypatch.setenv("SSL_CERT_DIR", "/dev/null")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The object layer with a store of the test's own; backends are closed after it."""
    settings = cinder_process.set_up()
    monkeypatch.setattr(session, "_session", session.Session(settings, MemoryStore()))
    yield
    for backend in list(cinderlib.Backend.backends.values()):
        backend.close()


@pytest.fixture
def start() -> Iterator[Callable[[Any], Any]]:
    """Starts arrays; they stop after the test."""
    with contextlib.ExitStack() as stack:
        yield stack.enter_context


@pytest.fixture
def xms(start: Callable[[XtremIO], XtremIO]) -> XtremIO:
    return start(XtremIO())


@pytest.fixture
def k2(start: Callable[[Kaminario], Kaminario], tmp_path: Path) -> Kaminario:
    return start(Kaminario(tmp_path / "k2"))


@pytest.fixture
def attachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """This host can attach what the simulated Kaminario exports: LUNs become loop devices."""
    cinder_process.set_up()
    from os_brick.initiator import connector as connectors

    ours = "tests.simulators.loop_connector.LoopConnector"
    monkeypatch.setitem(connectors.get_connector_mapping(), "ISCSI", ours)
    monkeypatch.setattr(connectors, "unix_connector_list", [*connectors.unix_connector_list, ours])


@pytest.fixture
def no_initiator(monkeypatch: pytest.MonkeyPatch) -> None:
    """This host has no iSCSI initiator name, as most containers."""
    cinder_process.set_up()
    from os_brick.initiator.connectors.iscsi import ISCSIConnector

    monkeypatch.setattr(ISCSIConnector, "get_initiator", lambda self: None)


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries of drivers, in seconds, which nobody waits for."""
    import tenacity.nap

    made: list[float] = []
    monkeypatch.setattr(tenacity.nap, "sleep", made.append)
    return made


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., ControllerBench]]:
    """Starts controllers of one backend each; they stop after the test."""
    with contextlib.ExitStack() as stack:

        def serve(options: dict[str, Any]) -> ControllerBench:
            bench = stack.enter_context(ControllerBench(tmp_path, options=options))
            bench.register("n1", "n2")
            return bench

        yield serve


def xtremio_options(array: Array, **more: Any) -> dict[str, Any]:
    """The document's options, and an array that is busy but once: no waiting."""
    return {
        "volume_driver": XTREMIO,
        "san_ip": array.address,
        "xtremio_cluster_name": CLUSTER,
        "san_login": "xtremio_user",
        "san_password": "xtremio_password",
        # The driver takes this one for the pause between tries, in seconds.
        "xtremio_array_busy_retry_count": 0,
        **more,
    }


def kaminario_options(array: Array, **more: Any) -> dict[str, Any]:
    """The document's options."""
    return {
        "volume_driver": KAMINARIO,
        "san_ip": array.address,
        "san_login": "kaminario_user",
        "san_password": "kaminario_password",
        **more,
    }


def failure_of(action: Callable[[], Any]) -> tuple[FailureKind, str]:
    """What the library makes of the error of an action that must fail."""
    with pytest.raises(Exception) as raised:  # of Cinder, which tests import late
        action()
    failure = classify(raised.value)
    return failure.kind, failure.message


def connector(host: str) -> dict[str, Any]:
    """What a host tells of itself."""
    return {
        "host": host,
        "ip": "192.0.2.1",
        "initiator": f"iqn.1994-05.com.redhat:{host}",
        "multipath": False,
    }
