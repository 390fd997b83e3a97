"""Kubernetes' controllers and the CSI sidecars, as processes beside a real API server.

The controller manager binds claims and begins expansions; provisioner, attacher,
snapshotter and resizer speak to a plugin's socket.  There is no kubelet and no scheduler:
tests make Node, CSINode and VolumeAttachment objects themselves.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from csi_driver.kube.api import Object
from tests.cluster.apiserver import ApiServer
from tests.cluster.binaries import Binaries

CONTROLLERS = (
    "persistentvolume-binder-controller",
    "persistentvolume-expander-controller",
    "persistentvolumeclaim-protection-controller",
    "persistentvolume-protection-controller",
    "volumeattributesclass-protection-controller",
)


class Processes:
    """Programs that run beside a test, each with a log; ended by :meth:`stop`."""

    def __init__(self, programs: Binaries, directory: Path) -> None:
        self._programs = programs
        self._directory = directory
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, program: str, *arguments: str) -> None:
        with (self._directory / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [self._programs[program], *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self, name: str) -> None:
        process = self._running.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()

    def ended(self, name: str) -> bool:
        """Whether a program that was started is not there any more."""
        return self._running[name].poll() is not None

    def require_running(self) -> None:
        """Fail with the log of a program that has ended by itself."""
        for name, process in self._running.items():
            assert process.poll() is None, f"{name} ended:\n{self.log(name)}"

    def stop(self) -> None:
        for name in list(self._running):
            self.kill(name)

    def log(self, name: str) -> str:
        return (self._directory / f"{name}.log").read_text(errors="replace")[-6000:]

    def logs(self) -> dict[str, str]:
        """The end of every program's log, by name; of those that were ended too."""
        return {path.stem: self.log(path.stem) for path in sorted(self._directory.glob("*.log"))}


def start_controllers(processes: Processes, server: ApiServer) -> None:
    """The controller manager, with what volumes need of it, and the snapshot controller."""
    processes.start(
        "kube-controller-manager",
        "kube-controller-manager",
        f"--kubeconfig={server.kubeconfig}",
        "--bind-address=127.0.0.1",
        "--secure-port=0",
        "--leader-elect=false",
        f"--controllers={','.join(CONTROLLERS)}",
        "--pvclaimbinder-sync-period=1s",
        f"--root-ca-file={server.directory / 'ca.crt'}",
        f"--service-account-private-key-file={server.directory / 'sa.key'}",
    )
    processes.start(
        "snapshot-controller", "snapshot-controller", f"--kubeconfig={server.kubeconfig}"
    )


def start_sidecars(processes: Processes, server: ApiServer, endpoint: str, of: str = "") -> None:
    """The four sidecars of one replica; ``of`` tells replicas apart."""
    start_provisioner(processes, server, endpoint, of)
    for name in ("csi-attacher", "csi-snapshotter", "csi-resizer"):
        processes.start(f"{name}{of}", name, *_common(server, endpoint), *_RETRIES)


def start_provisioner(processes: Processes, server: ApiServer, endpoint: str, of: str = "") -> None:
    """The provisioner of one replica."""
    processes.start(
        f"csi-provisioner{of}",
        "csi-provisioner",
        *_common(server, endpoint),
        *_RETRIES,
        "--extra-create-metadata",
        "--feature-gates=Topology=true",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
        "--worker-threads=32",
    )


_RETRIES = ("--retry-interval-start=500ms", "--retry-interval-max=2s")


def _common(server: ApiServer, endpoint: str) -> tuple[str, ...]:
    return (
        f"--kubeconfig={server.kubeconfig}",
        f"--csi-address={endpoint.removeprefix('unix://')}",
        "--timeout=30s",
    )


def stop_sidecars(processes: Processes, of: str = "") -> None:
    """End the sidecars of one replica, as its Pod's end does."""
    for name in ("csi-provisioner", "csi-attacher", "csi-snapshotter", "csi-resizer"):
        processes.kill(f"{name}{of}")


# -- objects --------------------------------------------------------------------------


def csi_driver(name: str) -> Object:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSIDriver",
        "metadata": {"name": name},
        "spec": {"attachRequired": True, "podInfoOnMount": False},
    }


def storage_class(name: str, driver: str, **parameters: str) -> Object:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name},
        "provisioner": driver,
        "parameters": parameters,
        "allowVolumeExpansion": True,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    }


def snapshot_class(name: str, driver: str) -> Object:
    return {
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshotClass",
        "metadata": {"name": name},
        "driver": driver,
        "deletionPolicy": "Delete",
    }


def csi_node(node: str, driver: str, topology: str) -> Object:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSINode",
        "metadata": {"name": node},
        "spec": {"drivers": [{"name": driver, "nodeID": node, "topologyKeys": [topology]}]},
    }


def claim(name: str, storage_class: str, size: str = "1Gi", source: Object | None = None) -> Object:
    spec: Object = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": storage_class,
        "resources": {"requests": {"storage": size}},
    }
    if source is not None:
        spec["dataSource"] = source
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


def snapshot(name: str, snapshot_class: str, claim_name: str) -> Object:
    return {
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshot",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "volumeSnapshotClassName": snapshot_class,
            "source": {"persistentVolumeClaimName": claim_name},
        },
    }


def attachment(name: str, driver: str, node: str, volume: str) -> Object:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "VolumeAttachment",
        "metadata": {"name": name},
        "spec": {
            "attacher": driver,
            "nodeName": node,
            "source": {"persistentVolumeName": volume},
        },
    }
