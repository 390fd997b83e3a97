"""A cluster with volumes: API server, controllers, sidecars, and the plugin on one node.

Everything that an administrator installs, and everything that Kubernetes runs, but for
kubelet and the scheduler.  Tests make claims, snapshots and attachments in it and wait
for what becomes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from csi_driver.kube.api import Object
from csi_driver.kube.group import collection, of_driver
from tests.cluster import sidecars, watching
from tests.cluster.accounts import install
from tests.cluster.apiserver import ApiServer
from tests.cluster.binaries import Binaries
from tests.cluster.kubelet import ATTACHMENTS, Kubelet, Mounted
from tests.cluster.plugin import make_keys, plugin
from tests.support import state
from tests.support.driver_process import DriverProcess

CLAIMS = "/api/v1/namespaces/default/persistentvolumeclaims"
VOLUMES = "/api/v1/persistentvolumes"
SNAPSHOTS = "/apis/snapshot.storage.k8s.io/v1/namespaces/default/volumesnapshots"
CONTENTS = "/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents"

STORAGE_CLASS = "fast"
SNAPSHOT_CLASS = "fast-snapshots"
NODE = "n1"
RECORDS = ("cindervolumes", "cindersnapshots", "cinderconnections", "cinderconfirmations")


class VolumeCluster:
    """Started by :meth:`start`, ended by :meth:`stop`, whatever of it runs.

    :param directory: for sockets, logs and volumes; its path is short.
    """

    def __init__(self, server: ApiServer, programs: Binaries, directory: Path, driver: str) -> None:
        self.server = server
        self.driver = driver
        self._programs = programs
        self._directory = directory
        self.keys = make_keys(directory / "keys")
        # The plugins' tokens are of service accounts, which are installed first.
        install(server)
        server.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
        self.controller = self._plugin("controller", "c")
        self.node = self._plugin("node", "n")
        (directory / "logs").mkdir()
        self.processes = sidecars.Processes(programs, directory / "logs")
        self.kubelet = Kubelet(server, NODE, driver, self.node.socket, directory / "kubelet")

    def start(self) -> None:
        """Register the node, and run everything."""
        for path in self._programs.snapshot_crds:
            self.server.apply(*yaml.safe_load_all(path.read_text()))
        self.node.start()
        self.controller.start()
        # Before claims: who finds no class, or no node of a topology, waits long.
        self.kubelet.register()
        fs_type = {"csi.storage.k8s.io/fstype": "xfs"}
        self.server.apply(
            sidecars.csi_driver(self.driver),
            sidecars.storage_class(STORAGE_CLASS, self.driver, **fs_type),
            sidecars.snapshot_class(SNAPSHOT_CLASS, self.driver),
        )
        sidecars.start_controllers(self.processes, self.server)
        sidecars.start_sidecars(self.processes, self.server, self.controller.endpoint)

    def stop(self) -> None:
        """End what runs; mounts of a test that failed stay."""
        self.processes.stop()
        self.kubelet.close()
        for each in (self.controller, self.node):
            if each.is_running():
                each.stop()

    def logs(self) -> dict[str, str]:
        """The ends of all logs, by the program's name."""
        return {
            **self.processes.logs(),
            "controller plugin": self.controller.logs()[-6000:],
            "node plugin": self.node.logs()[-6000:],
            "kube-apiserver": self.server.log(),
        }

    # -- waiting -----------------------------------------------------------------

    def until(self, path: str, what: str, true: Callable[[Object], Any]) -> Object:
        """Wait until an object is there and as wanted."""
        item = watching.until(
            self.server.admin,
            path,
            what,
            lambda each: each is not None and bool(true(each)),
            alive=self.processes.require_running,
        )
        assert item is not None
        return item

    def until_gone(self, path: str) -> None:
        """Wait until an object is not there any more."""
        watching.until(
            self.server.admin,
            path,
            "it is gone",
            lambda each: each is None,
            alive=self.processes.require_running,
        )

    # -- what users do -------------------------------------------------------------

    def bound(self, name: str, size: str = "1Gi", source: Object | None = None) -> Object:
        """Make a claim, and wait for its volume; answers the PersistentVolume."""
        self.server.apply(sidecars.claim(name, STORAGE_CLASS, size, source))
        claim = self.until(
            f"{CLAIMS}/{name}", "Bound", lambda each: each["status"].get("phase") == "Bound"
        )
        return self.server.admin.get(f"{VOLUMES}/{claim['spec']['volumeName']}")

    def snapshot(self, name: str, claim: str) -> Object:
        """Make a snapshot of a claim, and wait until it is ready; answers its content."""
        self.server.apply(sidecars.snapshot(name, SNAPSHOT_CLASS, claim))
        ready = self.until(
            f"{SNAPSHOTS}/{name}",
            "ready to use",
            lambda each: (each.get("status") or {}).get("readyToUse"),
        )
        return self.server.admin.get(
            f"{CONTENTS}/{ready['status']['boundVolumeSnapshotContentName']}"
        )

    def attach(self, volume: Object) -> Object:
        """Attach a PersistentVolume to the node; answers the VolumeAttachment."""
        name = f"at-{volume['metadata']['name']}"
        self.server.apply(sidecars.attachment(name, self.driver, NODE, volume["metadata"]["name"]))
        return self.until(
            f"{ATTACHMENTS}/{name}",
            "attached",
            lambda each: (each.get("status") or {}).get("attached"),
        )

    def detach(self, volume: Object) -> None:
        """Detach it again, as the attach controller does when no Pod needs it."""
        path = f"{ATTACHMENTS}/at-{volume['metadata']['name']}"
        self.server.admin.delete(path)
        self.until_gone(path)

    @contextmanager
    def used(self, volume: Object) -> Iterator[Mounted]:
        """A PersistentVolume attached and mounted, as a Pod has it."""
        attachment = self.attach(volume)
        with self.kubelet.mounted(volume, attachment) as mounted:
            yield mounted
        self.detach(volume)

    def delete_claim(self, name: str, volume: Object) -> None:
        """Delete a claim, and wait until the volume that it had is gone."""
        self.server.admin.delete(f"{CLAIMS}/{name}")
        self.until_gone(f"{VOLUMES}/{volume['metadata']['name']}")

    def delete_snapshot(self, name: str, content: Object) -> None:
        """Delete a snapshot, and wait until its content is gone."""
        self.server.admin.delete(f"{SNAPSHOTS}/{name}")
        self.until_gone(f"{CONTENTS}/{content['metadata']['name']}")

    # -- what is there ---------------------------------------------------------------

    def left(self) -> dict[str, list[str]]:
        """Names of what there is of volumes, by kind: in the API, and files of the backend."""
        admin = self.server.admin
        found = {
            plural: admin.list(collection(plural), of_driver(self.driver))[0] for plural in RECORDS
        }
        for path in (CLAIMS, VOLUMES, SNAPSHOTS, CONTENTS, ATTACHMENTS):
            found[path.rpartition("/")[2]] = admin.list(path)[0]
        names = {
            kind: [item["metadata"]["name"] for item in items] for kind, items in found.items()
        }
        names["files"] = sorted(state.backend_files(self.controller.state_directory))
        return {kind: each for kind, each in names.items() if each}

    def _plugin(self, role: str, short: str) -> DriverProcess:
        return plugin(
            self.server,
            self._directory / short,
            role,
            NODE,
            driver=self.driver,
            keys=self.keys,
        )
