"""``cinder-csi keys``: shows, rotates and prunes the keys of a state directory.

A running process follows the files by itself (:class:`csi_driver.base.sealing.KeyFile`).
Only a look into the record store tells which old keys are still needed, and a store
has one user at a time: pruning, and sealing records anew, wait for a moment without
controller.
"""

from __future__ import annotations

import time
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import msgspec
import typer

from csi_driver.base import sealing
from csi_driver.base.errors import ConfigurationError, StateDirectoryError
from csi_driver.base.files import read_text
from csi_driver.base.publish_context import KEY
from csi_driver.base.sealing import KeyRing
from csi_driver.cli import store_options
from csi_driver.cli.store_options import StoreUrl, StoreUrlFile
from csi_driver.config import default_state_dir

if TYPE_CHECKING:
    from csi_driver.cinderlib.persistence.sealed import SealedStore
    from csi_driver.cinderlib.persistence.store import RecordStore

app = typer.Typer(help="Show, rotate and prune the keys that seal records and publish_contexts.")


class Ring(StrEnum):
    """A key ring of the state directory."""

    RECORDS = "records"
    TRANSPORT = "transport"


StateDir = Annotated[
    Path | None,
    typer.Option(
        envvar="CINDER_CSI_STATE_DIR",
        help="The state directory of cinder-csi serve.",
        show_default="/var/lib/cinder-csi; ~/.local/state/cinder-csi without root",
    ),
]
OneRing = Annotated[
    Ring | None,
    typer.Option(
        "--ring",
        help="records: secrets in records, for controllers only; transport: publish_contexts,"
        " for nodes too.",
        show_default="both",
    ),
]


@app.command("show")
def show(state_dir: StateDir = None) -> None:
    """Show the ids and ages of the keys, never a key."""
    directory = _state_dir(state_dir)
    rings = _rings(directory, None)
    typer.echo(f"{'ring':<10} {'key':<9} {'age':<9} use")
    for ring in rings:
        keys = sealing.load(_path(directory, ring))
        for key_id in sorted(keys.keys, key=lambda i: keys.created.get(i, 0.0), reverse=True):
            made = keys.created.get(key_id)
            shown = "unknown" if made is None else age(time.time() - made)
            use = "seals and opens" if key_id == keys.current else "opens"
            typer.echo(f"{ring:<10} {key_id:<9} {shown:<9} {use}")


@app.command("rotate")
def rotate(
    ring: OneRing = None,
    state_dir: StateDir = None,
    store_url: StoreUrl = "",
    store_url_file: StoreUrlFile = None,
) -> None:
    """Add a key and seal with it from now on; older keys stay and open.

    Running processes follow at once. Records are sealed anew here when no controller runs,
    else when the controller starts next. Where nodes have a copy of transport.json, they get
    the new file first.
    """
    directory = _state_dir(state_dir)
    url = _url(directory, store_url, store_url_file)
    for each in _rings(directory, ring):
        _, after = sealing.change(_path(directory, each), KeyRing.rotated)
        typer.echo(f"{each}: key {after.current} seals from now on")
    if ring is not Ring.TRANSPORT:
        _reseal(directory, url)


@app.command("prune")
def prune(
    ring: OneRing = None,
    state_dir: StateDir = None,
    store_url: StoreUrl = "",
    store_url_file: StoreUrlFile = None,
) -> None:
    """Remove old keys that nothing is sealed with any more.

    Not while a controller runs: stop it for a moment, no workload notices.
    """
    directory = _state_dir(state_dir)
    url = _url(directory, store_url, store_url_file)
    rings = _rings(directory, ring)
    for each in rings:
        sealing.require_own(_path(directory, each))  # the store is his, too
    store = _open(directory, url)
    if store is None:
        raise ConfigurationError(
            f"{directory} has no record store: it cannot tell which keys are in use",
            advice="Prune in the state directory of the controller",
        )
    try:
        for each in rings:
            if each is Ring.RECORDS:
                store.reseal()
                uses = store.keys_in_use()
            else:
                uses = transport_keys_in_use(store, directory)
            _prune(directory, each, uses)
    finally:
        store.close()


def _prune(directory: Path, ring: Ring, uses: Counter[str]) -> None:
    before, after = sealing.change(_path(directory, ring), lambda keys: keys.pruned(uses))
    for key_id in sorted(before.keys.keys() - after.keys.keys()):
        typer.echo(f"{ring}: key {key_id} removed")
    for key_id in sorted(after.keys.keys() - {after.current}):
        typer.echo(f"{ring}: key {key_id} stays, volumes published with it: {uses[key_id]}")
    if after == before:
        typer.echo(f"{ring}: nothing to remove")


def transport_keys_in_use(store: RecordStore, directory: Path) -> Counter[str]:
    """Ids of the transport keys that a publish_context is sealed with, and how often.

    Looks at connections, and at what a node of this state directory has staged: a
    volume that was unpublished by force is not unstaged yet.

    :raises CinderCSIError: store or node state cannot be read.
    """
    from csi_driver.cinderlib.persistence.records import ConnectionRecord

    contexts = [record.publish_context for record in store.list(ConnectionRecord)]
    contexts += [_staged_context(path) for path in (directory / "node").glob("volumes/*.json")]
    # Once per publication: a node keeps the context as the connection has it.
    return Counter(map(sealing.key_id_of, {c[KEY] for c in contexts if KEY in c}))


class _Staged(msgspec.Struct):
    """Of a node's state file only what is needed here."""

    publish_context: dict[str, str]


def _staged_context(path: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode(read_text(path) or "{}", type=_Staged).publish_context
    except msgspec.DecodeError as error:
        raise StateDirectoryError(
            f"{path} is damaged: {error}", advice="Unstage the volume, and prune then"
        ) from error


def _reseal(directory: Path, url: str) -> None:
    from csi_driver.cinderlib.persistence.store import StoreLocked

    try:
        store = _open(directory, url)
    except StoreLocked:
        typer.echo("records: a controller runs; it seals what is older when it starts next")
        return
    if store is None:
        return
    try:
        typer.echo(f"records: sealed anew: {store.reseal()}")
    finally:
        store.close()


def _url(directory: Path, given: str, file: Path | None) -> str:
    """The URL of the records' database; '' for SQLite. Asked for before anything is changed."""
    from csi_driver.cli.installation import recorded_store

    url = store_options.store_url(given, file)
    store_options.require_url(recorded_store(directory), url, directory)
    return url


def _open(directory: Path, url: str) -> SealedStore | None:
    """The record store of a state directory; None when it has no lasting one."""
    from csi_driver.cinderlib.persistence.factory import database_path, open_store

    if not url and not database_path(directory).exists():
        return None
    return cast("SealedStore", open_store(store_options.asked("db", url), directory))


def _rings(directory: Path, chosen: Ring | None) -> list[Ring]:
    """The ring asked for, or all that this directory has.

    :raises ConfigurationError: none is there.
    """
    rings = [chosen] if chosen else [ring for ring in Ring if _path(directory, ring).exists()]
    if not rings:
        raise ConfigurationError(
            f"There are no keys in {directory / 'keys'}",
            advice="Name the directory of cinder-csi serve with --state-dir",
        )
    return rings


def _path(directory: Path, ring: Ring) -> Path:
    return directory / "keys" / f"{ring}.json"


def _state_dir(given: Path | None) -> Path:
    return (given or default_state_dir()).absolute()


def age(seconds: float) -> str:
    """A duration in its largest whole unit, as ``3 d``."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"
