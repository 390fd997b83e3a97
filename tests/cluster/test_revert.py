"""`cinder-csi revert` in a cluster: the leader does it, a standby says who leads."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from csi_driver.kube.api import Object
from tests.cluster.accounts import add_node, install
from tests.cluster.apiserver import ApiServer
from tests.cluster.plugin import make_keys, plugin
from tests.support import leftovers
from tests.support.calls import Calls
from tests.support.driver_process import COMMAND, DriverProcess
from tests.support.waiting import wait_until

pytestmark = pytest.mark.root
DRIVER = "revert.example.com"
NODE = "n1"


def revert(controller: DriverProcess, volume_id: str, snapshot_id: str) -> tuple[int, str]:
    """As `kubectl exec` runs it: the environment of the controller's container."""
    done = subprocess.run(
        [COMMAND, "revert", volume_id, snapshot_id],
        env=os.environ | {"CSI_ENDPOINT": controller.endpoint, "CINDER_CSI_STORE": "kubernetes"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("r")
    yield directory
    leftovers.release(directory)


@contextmanager
def spawned(standby: DriverProcess) -> Iterator[None]:
    standby.spawn()
    try:
        yield
    finally:
        standby.stop()


def reverting(server: ApiServer, volume_id: str) -> list[Object]:
    query = {"fieldSelector": f"involvedObject.name={volume_id},reason=Reverting"}
    return server.admin.list("/api/v1/namespaces/default/events", query)[0]


def test_a_volume_is_put_back_by_the_leader_while_it_serves(apiserver: ApiServer, directory: Path):
    install(apiserver)
    add_node(apiserver, NODE)
    keys = make_keys(directory / "keys")

    def process(role: str, name: str) -> DriverProcess:
        return plugin(apiserver, directory / name, role, NODE, driver=DRIVER, keys=keys)

    node, leader, standby = (
        process("node", "n"),
        process("controller", "a"),
        process("controller", "b"),
    )
    staging = directory / "staging"
    staging.mkdir()
    with node, leader, spawned(standby), Calls(leader) as calls, Calls(node) as on_node:
        volume_id = calls.create("data").volume_id

        @contextmanager
        def mounted() -> Iterator[Path]:
            on_node.stage(volume_id, calls.publish(volume_id, NODE), str(staging))
            yield staging / "text"
            on_node.unstage(volume_id, str(staging))
            calls.unpublish(volume_id, NODE)

        with mounted() as file:
            file.write_text("before")
        snapshot_id = calls.snapshot(volume_id, "cut").snapshot_id
        with mounted() as file:
            file.write_text("after")
            code, told = revert(leader, volume_id, snapshot_id)
            assert code == 1
            assert f"is published to {NODE}" in told
        with Calls(standby) as on_standby:
            wait_until("the standby stands by", lambda: on_standby.probe() is False)

        def standby_tells_the_leader() -> bool:
            code, told = revert(standby, volume_id, snapshot_id)
            assert code == 1
            assert "RevertVolume is not served here" in told
            return f"{NODE}/" in told

        wait_until("the standby has seen the Lease", standby_tells_the_leader)
        assert reverting(apiserver, volume_id) == []

        assert revert(leader, volume_id, snapshot_id)[0] == 0
        wait_until("an Event tells", lambda: reverting(apiserver, volume_id))
        assert snapshot_id in reverting(apiserver, volume_id)[0]["message"]
        with mounted() as file:
            assert file.read_text() == "before"
        calls.delete_snapshot(snapshot_id)
        calls.delete(volume_id)
