"""Volumes as users of a cluster have them: through Kubernetes' controllers and the sidecars.

At each step ``kubectl get`` tells what is where and how far; at the end nothing is left.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from csi_driver.base.values import GIB
from csi_driver.kube.api import Object
from csi_driver.kube.group import collection
from tests.cluster.apiserver import ApiServer
from tests.cluster.binaries import Binaries
from tests.cluster.rows import row
from tests.cluster.volume_cluster import CLAIMS, NODE, VOLUMES, VolumeCluster
from tests.support import leftovers
from tests.support.waiting import wait_until

pytestmark = pytest.mark.root
DRIVER = "sidecars.example.com"


@pytest.fixture(scope="module")
def running(
    apiserver: ApiServer, programs: Binaries, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VolumeCluster]:
    directory = tmp_path_factory.mktemp("s")
    cluster = VolumeCluster(apiserver, programs, directory, DRIVER)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        leftovers.release(directory)


@pytest.fixture
def cluster(running: VolumeCluster) -> Iterator[VolumeCluster]:
    """With nothing in it, and nothing left of the test in the end."""
    assert running.left() == {}
    yield running
    wait_until("nothing is left", lambda: running.left() == {})


def volume_row(cluster: VolumeCluster, volume: Object) -> dict[str, str]:
    return row(cluster.server, "cindervolumes", volume["spec"]["csi"]["volumeHandle"], "-o", "wide")


def size_of(path: os.PathLike[str]) -> int:
    """Bytes of the filesystem at a path."""
    found = os.statvfs(path)
    return found.f_blocks * found.f_frsize


def test_a_claim_becomes_a_volume_that_says_whose_it_is(cluster: VolumeCluster):
    volume = cluster.bound("data")
    name = volume["metadata"]["name"]
    seen = volume_row(cluster, volume)
    assert seen["VOLUME"] == name
    assert (seen["SIZE GIB"], seen["BACKEND"], seen["PHASE"]) == ("1", "file", "available")
    assert (seen["ATTACHED TO"], seen["RUNNING"], seen["CLAIM"]) == ("", "", "data")
    assert seen["AGE"].endswith("s")
    record = cluster.server.admin.get(
        f"{collection('cindervolumes')}/{volume['spec']['csi']['volumeHandle']}"
    )
    assert record["spec"]["metadata"] == {
        "csi.storage.k8s.io/pvc/name": "data",
        "csi.storage.k8s.io/pvc/namespace": "default",
        "csi.storage.k8s.io/pv/name": name,
    }
    # The volumes of the file backend are to be had on its own host only.
    (term,) = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    (wanted,) = term["matchExpressions"]
    node = cluster.server.admin.get(f"/api/v1/nodes/{NODE}")
    assert wanted["values"] == [node["metadata"]["labels"][wanted["key"]]]
    cluster.delete_claim("data", volume)


def test_a_volume_is_attached_and_detached(cluster: VolumeCluster):
    volume = cluster.bound("data")
    cluster.attach(volume)
    wait_until("the node is shown", lambda: volume_row(cluster, volume)["ATTACHED TO"] == NODE)
    (connection,) = cluster.left()["cinderconnections"]
    seen = row(cluster.server, "cinderconnections", connection)
    assert seen["VOLUME"] == volume["spec"]["csi"]["volumeHandle"]
    assert (seen["NODE"], seen["MODE"], seen["PHASE"]) == (NODE, "rw", "attached")
    cluster.detach(volume)
    assert "cinderconnections" not in cluster.left()
    wait_until("no node is shown", lambda: volume_row(cluster, volume)["ATTACHED TO"] == "")
    cluster.delete_claim("data", volume)


def test_a_snapshot_is_restored_into_a_larger_claim(cluster: VolumeCluster):
    volume = cluster.bound("data")
    with cluster.used(volume) as mounted:
        (mounted.path / "text").write_text("of the first day")
    content = cluster.snapshot("monday", "data")
    seen = row(cluster.server, "cindersnapshots", content["status"]["snapshotHandle"])
    assert seen["SNAPSHOT"].startswith("snapshot-")
    assert seen["VOLUME"] == volume["spec"]["csi"]["volumeHandle"]
    assert (seen["SIZE GIB"], seen["BACKEND"], seen["PHASE"]) == ("1", "file", "available")
    source = {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "monday"}
    restored = cluster.bound("restored", "2Gi", source)
    assert volume_row(cluster, restored)["SIZE GIB"] == "2"
    with cluster.used(restored) as mounted:
        assert (mounted.path / "text").read_text() == "of the first day"
        assert size_of(mounted.path) > 1.9 * GIB
    cluster.delete_claim("restored", restored)
    cluster.delete_snapshot("monday", content)
    cluster.delete_claim("data", volume)


def test_a_claim_is_cloned(cluster: VolumeCluster):
    volume = cluster.bound("data")
    with cluster.used(volume) as mounted:
        (mounted.path / "text").write_text("of both")
    copy = cluster.bound("copy", source={"kind": "PersistentVolumeClaim", "name": "data"})
    assert volume_row(cluster, copy)["CLAIM"] == "copy"
    cluster.delete_claim("data", volume)
    with cluster.used(copy) as mounted:
        assert (mounted.path / "text").read_text() == "of both"
    cluster.delete_claim("copy", copy)


def test_a_claim_in_use_is_expanded(cluster: VolumeCluster):
    volume = cluster.bound("data")
    path = f"{CLAIMS}/data"
    with cluster.used(volume) as mounted:
        (mounted.path / "text").write_text("kept")
        wanted = {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}
        cluster.server.admin.patch(path, wanted)
        cluster.until(path, "the node's part is left", node_s_part_is_left)
        grown = cluster.server.admin.get(f"{VOLUMES}/{volume['metadata']['name']}")
        assert grown["spec"]["capacity"]["storage"] == "2Gi"
        assert volume_row(cluster, volume)["SIZE GIB"] == "2"
        mounted.expand(2 * GIB)
        assert size_of(mounted.path) > 1.9 * GIB
        assert (mounted.path / "text").read_text() == "kept"
    cluster.delete_claim("data", volume)


def node_s_part_is_left(claim: Object) -> bool:
    conditions = claim["status"].get("conditions", ())
    return any(each["type"] == "FileSystemResizePending" for each in conditions)
