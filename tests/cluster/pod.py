"""The plugin's process as in a Pod: it finds the API server and its token as kubelet gives them.

The process has a mount namespace of its own, in which the directory of a service account
lies where Pods have it.  What it mounts is seen below :func:`inside`.
"""

from __future__ import annotations

from pathlib import Path

from csi_driver.kube.connection import SERVICE_ACCOUNT
from tests.cluster.accounts import NAMESPACE, Pod, pod
from tests.cluster.apiserver import ApiServer
from tests.cluster.fault_proxy import FaultProxy
from tests.support.driver_process import COMMAND, DriverProcess

_ENTER = (
    "unshare",
    "--mount",
    "--propagation=private",
    "sh",
    "-ec",
    # Whatever else is below it, nothing of this machine is changed.
    f'mount -t tmpfs tmpfs /var/run; mkdir -p {SERVICE_ACCOUNT}; mount --bind "$0"'
    f' {SERVICE_ACCOUNT}; exec "$@"',
)


class Account:
    """The directory of a service account, replaced as kubelet does: by one rename."""

    def __init__(self, server: ApiServer, directory: Path, account: str, node: str) -> None:
        self._server = server
        self._account, self._node = account, node
        self._number = 0
        self.directory = directory
        directory.mkdir(parents=True)
        self.pod: Pod = self.renew()
        for name in ("token", "ca.crt", "namespace"):
            (directory / name).symlink_to(f"..data/{name}")

    def renew(self) -> Pod:
        """Give another token, of another Pod; whose token it was before."""
        made = pod(self._server, self._account, self._node)
        before = getattr(self, "pod", made)
        self._number += 1
        content = self.directory / f"..{self._number}"
        content.mkdir()
        (content / "token").write_text(made.token)
        (content / "ca.crt").write_bytes((self._server.directory / "ca.crt").read_bytes())
        (content / "namespace").write_text(NAMESPACE)
        (self.directory / "..new").symlink_to(content.name)
        (self.directory / "..new").rename(self.directory / "..data")
        self.pod = made
        return before


def in_pod(
    server: ApiServer,
    directory: Path,
    role: str,
    node: str,
    *,
    driver: str,
    keys: Path,
    proxy: FaultProxy | None = None,
    arguments: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
) -> tuple[DriverProcess, Account]:
    """The plugin of a Pod, not started, and its service account; needs root."""
    directory.mkdir(parents=True, exist_ok=True)
    account = Account(server, directory / "account", f"cinder-csi-{role}", node)
    url = proxy.connection().server if proxy else server.url
    process = DriverProcess(
        directory,
        role=role,
        store="kubernetes",
        node_id=node,
        command=(*_ENTER, str(account.directory), str(COMMAND), "serve"),
        arguments=(f"--keys-dir={keys}", f"--driver-name={driver}", *arguments),
        environment={
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": url.rpartition(":")[2],
            **(environment or {}),
        },
    )
    return process, account


def inside(process: DriverProcess, path: Path) -> Path:
    """A path as the process sees it, with what it has mounted there."""
    return Path(f"/proc/{process.pid}/root", *path.parts[1:])
