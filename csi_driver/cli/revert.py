"""``cinder-csi revert``: put a volume back to its youngest snapshot.

CSI has no call for it.  A running controller is asked over its socket: it knows what else
works on the volume, and in a cluster it is the one that leads, or says who does.  So an
administrator runs the command where the controller is, in its Pod.  A wish that is written
into an object instead could be carried out much later than it was meant, when the volume
holds other data.

Where no controller runs, the command works on the store of the state directory itself; the
store's lock sees to it that none begins meanwhile.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

import grpc
import typer

from csi_driver import config_file
from csi_driver.base.errors import CinderCSIError
from csi_driver.config import (
    LogLevel,
    Role,
    Settings,
    StoreKind,
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
            help="State directory of the controller.",
            show_default="/var/lib/cinder-csi; ~/.local/state/cinder-csi without root",
        ),
    ] = None,
    endpoint: Annotated[
        str,
        typer.Option(
            envvar="CSI_ENDPOINT",
            help="Socket of the controller, as unix:///path/csi.sock.",
            show_default="unix://STATE-DIR/csi.sock",
        ),
    ] = "",
    store: Annotated[
        StoreKind,
        typer.Option(
            envvar="CINDER_CSI_STORE",
            help="The controller's store. With kubernetes a controller has to run here: run"
            " the command in the Pod of the one that leads.",
        ),
    ] = StoreKind.DB,
    config: Annotated[
        Path | None,
        typer.Option(
            envvar="CINDER_CSI_CONFIG",
            help="The controller's configuration file, for when it does not run.",
            show_default="the embedded file backend",
        ),
    ] = None,
) -> None:
    """Put a volume back to what it held when its youngest snapshot was made.

    Everything written since is lost. The volume must not be published, and must not have been
    extended since. The running controller does it, or this command when none runs. If the
    command is interrupted, a running controller goes on; else the volume stays locked until
    the revert was done again, by this command or by the next controller.
    """
    from csi_driver.rpc.client import NotServing
    from csi_driver.rpc.server import socket_path

    directory = (state_dir or default_state_dir()).absolute()
    path = socket_path(endpoint or f"unix://{directory}/csi.sock")
    if not (_is_served(path) and _asked(path, volume_id, snapshot_id)):
        if store is StoreKind.KUBERNETES:
            raise NotServing(
                f"No controller serves on {path}",
                advice="Run this in the Pod of the controller that leads: kubectl exec",
            )
        _do(directory, config, volume_id, snapshot_id)
    typer.echo(f"Volume {volume_id} holds what snapshot {snapshot_id} holds.")


def _is_served(path: Path) -> bool:
    """Whether a process listens on the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            return False
    return True


def _asked(path: Path, volume_id: str, snapshot_id: str) -> bool:
    """Let the controller on a socket do it; False where it is none, but a node.

    :raises CinderCSIError: what the controller answered.
    """
    from csi_driver.rpc._generated import administration_pb2 as pb
    from csi_driver.rpc._generated.administration_pb2_grpc import AdministrationStub
    from csi_driver.rpc.client import Client

    wish = pb.RevertVolumeRequest(volume_id=volume_id, snapshot_id=snapshot_id)
    with Client(str(path)) as client:
        try:
            AdministrationStub(client.channel).RevertVolume(wish)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return False
            raise CinderCSIError(
                f"The controller did not confirm it: {error.code().name}: {error.details()}"
            ) from error
    return True


def _do(directory: Path, config: Path | None, volume_id: str, snapshot_id: str) -> None:
    """Be the controller of a state directory for this one operation."""
    from csi_driver.base import sealing
    from csi_driver.cinderlib.persistence.store import StoreLocked
    from csi_driver.cli import logs
    from csi_driver.cli.assembly_controller import make_controller

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
    try:
        controller = make_controller(settings, lambda: ring)
    except StoreLocked as error:
        advice = "Name the socket of that process with --endpoint, or stop it"
        raise StoreLocked(error.message, advice=advice) from error
    try:
        controller.reverts.revert(volume_id, snapshot_id).result()
    finally:
        controller.drain(settings.drain_seconds)
        controller.close()
