"""The node's process in a cluster: what it loads, how small it stays, and what it does
while the API server is away.

It runs as in a Pod, with the token of its own service account.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import yaml

from csi_driver.config import FILE_DRIVER
from csi_driver.kube.errors import ApiBusy
from csi_driver.kube.group import collection, of_driver
from csi_driver.rpc._generated import csi_pb2 as pb
from tests.cluster import outages
from tests.cluster.accounts import add_node, end, install
from tests.cluster.apiserver import ApiServer
from tests.cluster.fault_proxy import FaultProxy
from tests.cluster.outages import Outage
from tests.cluster.plugin import make_keys, plugin
from tests.cluster.pod import Account, in_pod, inside
from tests.process.test_roles import FOREIGN, imported
from tests.support import leftovers
from tests.support.calls import WAIT, Calls
from tests.support.driver_process import DriverProcess
from tests.support.messages import mount
from tests.support.waiting import wait_until

pytestmark = pytest.mark.root

DRIVER = "nodeprocess.example.com"
NODE = "n1"
MOST_MIB = 90
STAGES = 100
AT_A_TIME = 4

ALLOWED = ("api", "connection", "election", "errors", "group", "node_objects")
"""What a node uses of the door to the API; ``election`` for its types alone."""


@dataclass
class Pair:
    """A controller, and the plugin of a node with a proxy before its API server."""

    server: ApiServer
    directory: Path
    on_controller: Calls
    node: DriverProcess
    on_node: Calls
    account: Account
    proxy: FaultProxy

    def path(self, name: str) -> Path:
        """A place on the node for a mount; as the test sees it."""
        path = self.directory / "mounts" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def seen(self, name: str) -> Path:
        """The same place with what the node mounted there."""
        return inside(self.node, self.path(name))

    def attached(self, name: str) -> tuple[str, dict[str, str]]:
        """A new volume that was attached to the node: its id and its publish_context."""
        volume_id = self.on_controller.create(name).volume_id
        return volume_id, self.on_controller.publish(volume_id, NODE)

    def published(self, name: str, volume_id: str, context: dict[str, str]) -> None:
        """Bring a staged volume to a Pod."""
        request = pb.NodePublishVolumeRequest(
            volume_id=volume_id,
            publish_context=context,
            staging_target_path=str(self.path(name)),
            target_path=str(self.directory / "mounts" / f"{name}-pod"),
            volume_capability=mount(),
        )
        self.on_node.node.NodePublishVolume(request, timeout=WAIT)

    def unpublished(self, name: str, volume_id: str) -> None:
        """Take it from the Pod."""
        target = str(self.directory / "mounts" / f"{name}-pod")
        request = pb.NodeUnpublishVolumeRequest(volume_id=volume_id, target_path=target)
        self.on_node.node.NodeUnpublishVolume(request, timeout=WAIT)

    def gone(self, name: str, volume_id: str) -> None:
        """Undo everything of a volume."""
        self.on_node.unstage(volume_id, str(self.path(name)))
        self.on_controller.unpublish(volume_id, NODE)
        self.on_controller.delete(volume_id)


@pytest.fixture(scope="module")
def pair(apiserver: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    install(apiserver)
    add_node(apiserver, NODE)
    directory = tmp_path_factory.mktemp("n")
    keys = make_keys(directory / "keys")
    options = {
        "file_volume_directory": str(directory / "volumes"),
        "max_over_subscription_ratio": "100000",
    }
    backend = {"name": "file", "volume_driver": FILE_DRIVER, "options": options}
    config = directory / "backends.yaml"
    config.write_text(yaml.safe_dump({"backends": [backend]}))
    proxy = FaultProxy(apiserver)
    controller = plugin(
        apiserver,
        directory / "c",
        "controller",
        NODE,
        driver=DRIVER,
        keys=keys,
        arguments=(f"--config={config}",),
    )
    node, account = in_pod(
        apiserver,
        directory / "n",
        "node",
        NODE,
        driver=DRIVER,
        keys=keys,
        proxy=proxy,
        environment={"PYTHONPROFILEIMPORTTIME": "1"},
    )
    with contextlib.ExitStack() as running:
        running.callback(leftovers.release, directory)
        running.callback(proxy.close)
        running.enter_context(node)
        running.enter_context(controller)
        on_node = running.enter_context(Calls(node))
        on_controller = running.enter_context(Calls(controller))
        yield Pair(apiserver, directory, on_controller, node, on_node, account, proxy)


def test_it_stays_small_and_loads_neither_cinder_nor_the_kubernetes_client(pair: Pair):
    at_rest = pair.node.memory_mib()

    def stage(number: int) -> None:
        name = f"small-{number}"
        volume_id, context = pair.attached(name)
        pair.on_node.stage(volume_id, context, str(pair.path(name)))
        pair.gone(name, volume_id)

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        list(pool.map(stage, range(STAGES)))
    after = pair.node.memory_mib()
    print(f"node of a cluster: {at_rest:.1f} MiB at rest, {after:.1f} MiB after {STAGES} stages")
    assert at_rest <= MOST_MIB
    assert after <= MOST_MIB

    modules = imported(pair.node.logs())
    kube = {each for each in modules if each.startswith("csi_driver.kube.")}
    assert kube <= {f"csi_driver.kube.{each}" for each in ALLOWED}
    foreign = [each for each in FOREIGN if each != "csi_driver.kube"]
    assert "csi_driver.cli.cluster_ledger" in modules
    assert {
        name for name in modules for f in foreign if name == f or name.startswith(f"{f}.")
    } == set()
    assert "Traceback" not in pair.node.logs()


def test_it_uses_the_token_that_kubelet_gave_it_last(pair: Pair):
    first, context = pair.attached("first")
    pair.on_node.stage(first, context, str(pair.path("first")))
    end(pair.server, pair.account.renew())
    second, context = pair.attached("second")
    pair.on_node.stage(second, context, str(pair.path("second")))
    assert confirmations(pair.server) == {first, second}
    pair.gone("first", first)
    pair.gone("second", second)


def confirmations(server: ApiServer) -> set[str]:
    """The volumes of which a node proved something."""
    found = server.admin.list(collection("cinderconfirmations"), of_driver(DRIVER))[0]
    return {each["spec"]["volumeID"] for each in found}


@pytest.mark.parametrize("away", [outages.frozen, outages.stopped])
def test_without_a_server_it_unstages_and_stages_what_has_a_filesystem(pair: Pair, away: Outage):
    used, context = pair.attached("used")
    pair.on_node.stage(used, context, str(pair.path("used")))
    pair.published("used", used, context)
    (pair.seen("used-pod") / "text").write_text("kept")
    formatted, context = pair.attached("formatted")
    pair.on_node.stage(formatted, context, str(pair.path("formatted")))
    pair.on_node.unstage(formatted, str(pair.path("formatted")))
    pair.on_controller.unpublish(formatted, NODE)
    context = pair.on_controller.publish(formatted, NODE)
    fresh, fresh_context = pair.attached("fresh")
    with away(pair.server, pair.proxy):
        asked = len(pair.proxy.seen)
        pair.unpublished("used", used)
        pair.on_node.unstage(used, str(pair.path("used")))
        assert len(pair.proxy.seen) == asked  # nothing was asked, so nothing was waited for
        with ThreadPoolExecutor() as pool:
            refused = pool.submit(pair.on_node.stage, fresh, fresh_context, str(pair.path("fresh")))
            pair.on_node.stage(formatted, context, str(pair.path("formatted")))
            with pytest.raises(grpc.RpcError) as error:
                refused.result()
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        assert f"Volume {formatted} is staged without the ledger" in pair.node.logs()
        assert fresh not in devices(pair)
    wait_until(
        "kubelet's repetition is served", lambda: staged(pair, "fresh", fresh, fresh_context)
    )
    assert confirmations(pair.server) == {used, formatted, fresh}
    again = pair.on_controller.publish(used, NODE)
    pair.on_node.stage(used, again, str(pair.path("used")))
    assert (pair.seen("used") / "text").read_text() == "kept"
    for name, volume_id in (("used", used), ("formatted", formatted), ("fresh", fresh)):
        pair.gone(name, volume_id)
    assert "Traceback" not in pair.node.logs()


def test_a_confirmation_whose_answer_is_lost_is_one(pair: Pair):
    """The volume was formatted, and the node was not told that the ledger knows it."""
    volume_id, context = pair.attached("lost")
    with outages.losing(pair.server, pair.proxy), pytest.raises(grpc.RpcError) as error:
        pair.on_node.stage(volume_id, context, str(pair.path("lost")))
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert leftovers.loop_devices_below(pair.directory) == []
    said = pair.server.admin.get(f"{collection('cinderconfirmations')}/{volume_id}")["spec"]
    assert said["state"] == "formatted"
    pair.on_node.stage(volume_id, context, str(pair.path("lost")))
    (device,) = leftovers.loop_devices_below(pair.directory)
    asked = ["blkid", "--probe", "--match-tag=UUID", "--output=value", device]
    assert subprocess.check_output(asked, text=True).strip() == said["fsUUID"]
    pair.gone("lost", volume_id)


def staged(pair: Pair, name: str, volume_id: str, context: dict[str, str]) -> bool:
    """Whether NodeStageVolume worked; a server that has just started may refuse anybody."""
    try:
        pair.on_node.stage(volume_id, context, str(pair.path(name)))
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        return False
    return True


def devices(pair: Pair) -> str:
    """Loop devices with volumes of the test, as text with the volumes' ids in it."""
    return json.dumps(leftovers.loop_devices_below(pair.directory))


def test_a_node_that_starts_without_a_server_serves_and_registers_when_it_comes(pair: Pair):
    used, context = pair.attached("used")
    pair.on_node.stage(used, context, str(pair.path("used")))
    pair.server.admin.delete(collection("cindernodes") + f"/{NODE}.{DRIVER}")
    said = pair.node.logs().count("Registered: ")
    with outages.stopped(pair.server, pair.proxy):
        pair.node.stop()
        pair.node.start()
        assert pair.on_node.node.NodeGetInfo(pb.NodeGetInfoRequest(), timeout=WAIT).node_id == NODE
        pair.on_node.unstage(used, str(pair.path("used")))
        wait_until("it says so", lambda: "tried again until it works" in pair.node.logs())
    wait_until("it registers", lambda: is_registered(pair.server))
    wait_until("and says so", lambda: pair.node.logs().count("Registered: ") == said + 1)
    pair.gone("used", used)


def is_registered(server: ApiServer) -> bool:
    try:
        found = server.admin.list(collection("cindernodes"), of_driver(DRIVER))[0]
    except ApiBusy:  # it has just started
        return False
    return any(each["spec"]["nodeID"] == NODE for each in found)
