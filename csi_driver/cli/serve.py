"""``cinder-csi serve``: the CSI plugin itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from csi_driver import config_file
from csi_driver.cli import store_options
from csi_driver.cli.store_options import DriverName, Kubeconfig, StoreUrl, StoreUrlFile
from csi_driver.config import (
    DRIVER_NAME,
    LogLevel,
    Role,
    Settings,
    StoreKind,
    default_node_id,
    default_state_dir,
    validated,
)

_PREFIX = "CINDER_CSI_"
"""Of the environment variables; ``CSI_`` itself is reserved by the CSI specification."""


def serve(
    role: Annotated[
        Role,
        typer.Option(
            envvar=_PREFIX + "ROLE",
            help="Services to serve beside Identity: Controller and Node, or one of them.",
        ),
    ] = Role.ALL,
    endpoint: Annotated[
        str,
        typer.Option(
            envvar="CSI_ENDPOINT",
            help="Unix socket, as unix:///path/csi.sock.",
            show_default="unix://STATE-DIR/csi.sock",
        ),
    ] = "",
    state_dir: Annotated[
        Path | None,
        typer.Option(
            envvar=_PREFIX + "STATE_DIR",
            help="Directory for records, keys, node state and the volumes of the embedded"
            " backend. A controller and a node process on one machine share it.",
            show_default="/var/lib/cinder-csi; ~/.local/state/cinder-csi without root",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            envvar=_PREFIX + "CONFIG",
            help="The backends: a YAML file, or a cinder.conf whose enabled_backends count."
            " See docs/configuration.md.",
            show_default="the embedded file backend",
        ),
    ] = None,
    store: Annotated[
        StoreKind,
        typer.Option(
            envvar=_PREFIX + "STORE",
            help="Where records are kept: db is SQLite in the state directory, or PostgreSQL with"
            " --store-url; memory forgets.",
        ),
    ] = StoreKind.DB,
    store_url: StoreUrl = "",
    store_url_file: StoreUrlFile = None,
    kubeconfig: Kubeconfig = None,
    keys_dir: Annotated[
        Path | None,
        typer.Option(
            envvar=_PREFIX + "KEYS_DIR",
            help="Directory of records.json and transport.json, as a mounted Secret has them."
            " Needed where replicas share their records: they share these keys too.",
            show_default="keys in the state directory",
        ),
    ] = None,
    node_id: Annotated[
        str,
        typer.Option(
            envvar=_PREFIX + "NODE_ID",
            help="Name of this node, unique in the cluster.",
            show_default="the host name",
        ),
    ] = "",
    driver_name: DriverName = DRIVER_NAME,
    max_volumes_per_node: Annotated[
        int,
        typer.Option(
            envvar=_PREFIX + "MAX_VOLUMES_PER_NODE",
            help="Volumes that this node takes at most; 0 for no limit.",
        ),
    ] = 0,
    drain_seconds: Annotated[
        float,
        typer.Option(
            envvar=_PREFIX + "DRAIN_SECONDS",
            help="How long running work is waited for at SIGTERM.",
        ),
    ] = 25.0,
    takeover_grace: Annotated[
        float,
        typer.Option(
            envvar=_PREFIX + "TAKEOVER_GRACE",
            help="Seconds that a backend call of an earlier controller may still run after another"
            " took over; what it may have made is looked for again then. Where records are shared.",
        ),
    ] = 900.0,
    takeover_attach_grace: Annotated[
        float,
        typer.Option(
            envvar=_PREFIX + "TAKEOVER_ATTACH_GRACE",
            help="The same for attaches and detaches; until then a volume is not attached that an"
            " earlier controller was attaching or detaching.",
        ),
    ] = 60.0,
    health_port: Annotated[
        int,
        typer.Option(
            envvar=_PREFIX + "HEALTH_PORT",
            help="TCP port of /healthz (the process is alive) and /readyz (it serves, or stands"
            " by; says which), for kubelet; 0 for none.",
        ),
    ] = 0,
    health_address: Annotated[
        str,
        typer.Option(
            envvar=_PREFIX + "HEALTH_ADDRESS",
            help="Address to listen on with --health-port.",
        ),
    ] = "0.0.0.0",
    log_level: Annotated[
        LogLevel,
        typer.Option(
            envvar=_PREFIX + "LOG_LEVEL",
            help="What to log on standard error: this and what is more serious.",
            case_sensitive=False,
        ),
    ] = LogLevel.INFO,
) -> None:
    """Serve CSI on a unix socket until SIGTERM.

    SIGTERM drains: new calls are refused, running work finishes or is recorded, and the
    socket goes last.
    """
    from csi_driver.cli import logs, serving

    directory = (state_dir or default_state_dir()).absolute()
    backends = config_file.load(config if role.controller else None)
    settings = validated(
        Settings(
            configured=backends.backends,
            cinder_options=backends.cinder_options,
            state_dir=directory,
            endpoint=endpoint or f"unix://{directory}/csi.sock",
            node_id=node_id or default_node_id(),
            role=role,
            store=store,
            store_url=store_options.store_url(store_url, store_url_file),
            kubeconfig=kubeconfig.absolute() if kubeconfig else None,
            keys_dir=keys_dir.absolute() if keys_dir else None,
            driver_name=driver_name,
            max_volumes=max_volumes_per_node,
            drain_seconds=drain_seconds,
            takeover_grace=takeover_grace,
            takeover_attach_grace=takeover_attach_grace,
            health_port=health_port,
            health_address=health_address,
        )
    )
    logs.configure(log_level)
    raise typer.Exit(serving.run(settings))
