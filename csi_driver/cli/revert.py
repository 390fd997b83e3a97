"""``cinder-csi revert``: put a volume back to one of its snapshots.

CSI has no call for it.  The command works on the store itself, so the controller must
be stopped: the store's lock sees to that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from csi_driver import config_file
from csi_driver.config import (
    LogLevel,
    Role,
    Settings,
    default_node_id,
    default_state_dir,
    validated,
)


def revert(
    volume_id: Annotated[str, typer.Argument(help="The volume's CSI id (volumeHandle of its PV).")],
    snapshot_id: Annotated[
        str,
        typer.Argument(help="The snapshot's CSI id (snapshotHandle of its VolumeSnapshotContent)."),
    ],
    state_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="CINDER_CSI_STATE_DIR",
            help="State directory of the controller, which must be stopped.",
            show_default="/var/lib/cinder-csi; ~/.local/state/cinder-csi without root",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            envvar="CINDER_CSI_CONFIG",
            help="The controller's configuration file.",
            show_default="the embedded file backend",
        ),
    ] = None,
) -> None:
    """Put a volume back to what it held when a snapshot was made.

    Everything written since is lost. The volume must not be published, and must not have been
    extended since. Stop the controller first. If the command is interrupted, the volume stays
    locked until the revert was done again, by this command or by the next controller.
    """
    from csi_driver.base import sealing
    from csi_driver.cli import logs
    from csi_driver.cli.assembly_controller import make_controller

    directory = (state_dir or default_state_dir()).absolute()
    backends = config_file.load(config)
    settings = validated(
        Settings(
            configured=backends.backends,
            cinder_options=backends.cinder_options,
            state_dir=directory,
            endpoint=f"unix://{directory}/csi.sock",
            node_id=default_node_id(),
            role=Role.CONTROLLER,
        )
    )
    logs.configure(LogLevel.WARNING)
    ring = sealing.load_or_create(directory / "keys" / "transport.json")
    controller = make_controller(settings, lambda: ring)
    try:
        controller.reverts.revert(volume_id, snapshot_id).result()
    finally:
        controller.drain(settings.drain_seconds)
        controller.close()
    typer.echo(f"Volume {volume_id} holds what snapshot {snapshot_id} holds.")
