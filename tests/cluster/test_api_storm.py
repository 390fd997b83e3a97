"""A random storm of API outages: eight clients at once, a server that comes and goes, no leak.

Each client calls as a sidecar does: the same call until a final answer.  Meanwhile the API
server is stopped, frozen, slow, busy, failing, or loses answers, in an order and for times
that the seed decides.  In the end there must be exactly what was answered, and after
everything was deleted nothing: no record, no file, no loop device.

``CINDER_CSI_STORM_SEED`` repeats the choices of a run that failed.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from csi_driver.config import FILE_DRIVER
from csi_driver.drivers.directory_mark import MARK
from csi_driver.kube.api import Object
from csi_driver.kube.group import collection, of_driver
from csi_driver.rpc._generated import csi_pb2 as pb
from tests.cluster import outages
from tests.cluster.accounts import add_node, install
from tests.cluster.apiserver import ApiServer
from tests.cluster.fault_proxy import FaultProxy
from tests.cluster.plugin import make_keys, plugin
from tests.crash.test_storm import NODE, StormClient, Tries, Volume, clients_at_work
from tests.support import leftovers
from tests.support.driver_process import DriverProcess
from tests.support.messages import mount
from tests.support.sidecar import Code, Sidecar
from tests.support.waiting import wait_until

pytestmark = pytest.mark.root

DRIVER = "storm.example.com"
CLIENTS = 8
KINDS = ("cindervolumes", "cindersnapshots", "cinderconnections", "cinderconfirmations")


class Client(StormClient):
    """A client that uses what it publishes on the node."""

    # The file driver clones no volume in use, unless the filesystem below has reflinks.
    no_clone = (Code.NOT_FOUND, Code.FAILED_PRECONDITION)

    def __init__(self, node: DriverProcess, places: Path, *arguments: object) -> None:
        super().__init__(*arguments)
        self._node = Sidecar(str(node.socket))
        self._places = places

    def _attach(self, volume: Volume) -> None:
        staging = self._places / volume.id
        staging.mkdir(exist_ok=True)
        context = self._sidecar.publish(volume.id, NODE).expect().body.publish_context
        stage = pb.NodeStageVolumeRequest(
            volume_id=volume.id,
            publish_context=context,
            staging_target_path=str(staging),
            volume_capability=mount(),
        )
        self._node.until_final("NodeStageVolume", stage).expect()
        unstage = pb.NodeUnstageVolumeRequest(volume_id=volume.id, staging_target_path=str(staging))
        self._node.until_final("NodeUnstageVolume", unstage).expect()
        self._sidecar.unpublish(volume.id, NODE).expect()


class Cluster:
    """A controller and a node, both behind one proxy."""

    def __init__(self, server: ApiServer, directory: Path) -> None:
        install(server)
        add_node(server, NODE)
        self.server = server
        self.directory = directory
        self.files = directory / "volumes"
        self.places = directory / "staging"
        self.places.mkdir()
        options = {
            "file_volume_directory": str(self.files),
            "max_over_subscription_ratio": "100000",
        }
        config = directory / "backends.yaml"
        backend = {"name": "file", "volume_driver": FILE_DRIVER, "options": options}
        config.write_text(yaml.safe_dump({"backends": [backend]}))
        self.proxy = FaultProxy(server)
        keys = make_keys(directory / "keys")
        self.node, self.controller = (
            plugin(
                server,
                directory / role,
                role,
                NODE,
                driver=DRIVER,
                keys=keys,
                proxy=self.proxy,
                arguments=(f"--config={config}",) if role == "controller" else (),
            )
            for role in ("node", "controller")
        )

    def objects(self, plural: str) -> list[Object]:
        return self.server.admin.list(collection(plural), of_driver(DRIVER))[0]

    def nothing_runs(self) -> bool:
        """Whether no record has an operation that is not finished."""
        return all(
            each["status"]["phase"] in ("available", "attached")
            and not each["status"].get("operation")
            for plural in KINDS[:3]
            for each in self.objects(plural)
        )

    def on_backend(self) -> set[str]:
        return {path.name for path in self.files.iterdir()} - {".lock", MARK}

    def expected_on_backend(self) -> set[str]:
        return {
            f"{prefix}-{each['status']['cinderID']}"
            for prefix, plural in (("volume", KINDS[0]), ("snapshot", KINDS[1]))
            for each in self.objects(plural)
        }


@pytest.fixture
def cluster(apiserver: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("s")
    cluster = Cluster(apiserver, directory)
    with contextlib.ExitStack() as running:
        running.callback(leftovers.release, directory)
        running.callback(cluster.proxy.close)
        running.enter_context(cluster.node)
        running.enter_context(cluster.controller)
        yield cluster


def storm(
    cluster: Cluster, clients: list[Client], seconds: float, dice: random.Random
) -> list[str]:
    """Let the server go and come again for so long while the clients work; what happened."""
    moment = threading.Event()
    happened: list[str] = []
    until = time.monotonic() + seconds
    with clients_at_work(clients) as working:
        while time.monotonic() < until:
            moment.wait(dice.uniform(0.2, 3.0))
            outage, length = dice.choice(outages.ALL), dice.choice((0.5, 2.0, 5.0, 7.0))
            happened.append(f"{outage.__name__} {length:g}")
            with outage(cluster.server, cluster.proxy):
                moment.wait(length)
            failed = [client for client in working if client.done()]
            assert not failed, failed[0].exception()
    return happened


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seconds", [25, pytest.param(600, marks=pytest.mark.full)])
def test_a_storm_of_outages_leaves_what_was_answered_and_nothing_else(
    cluster: Cluster, seconds: int, capsys: pytest.CaptureFixture[str]
):
    seed = os.environ.get("CINDER_CSI_STORM_SEED") or str(random.SystemRandom().getrandbits(32))
    print(f"CINDER_CSI_STORM_SEED={seed}")
    socket, shop = cluster.controller.socket, {}
    clients = [
        Client(cluster.node, cluster.places, number, seed, socket, Tries(), shop)
        for number in range(CLIENTS)
    ]
    happened = storm(cluster, clients, seconds, random.Random(seed))
    wait_until("all is finished", cluster.nothing_runs)
    owned = [volume for client in clients for volume in client.volumes.values()]
    with Sidecar(str(socket)) as look:
        assert look.volumes() == {volume.id: volume.gib for volume in owned}
        assert look.snapshots() == {
            cut: volume.id for volume in owned for cut in volume.snapshots.values()
        }
    assert {each["spec"]["id"] for each in cluster.objects("cindervolumes")} == {
        volume.id for volume in owned
    }
    assert cluster.on_backend() == cluster.expected_on_backend()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(StormClient.delete_all, clients))
    assert [cluster.objects(plural) for plural in KINDS] == [[]] * len(KINDS)
    assert cluster.on_backend() == set()
    assert leftovers.loop_devices_below(cluster.directory) == []
    for process in (cluster.controller, cluster.node):
        assert "Traceback" not in process.logs()
    with capsys.disabled():
        operations = sum(client.operations for client in clients)
        print(f"\nAPI storm: {operations} operations, seed {seed}; {', '.join(happened)}")
