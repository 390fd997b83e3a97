"""`cinder-csi keys` and `orphans` on the records of a cluster, beside whoever works with them."""

from __future__ import annotations

import itertools
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from csi_driver.base import publish_context, sealing
from csi_driver.base.sealing import KeyRing, load
from csi_driver.base.values import Formatting, PublishContext
from csi_driver.cinderlib.persistence.kubernetes.store import KubernetesStore
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    OrphanRecord,
    Phase,
    VolumeRecord,
)
from csi_driver.cinderlib.persistence.sealed import SealedStore
from csi_driver.cli.keys import SETTLED_SECONDS
from csi_driver.kube.api import Api
from tests.cluster.apiserver import ADMIN_TOKEN, ApiServer
from tests.cluster.plugin import make_keys
from tests.support.driver_process import COMMAND

_drivers = itertools.count()
LONG_AGO = time.time() - 2 * SETTLED_SECONDS


class Cluster:
    """The records of one driver, the rings that they are sealed with, and the command."""

    def __init__(self, server: ApiServer, directory: Path) -> None:
        self.driver = f"keys-{next(_drivers)}.example.com"
        self.rings = make_keys(directory / "rings")
        self._server = server
        inner = KubernetesStore(Api(server.connection(ADMIN_TOKEN)), self.driver)
        self.store = SealedStore(inner, lambda: self.ring("records"))

    def ring(self, name: str) -> KeyRing:
        return load(self.rings / f"{name}.json")

    def rotate(self, name: str, now: float = LONG_AGO) -> str:
        """Rotate a ring; the id of the key before."""
        decide = partial(KeyRing.rotated, now=now)
        before, _ = sealing.change(self.rings / f"{name}.json", decide)
        return before.current

    def context(self, volume_id: str) -> dict[str, str]:
        context = PublishContext(
            volume_id=volume_id, node_id="n", connection={}, size_bytes=1, formatting=Formatting()
        )
        return publish_context.seal(context, self.ring("transport"), self.driver)

    def keys(self, *arguments: str, code: int = 0, driver: str = "") -> str:
        return self.run("keys", *arguments, f"--keys-dir={self.rings}", code=code, driver=driver)

    def run(self, *arguments: str, code: int = 0, driver: str = "") -> str:
        place = (
            "--store=kubernetes",
            f"--kubeconfig={self._server.kubeconfig}",
            f"--driver-name={driver or self.driver}",
        )
        done = subprocess.run(
            [COMMAND, *arguments, *place], capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def cluster(apiserver: ApiServer, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(apiserver, tmp_path)
    yield cluster
    cluster.store.close()


@pytest.fixture
def sealed(cluster: Cluster, volume: Callable[..., VolumeRecord]) -> VolumeRecord:
    """A record with a secret in it."""
    auth = {"provider_auth": "CHAP user password-of-a-target"}
    made = volume(str(uuid.uuid4()), phase=Phase.AVAILABLE, provider=auth)
    return cluster.store.put(made)


def connection(context: dict[str, str]) -> ConnectionRecord:
    return ConnectionRecord(
        id=str(uuid.uuid4()),
        volume_id=str(uuid.uuid4()),
        backend="main",
        phase=Phase.ATTACHED,
        cinder_id=str(uuid.uuid4()),
        created_at=1.0,
        node_id="n",
        publish_context=context,
    )


def test_a_records_key_stays_until_every_record_is_sealed_anew(cluster, sealed):
    old = cluster.rotate("records")
    before = cluster.ring("records")
    assert f"records: key {old} stays, records sealed with it: 1" in cluster.keys("prune")
    assert cluster.ring("records") == before
    (of_old,) = [each.split() for each in cluster.keys("show").splitlines() if old in each]
    assert of_old[-1] == "1"
    cluster.store.put(sealed)  # as the next leader does with all of them
    assert f"records: key {old} removed" in cluster.keys("prune")
    assert set(cluster.ring("records").keys) == {before.current}


def test_a_transport_key_stays_while_a_volume_is_published_with_it(cluster):
    published = cluster.store.put(connection(cluster.context("v")))
    old = cluster.rotate("transport")
    told = cluster.keys("prune", "--ring", "transport")
    assert f"transport: key {old} stays, volumes published with it: 1" in told
    cluster.store.delete(published)
    assert f"transport: key {old} removed" in cluster.keys("prune")


def test_a_transport_key_stays_for_an_attachment_whose_connection_is_gone(cluster, apiserver):
    context = cluster.context("v")
    attachments = "/apis/storage.k8s.io/v1/volumeattachments"
    name = f"at-{uuid.uuid4()}"
    spec = {
        "attacher": cluster.driver,
        "nodeName": "n",
        "source": {"persistentVolumeName": "pv"},
    }
    item = {"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment"}
    apiserver.admin.create(attachments, {**item, "metadata": {"name": name}, "spec": spec})
    status = {"status": {"attached": True, "attachmentMetadata": context}}
    apiserver.admin.patch(f"{attachments}/{name}/status", status)
    old = cluster.rotate("transport")
    assert f"transport: key {old} stays" in cluster.keys("prune")
    apiserver.admin.delete(f"{attachments}/{name}")
    assert f"transport: key {old} removed" in cluster.keys("prune")


def test_right_after_a_rotation_nothing_is_pruned(cluster):
    cluster.rotate("transport", now=time.time())
    before = cluster.ring("transport")
    assert "prune ten minutes later" in cluster.keys("prune", code=2)
    assert cluster.ring("transport") == before


def test_rings_of_another_cluster_are_told_apart(cluster, sealed, tmp_path):
    cluster.rotate("records")
    cluster.rings = make_keys(tmp_path / "others")
    cluster.rotate("records")
    before = cluster.ring("records")
    for command in ("prune", "show"):
        assert "records.json here does not have" in cluster.keys(command, code=2)
    assert cluster.ring("records") == before


def test_a_driver_without_records_is_not_taken_for_one_that_needs_no_key(cluster):
    cluster.rotate("records")
    before = cluster.ring("records")
    told = cluster.keys("prune", code=2, driver="misspelt.example.com")
    assert "no records of the driver misspelt.example.com" in told
    assert cluster.ring("records") == before


def test_orphans_of_a_cluster_are_listed_and_forgotten_there(cluster, sealed):
    orphan = OrphanRecord(
        id=str(uuid.uuid4()),
        kind="volume",
        backend="main",
        name="pvc-1",
        csi_id=sealed.id,
        since=1.0,
        reason="its deletion proves nothing",
    )
    cluster.store.put(orphan)
    told = cluster.run("orphans")
    assert orphan.id in told
    assert "its deletion proves nothing" in told
    refused = cluster.run("orphans", "--forget", orphan.id, code=2)
    assert f"kubectl delete cinderorphans {orphan.id}" in refused
