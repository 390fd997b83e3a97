"""The bed of the crash tests with its records in Kubernetes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from csi_driver.kube.group import of_driver
from csi_driver.kube.node_objects import CONFIRMATIONS
from tests.cluster.accounts import free_lease
from tests.cluster.apiserver import ApiServer
from tests.cluster.kept import kept
from tests.cluster.plugin import make_keys, plugin
from tests.crash.bed import Bed
from tests.crash.requests import NODE
from tests.support.driver_process import DriverProcess


class ClusterBed(Bed):
    """A controller and a node that know each other by the API server alone."""

    GRACES: tuple[str, ...] = ("--takeover-attach-grace=0.5",)
    """How long the next controller reckons with calls of the one that was killed."""

    def __init__(self, server: ApiServer, directory: Path, driver: str) -> None:
        self._server = server
        self._name = f"{directory.name}.example.com"
        self._keys = make_keys(directory / "keys")
        super().__init__(directory, driver)

    def make_process(self, role: str, **options: Any) -> DriverProcess:
        return plugin(
            *(self._server, self.directory / role, role, NODE),
            driver=self._name,
            keys=self._keys,
            arguments=(*options.pop("arguments"), *(self.GRACES if role == "controller" else ())),
            **options,
        )

    def start(self, role: str) -> None:
        self._free_lease(role)
        super().start(role)

    def spawn(self, role: str) -> None:
        """Start a process that may end before it is ready."""
        self._free_lease(role)
        self.processes[role].spawn()

    def _free_lease(self, role: str) -> None:
        if role == "controller":
            # The process is dead, which only the test knows: nobody need wait for the Lease.
            free_lease(self._server, self._name)

    def kept(self, kind: str) -> list[dict[str, Any]]:
        return kept(self._server, self._name, kind)

    def confirmations(self) -> frozenset[str]:
        found, _ = self._server.admin.list(CONFIRMATIONS, of_driver(self._name))
        return frozenset(item["metadata"]["name"] for item in found)


class ShortGraceBed(ClusterBed):
    """A bed in which calls of an earlier controller count as ended after a second."""

    GRACES = ("--takeover-grace=1", "--takeover-attach-grace=0.5")
