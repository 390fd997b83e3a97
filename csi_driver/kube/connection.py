"""Where the API server is and who this process is there.

Made by ``cli`` (from the Pod's service account, or from a kubeconfig file) and used by
:class:`csi_driver.kube.api.Api`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from csi_driver.base.errors import ConfigurationError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where kubelet puts token, CA and namespace of a Pod's service account."""


@dataclass(frozen=True)
class Connection:
    """How the API server is reached.

    ``authorization`` gives the value of that header, '' for none; it is asked for every
    request, because kubelet replaces tokens while a Pod runs.  The files are PEM;
    ``namespace`` is this process's own, for Leases and Events.
    """

    server: str
    namespace: str
    authorization: Callable[[], str]
    ca_file: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None


def in_cluster(
    directory: Path = SERVICE_ACCOUNT, environment: Mapping[str, str] = os.environ
) -> Connection:
    """The connection of a Pod, by its service account.

    :raises ConfigurationError: this process does not run in a Pod that has one.
    """
    host = environment.get("KUBERNETES_SERVICE_HOST", "")
    port = environment.get("KUBERNETES_SERVICE_PORT", "")
    try:
        namespace = (directory / "namespace").read_text("ascii").strip()
        token = _TokenFile(directory / "token")
        token()
    except OSError as error:
        raise ConfigurationError(
            f"There is no service account to reach the Kubernetes API with: {error}",
            advice="Run in a Pod with automountServiceAccountToken, or name a --kubeconfig",
        ) from error
    if not host or not port:
        raise ConfigurationError(
            "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set",
            advice="Run in a Pod, or name a --kubeconfig",
        )
    return Connection(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        namespace=namespace,
        authorization=token,
        ca_file=str(directory / "ca.crt"),
    )


class _TokenFile:
    """A bearer token that is replaced in its file; read again when the file changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Replaced as one, so that threads need no lock.
        self._known: tuple[int, str] = (0, "")

    def __call__(self) -> str:
        changed = self._path.stat().st_mtime_ns
        if self._known[0] != changed:
            self._known = changed, "Bearer " + self._path.read_text("ascii").strip()
        return self._known[1]
