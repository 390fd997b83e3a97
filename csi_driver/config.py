"""Configuration as typed, validated, immutable objects.

Made by ``cli`` from flags and environment variables; read by whoever puts the
parts together.  Without any configuration the embedded default holds: one
``file`` backend and a SQLite store below one state directory.
"""

from __future__ import annotations

import math
import os
import re
import socket
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from csi_driver.base.errors import ConfigurationError

DRIVER_NAME = "csi.cinderlib.io"

FILE_DRIVER = "csi_driver.drivers.file.FileVolumeDriver"


class Role(StrEnum):
    """Which CSI services the process serves, beside Identity."""

    ALL = "all"
    CONTROLLER = "controller"
    NODE = "node"

    @property
    def controller(self) -> bool:
        """Whether the Controller service is served."""
        return self is not Role.NODE

    @property
    def node(self) -> bool:
        """Whether the Node service is served."""
        return self is not Role.CONTROLLER


class StoreKind(StrEnum):
    """Where records are kept."""

    MEMORY = "memory"
    DB = "db"
    KUBERNETES = "kubernetes"


class Hidden(str):
    """Text with a secret in it, that no ``repr`` shows."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Only whether there is one."""
        return "'***'" if self else "''"


class LogLevel(StrEnum):
    """What is logged: this and what is more serious."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class BackendSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A backend: its name, the Cinder driver class and that driver's options.

    An option's value has the type that it has in Cinder, or is the text that cinder.conf
    would have for it.
    """

    name: str
    driver: str
    options: dict[str, Any] = {}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What ``cinder-csi serve`` runs with.

    ``store_url`` is a PostgreSQL database for a ``db`` store; '' for SQLite in ``state_dir``.
    ``kubeconfig`` says how the API server is reached when records are in Kubernetes; None:
    as a Pod.  ``keys_dir`` holds the key rings; None: the state directory does.
    ``max_volumes`` 0 means no limit; ``drain_seconds`` is how long running work
    is waited for at SIGTERM.  ``takeover_grace`` is how long, in seconds, calls of an earlier
    controller may still run, ``takeover_attach_grace`` the same of attaches and detaches.
    ``health_port`` 0: no HTTP endpoints.  ``configured`` are the backends of a configuration
    file, none for the embedded default, and ``cinder_options`` options of cinder.conf's [DEFAULT].
    """

    state_dir: Path
    endpoint: str
    node_id: str
    role: Role = Role.ALL
    store: StoreKind = StoreKind.DB
    store_url: Hidden = Hidden()
    kubeconfig: Path | None = None
    keys_dir: Path | None = None
    driver_name: str = DRIVER_NAME
    max_volumes: int = 0
    drain_seconds: float = 25.0
    takeover_grace: float = 900.0
    takeover_attach_grace: float = 60.0
    health_port: int = 0
    health_address: str = "0.0.0.0"
    configured: tuple[BackendSettings, ...] = ()
    cinder_options: dict[str, Any] = {}

    @property
    def transport_keys(self) -> Path:
        """The file of the keys that seal the publish_context; controller and nodes have it."""
        return (self.keys_dir or self.state_dir / "keys") / "transport.json"

    @property
    def records_keys(self) -> Path:
        """The file of the keys that seal secrets in records; only controllers have it."""
        return (self.keys_dir or self.state_dir / "keys") / "records.json"

    @property
    def shares_keys(self) -> bool:
        """Whether the key rings are copies that other processes have too: those of a Secret."""
        return self.keys_dir is not None

    @property
    def grace_seconds(self) -> float:
        """How long another controller may still work on what it began.

        None can where the lock of a file proves that the other process is dead.
        """
        return self.takeover_grace if self._shares_records else 0.0

    @property
    def attach_grace_seconds(self) -> float:
        """As :attr:`grace_seconds`, of attaches and detaches."""
        return self.takeover_attach_grace if self._shares_records else 0.0

    @property
    def _shares_records(self) -> bool:
        return self.store is StoreKind.KUBERNETES or bool(self.store_url)

    @property
    def topology_key(self) -> str:
        """The topology key of a node's own segment."""
        return f"topology.{self.driver_name}/node"

    def backends(self) -> tuple[BackendSettings, ...]:
        """The backends: those that are configured, else the embedded default."""
        if self.configured:
            return self.configured
        directory = self.state_dir / "volumes"
        return (
            BackendSettings(
                name="file",
                driver=FILE_DRIVER,
                options={"file_volume_directory": str(directory)},
            ),
        )


def default_state_dir() -> Path:
    """Where state is kept when nobody says: the system's place for root, else the user's."""
    if os.geteuid() == 0:
        return Path("/var/lib/cinder-csi")
    base = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(base) / "cinder-csi"


def default_node_id() -> str:
    """This machine's host name."""
    return socket.gethostname()


_PLUGIN_NAME = re.compile(r"[a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?")


def validated(settings: Settings) -> Settings:
    """The settings, if they can be used.

    :raises ConfigurationError: says which flag is wrong and what would be right.
    """
    if not settings.state_dir.is_absolute():
        raise ConfigurationError(f"--state-dir {settings.state_dir} is not an absolute path")
    if not 1 <= len(settings.driver_name) <= 63 or not _PLUGIN_NAME.fullmatch(settings.driver_name):
        raise ConfigurationError(
            f"--driver-name {settings.driver_name!r} is no CSI plugin name",
            advice="At most 63 letters, digits, dots and dashes, in domain name notation",
        )
    # A topology value has 63 characters, and the node id is one.
    if not 1 <= len(settings.node_id) <= 63 or not _PLUGIN_NAME.fullmatch(settings.node_id):
        raise ConfigurationError(
            f"--node-id {settings.node_id!r} cannot be a node id",
            advice="At most 63 letters, digits, dots and dashes",
        )
    if settings.store_url and settings.store is not StoreKind.DB:
        raise ConfigurationError(
            f"--store {settings.store} has no URL", advice="Use --store db with a --store-url"
        )
    for flag, value in (("--kubeconfig", settings.kubeconfig), ("--keys-dir", settings.keys_dir)):
        if value and settings.store is not StoreKind.KUBERNETES:
            raise ConfigurationError(f"{flag} is for --store kubernetes only")
    if settings.max_volumes < 0:
        raise ConfigurationError("--max-volumes-per-node is negative", advice="0 means no limit")
    for flag, seconds in (
        ("--drain-seconds", settings.drain_seconds),
        ("--takeover-grace", settings.takeover_grace),
        ("--takeover-attach-grace", settings.takeover_attach_grace),
    ):
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ConfigurationError(
                f"{flag} {seconds} is no time to wait", advice="Seconds, 0 or more"
            )
    if not 0 <= settings.health_port <= 65535:
        raise ConfigurationError(
            f"--health-port {settings.health_port} is no port", advice="1 to 65535; 0 for none"
        )
    return settings
