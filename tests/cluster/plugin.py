"""The plugin's processes with their records in Kubernetes, as the manifests would run them."""

from __future__ import annotations

from pathlib import Path

from csi_driver.base.sealing import load_or_create
from tests.cluster.accounts import NAMESPACE, free_lease, token
from tests.cluster.apiserver import ApiServer
from tests.cluster.fault_proxy import FaultProxy
from tests.support.driver_process import DriverProcess


def make_keys(directory: Path) -> Path:
    """The directory of key rings that all replicas and nodes share, as a mounted Secret."""
    for name in ("records.json", "transport.json"):
        load_or_create(directory / name)
    return directory


def plugin(
    server: ApiServer,
    directory: Path,
    role: str,
    node: str,
    *,
    driver: str,
    keys: Path,
    account: str = "",
    proxy: FaultProxy | None = None,
    arguments: tuple[str, ...] = (),
    **options: object,
) -> DriverProcess:
    """A controller replica or the plugin of a node, not started; ``node`` is where it runs.

    Speaks to the API server with the token of its own service account, through a proxy if
    one is given.  The driver was installed before: its Lease is there.
    """
    if role != "node":
        free_lease(server, driver, taken=False)
    directory.mkdir(parents=True, exist_ok=True)
    kubeconfig = server.write_kubeconfig(
        directory / "kubeconfig",
        token(server, account or f"cinder-csi-{role}", node),
        NAMESPACE,
        proxy.connection().server if proxy else "",
    )
    return DriverProcess(
        directory,
        role=role,
        store="kubernetes",
        node_id=node,
        arguments=[
            f"--kubeconfig={kubeconfig}",
            f"--keys-dir={keys}",
            f"--driver-name={driver}",
            *arguments,
        ],
        **options,
    )


def share_volumes(first: Path, second: Path) -> None:
    """Give two replicas of these directories one volume directory, as replicas have one array."""
    volumes = first / "state" / "volumes"
    volumes.mkdir(parents=True, mode=0o700, exist_ok=True)
    state = second / "state"
    state.mkdir(parents=True, mode=0o700, exist_ok=True)
    (state / "volumes").symlink_to(volumes)
