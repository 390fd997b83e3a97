"""Controller and node with their records in Kubernetes: a volume's life over both sockets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from csi_driver.kube.group import collection, of_driver
from tests.cluster.accounts import NAMESPACE, add_node, install
from tests.cluster.apiserver import ApiServer
from tests.cluster.plugin import make_keys, plugin, share_volumes
from tests.support import leftovers
from tests.support.calls import Calls
from tests.support.driver_process import DriverProcess
from tests.support.waiting import wait_until

DRIVER = "plugin.example.com"


@pytest.fixture(scope="module")
def cluster(apiserver: ApiServer) -> ApiServer:
    install(apiserver)
    add_node(apiserver, "n1")
    return apiserver


@pytest.fixture
def pair(
    cluster: ApiServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[DriverProcess, DriverProcess]]:
    directory = tmp_path_factory.mktemp("p")
    keys = make_keys(directory / "keys")
    node = plugin(cluster, directory / "n", "node", "n1", driver=DRIVER, keys=keys)
    controller = plugin(cluster, directory / "c", "controller", "n1", driver=DRIVER, keys=keys)
    with node, controller:
        yield controller, node
    leftovers.release(directory)


@pytest.mark.root
def test_a_volume_s_life_over_both_sockets(cluster, pair, tmp_path: Path):
    controller, node = pair
    staging = tmp_path / "staging"
    staging.mkdir()
    with Calls(controller) as on_controller, Calls(node) as on_node:
        volume_id = on_controller.create("data").volume_id
        for text in ("first", "second"):
            context = on_controller.publish(volume_id, "n1")
            on_node.stage(volume_id, context, str(staging))
            (staging / text).write_text(text)
            assert (staging / "first").read_text() == "first"
            on_node.unstage(volume_id, str(staging))
            on_controller.unpublish(volume_id, "n1")
        item = cluster.admin.get(f"{collection('cindervolumes')}/{volume_id}")
        assert item["status"]["formatting"]["state"] == "formatted"
        on_controller.delete(volume_id)
    for plural in ("cindervolumes", "cinderconnections", "cinderconfirmations"):
        assert cluster.admin.list(collection(plural), of_driver(DRIVER))[0] == []


def test_a_standby_answers_who_leads_and_takes_over(cluster, tmp_path_factory):
    directory = tmp_path_factory.mktemp("r")
    keys = make_keys(directory / "keys")
    driver = "replicas.example.com"
    first = plugin(cluster, directory / "1", "controller", "n1", driver=driver, keys=keys)
    second = plugin(cluster, directory / "2", "controller", "n1", driver=driver, keys=keys)
    share_volumes(directory / "1", directory / "2")
    with first, Calls(first) as on_first:
        second.spawn()
        try:
            with Calls(second) as on_second:
                wait_until("the standby answers", lambda: on_second.probe() is False)
                with pytest.raises(grpc.RpcError) as refused:
                    on_second.create("data")
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
                volume_id = on_first.create("data").volume_id
                first.kill()
                wait_until("the standby leads", on_second.probe)
                assert on_second.create("data").volume_id == volume_id
                on_second.delete(volume_id)
        finally:
            second.stop()
        first.start()


def test_a_replica_that_cannot_start_leaves_the_lease_to_another(cluster, tmp_path: Path):
    driver = "cannot-start.example.com"
    config = tmp_path / "backends.yaml"
    config.write_text("backends: [{name: b, volume_driver: no.such.Driver}]")
    replica = plugin(
        cluster,
        tmp_path / "1",
        "controller",
        "n1",
        driver=driver,
        keys=make_keys(tmp_path / "keys"),
        arguments=("--config", str(config)),
    )
    replica.spawn()
    assert replica.wait() != 0
    assert "no.such.Driver" in replica.logs()
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{driver}"
    spec = cluster.admin.get(lease)["spec"]
    assert spec["leaseTransitions"] == 1, "it led"
    assert spec["holderIdentity"] == ""
