"""Controller and node do all that they do with the roles of the manifests, and use all of them.

A whole life with disturbances, in a cluster of its own whose API server logs every request:
nothing was forbidden, and no rule is there that no request needed.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from csi_driver.base.values import GIB
from csi_driver.cinderlib.persistence.kubernetes import schemas
from csi_driver.cinderlib.persistence.kubernetes.resources import RESOURCES
from csi_driver.cinderlib.persistence.kubernetes.store import KubernetesStore
from csi_driver.cinderlib.persistence.records import TombstoneRecord
from csi_driver.config import BackendSettings
from csi_driver.kube.api import Api
from csi_driver.kube.group import collection
from csi_driver.rpc._generated import administration_pb2
from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc._generated.administration_pb2_grpc import AdministrationStub
from tests.cluster import accounts, audit
from tests.cluster.apiserver import ADMIN_TOKEN, ApiServer
from tests.cluster.binaries import Binaries
from tests.cluster.fault_proxy import PASS, FaultProxy, Verdict
from tests.cluster.plugin import make_keys, plugin
from tests.support import leftovers
from tests.support.calls import WAIT, Calls
from tests.support.driver_process import DriverProcess
from tests.support.waiting import wait_until

pytestmark = pytest.mark.root
DRIVER = "privileges.example.com"
NODE = "n1"
RECORDS = {each.plural for each in RESOURCES}


class LoseFirst:
    """Loses the answer to the first write of each verb and kind of record."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: set[tuple[str, str]] = set()

    def __call__(self, verb: str, path: str) -> Verdict:
        plural = path.removeprefix(collection("")).partition("/")[0]
        if verb not in ("POST", "PUT", "DELETE") or plural not in RECORDS:
            return PASS
        with self._lock:
            kind = (verb, plural)
            first = kind not in self._seen
            self._seen.add(kind)
        return Verdict(lose=True) if first else PASS


class Life:
    """The processes, and what happens to them."""

    def __init__(self, server: ApiServer, directory: Path) -> None:
        self.server = server
        self._directory = directory
        self._keys = make_keys(directory / "keys")
        self._go_on = directory / "go-on"
        self._go_on.touch()
        options = {
            "double_directory": str(directory / "files"),
            "double_hold": f"create_volume:before:{self._go_on}",
            "double_by_provider": "True",
        }
        backend = BackendSettings(
            name="default", driver="tests.doubles.driver.DoubleDriver", options=options
        )
        backends = directory / "backends.json"
        backends.write_bytes(msgspec.json.encode([backend]))
        self.proxy = FaultProxy(server)
        self.proxy.judge = LoseFirst()
        self.controller = self._plugin(
            "controller",
            proxy=self.proxy,
            arguments=("--takeover-grace=1",),
            command=(sys.executable, "-m", "tests.support.serve_backend", str(backends)),
        )

    def _plugin(self, role: str, **options: object) -> DriverProcess:
        place = self._directory / role
        return plugin(self.server, place, role, NODE, driver=DRIVER, keys=self._keys, **options)

    def close(self) -> None:
        if self.controller.is_running():
            self.controller.kill()
        self.proxy.close()

    def begins_without_a_lease(self) -> None:
        """As in a cluster where the driver was never installed."""
        leases = f"/apis/coordination.k8s.io/v1/namespaces/{accounts.NAMESPACE}/leases"
        self.server.admin.delete(f"{leases}/{DRIVER}")

    def of_a_node(self) -> None:
        """It registers, and its facts change."""
        for limit in (7, 8):
            with self._plugin("node", arguments=(f"--max-volumes-per-node={limit}",)):
                pass

    def of_a_volume(self) -> None:
        """All calls, one after the other."""
        with self._plugin("node") as node, Calls(self.controller) as calls, Calls(node) as on_node:
            volume_id = calls.create("data").volume_id
            cut = calls.snapshot(volume_id, "cut").snapshot_id
            context = calls.publish(volume_id, NODE)
            self._stage(on_node, volume_id, context)
            # As if less had been proved of it: the next stage confirms more.
            confirmation = f"{collection('cinderconfirmations')}/{volume_id}"
            self.server.admin.patch(confirmation, {"spec": {"state": "unknown"}})
            self._stage(on_node, volume_id, context)
            calls.unpublish(volume_id, NODE)
            wish = administration_pb2.RevertVolumeRequest(volume_id=volume_id, snapshot_id=cut)
            AdministrationStub(calls.channel).RevertVolume(wish, timeout=WAIT)
            calls.delete_snapshot(cut)
            larger = pb.CapacityRange(required_bytes=2 * GIB)
            expand = pb.ControllerExpandVolumeRequest(volume_id=volume_id, capacity_range=larger)
            calls.controller.ControllerExpandVolume(expand, timeout=WAIT)
            calls.delete(volume_id)
            calls.delete(calls.create("data").volume_id)

    def _stage(self, on_node: Calls, volume_id: str, context: dict[str, str]) -> None:
        staging = self._directory / "staging"
        staging.mkdir(exist_ok=True)
        on_node.stage(volume_id, context, str(staging))
        on_node.unstage(volume_id, str(staging))

    def killed_amid_a_create(self) -> None:
        """The backend works, and nobody will ever know its answer."""
        entered = Path(f"{self._go_on}.entered")
        entered.unlink()
        self._go_on.unlink()
        with Calls(self.controller) as calls:
            lost = calls.controller.CreateVolume.future(calls.create_request("lost"), timeout=WAIT)
            wait_until("the backend works", entered.exists)
            self.controller.kill()
            assert lost.exception(WAIT) is not None
        self._go_on.touch()

    def restarted(self, incarnation: int) -> None:
        """The next controller, which finds an old tombstone, and what the one before left."""
        with closing(KubernetesStore(Api(self.server.connection(ADMIN_TOKEN)), DRIVER)) as store:
            old = TombstoneRecord(id=f"old-{incarnation}", incarnation=incarnation, deleted_at=1.0)
            store.put(old)
        with self.controller:
            wait_until("the old tombstone is gone", lambda: old.id not in self._ids("tombstones"))
            wait_until("what may come late was looked for", lambda: not self._ids("lateattempts"))

    def _ids(self, kind: str) -> set[str]:
        items, _ = self.server.admin.list(collection(f"cinder{kind}"))
        return {each["spec"]["id"] for each in items}


@pytest.fixture(scope="module")
def server(programs: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    directory = tmp_path_factory.mktemp("audited")
    server = ApiServer(programs, directory, audit.start_audit(directory))
    try:
        server.start()
        server.apply(*schemas.definitions())
        accounts.install(server)
        accounts.add_node(server, NODE)
        yield server
    finally:
        server.stop()


@pytest.fixture
def life(server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    directory = tmp_path_factory.mktemp("p")
    life = Life(server, directory)
    yield life
    life.close()
    leftovers.release(directory)


def test_the_roles_are_enough_and_nothing_in_them_is_too_much(life: Life):
    life.begins_without_a_lease()
    life.of_a_node()
    life.controller.start()
    life.of_a_volume()
    life.killed_amid_a_create()
    life.restarted(incarnation=1)
    life.restarted(incarnation=9)

    made = audit.asked(life.server.directory)
    forbidden = {each for each in made if each.code in (401, 403)}
    assert forbidden == set()
    allowed = audit.granted(accounts.manifests())
    assert allowed.keys() == {"cinder-csi-controller", "cinder-csi-node"}
    for account, privileges in allowed.items():
        used = {each.privilege for each in made if each.account == account}
        assert used, f"{account} asked for nothing: the log is not read right"
        needless = [p for p in privileges if not any(audit.covers(p, u) for u in used)]
        assert sorted(needless) == [], account


def test_no_rule_has_a_wildcard():
    everything = {p for each in audit.granted(accounts.manifests()).values() for p in each}
    assert [p for p in everything if "*" in (p.group, p.resource, p.verb, p.name)] == []
    secrets = [p for p in everything if p.resource in ("secrets", "pods", "serviceaccounts")]
    assert secrets == []
