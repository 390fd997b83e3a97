"""Leaders that are killed while claims are being provisioned: every volume exists exactly once.

Two replicas, each with its own provisioner as in one Pod, over one backend; the real
controller manager binds the claims.  The time from each kill to the next claim that is
bound by the other replica is printed.
"""

from __future__ import annotations

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
from tests.cluster import sidecars
from tests.cluster.accounts import install
from tests.cluster.apiserver import ApiServer
from tests.cluster.binaries import Binaries
from tests.cluster.kubelet import Kubelet
from tests.cluster.plugin import make_keys, plugin
from tests.cluster.volume_cluster import CLAIMS, VOLUMES
from tests.support import leftovers
from tests.support.calls import Calls
from tests.support.driver_process import DriverProcess
from tests.support.waiting import wait_until

pytestmark = pytest.mark.root
DRIVER = "takeover.example.com"
NODE = "n1"
STORAGE_CLASS = "takeover"


class Replica:
    """A controller plugin and its provisioner: they begin and end together."""

    def __init__(self, replicas: Replicas, name: str) -> None:
        self._replicas = replicas
        self.name = name
        self.process: DriverProcess = replicas.plugin("controller", name)

    def start(self) -> None:
        self.process.spawn()
        self._replicas.start_provisioner(self.process.endpoint, self.name)

    def kill(self) -> None:
        self.process.kill()
        self._replicas.processes.kill(f"csi-provisioner-{self.name}")

    def leads(self) -> bool:
        with Calls(self.process) as calls:
            return calls.probe() is True


class Replicas:
    """Everything but the workload: API server, controllers, a node, and two replicas."""

    def __init__(self, server: ApiServer, programs: Binaries, directory: Path) -> None:
        self.server = server
        self._directory = directory
        self.files = directory / "volumes"
        self._keys = make_keys(directory / "keys")
        self._config = directory / "backends.yaml"
        # Sparse files, of which nobody writes: more of them than the disk could hold full.
        options = {"file_volume_directory": str(self.files), "max_over_subscription_ratio": "20"}
        backend = {"name": "file", "volume_driver": FILE_DRIVER, "options": options}
        self._config.write_text(yaml.safe_dump({"backends": [backend]}))
        install(server)
        server.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
        (directory / "logs").mkdir()
        self.processes = sidecars.Processes(programs, directory / "logs")
        self.node = self.plugin("node", "n")
        self.replicas = [Replica(self, name) for name in ("a", "b")]

    def plugin(self, role: str, name: str) -> DriverProcess:
        return plugin(
            self.server,
            self._directory / name,
            role,
            NODE,
            driver=DRIVER,
            keys=self._keys,
            arguments=(f"--config={self._config}",) if role == "controller" else (),
        )

    def start_provisioner(self, endpoint: str, name: str) -> None:
        sidecars.start_provisioner(self.processes, self.server, endpoint, f"-{name}")

    def start(self) -> None:
        self.node.start()
        kubelet = Kubelet(self.server, NODE, DRIVER, self.node.socket, self._directory / "kubelet")
        kubelet.register()
        kubelet.close()
        self.server.apply(
            sidecars.csi_driver(DRIVER), sidecars.storage_class(STORAGE_CLASS, DRIVER)
        )
        sidecars.start_controllers(self.processes, self.server)
        for each in self.replicas:
            each.start()
        wait_until("one leads", lambda: any(each.leads() for each in self.replicas))

    def stop(self) -> None:
        self.processes.stop()
        for process in (*(each.process for each in self.replicas), self.node):
            if process.is_running():
                process.stop()

    def leader_first(self) -> tuple[Replica, Replica]:
        first, second = self.replicas
        return (first, second) if first.leads() else (second, first)

    # -- what is there -----------------------------------------------------------------

    def claims(self) -> list[Object]:
        return [
            each
            for each in self.server.admin.list(CLAIMS)[0]
            if each["spec"].get("storageClassName") == STORAGE_CLASS
        ]

    def bound(self) -> set[str]:
        """The PersistentVolumes that claims are bound to."""
        return {
            each["spec"]["volumeName"]
            for each in self.claims()
            if each["status"].get("phase") == "Bound"
        }

    def records(self) -> list[Object]:
        return self.server.admin.list(collection("cindervolumes"), of_driver(DRIVER))[0]

    def volumes(self) -> dict[str, str]:
        """The CSI id of each PersistentVolume, by name."""
        return {
            each["metadata"]["name"]: each["spec"]["csi"]["volumeHandle"]
            for each in self.server.admin.list(VOLUMES)[0]
            if each["spec"].get("csi", {}).get("driver") == DRIVER
        }

    def backend(self) -> set[str]:
        return {path.name for path in self.files.iterdir()} - {".lock", MARK}


@pytest.fixture
def running(
    apiserver: ApiServer, programs: Binaries, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    directory = tmp_path_factory.mktemp("t")
    replicas = Replicas(apiserver, programs, directory)
    try:
        replicas.start()
        yield replicas
    finally:
        replicas.stop()
        leftovers.release(directory)


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("kills", "claims"), [(2, 60), pytest.param(10, 200, marks=pytest.mark.full)]
)
def test_every_volume_exists_exactly_once_whoever_is_killed(running, kills, claims):
    """A share of the claims is in flight at each kill, and as many come right after it."""
    share = claims // kills // 2
    takeovers = []
    for number in range(kills):
        leader, standby = running.leader_first()
        before = len(running.records())
        make(running, range(2 * number * share, (2 * number + 1) * share))
        wait_until("it works on them", lambda: len(running.records()) > before)  # noqa: B023
        leader.kill()
        # What it made is bound yet: a claim counts whose volume is the other's.
        known, killed = set(running.volumes()), time.monotonic()
        make(running, range((2 * number + 1) * share, 2 * (number + 1) * share))
        wait_until("the other makes one", lambda: running.bound() - known)  # noqa: B023
        takeovers.append(time.monotonic() - killed)
        assert standby.leads()
        leader.start()
    wait_until("all are bound", lambda: len(running.bound()) == claims)
    print(f"takeovers, seconds to the next claim bound: {[round(each, 1) for each in takeovers]}")

    made = running.records()
    assert {each["status"]["phase"] for each in made} == {"available"}
    assert sorted(each["spec"]["id"] for each in made) == sorted(running.volumes().values())
    assert len(made) == claims
    assert running.backend() == {f"volume-{each['status']['cinderID']}" for each in made}

    for claim in running.claims():
        running.server.admin.delete(f"{CLAIMS}/{claim['metadata']['name']}")
    wait_until("all are gone", lambda: not running.volumes() and not running.records())
    assert running.backend() == set()


def make(running: Replicas, numbers: range) -> None:
    claims = [sidecars.claim(f"takeover-{number}", STORAGE_CLASS) for number in numbers]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda each: running.server.admin.create(CLAIMS, each), claims))
