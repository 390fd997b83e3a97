"""``cinder-csi keys``: makes, shows, rotates and prunes the key rings.

They are in a state directory, or in a directory of their own from which a Secret is made.
A running process follows the files by itself (:class:`csi_driver.base.sealing.KeyFile`).
Only a look into the records tells which old keys are still needed.  A database has one
user at a time: pruning, and sealing records anew, wait for a moment without controller.
A cluster's records are read beside its controllers.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from csi_driver.base import sealing
from csi_driver.base.errors import ConfigurationError
from csi_driver.base.sealing import KeyRing
from csi_driver.cli import store_options
from csi_driver.cli.store_options import DriverName, Kubeconfig, StoreUrl, StoreUrlFile
from csi_driver.config import DRIVER_NAME, StoreKind, default_state_dir

if TYPE_CHECKING:
    from csi_driver.cinderlib.persistence.sealed import SealedStore

app = typer.Typer(
    help="Make, show, rotate and prune the keys that seal records and publish_contexts."
)

SETTLED_SECONDS = 600.0
"""A rotation that is younger may not have reached every process of a cluster."""


class Ring(StrEnum):
    """A key ring."""

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
KeysDir = Annotated[
    Path | None,
    typer.Option(
        envvar="CINDER_CSI_KEYS_DIR",
        help="Directory of records.json and transport.json, as keys create made it.",
        show_default="keys in the state directory",
    ),
]
Store = Annotated[
    StoreKind,
    typer.Option(
        help="Whose use of the keys is looked at: db is the store of the state directory,"
        " kubernetes the records and VolumeAttachments of a cluster.",
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


@app.command("create")
def create(
    directory: Annotated[
        Path, typer.Argument(help="Directory for the two rings; made when it is not there.")
    ],
) -> None:
    """Make both key rings, for the Secrets of a cluster.

    Refuses where there is a ring already: what its keys sealed would be lost.
    """
    directory = directory.absolute()
    paths = {ring: directory / f"{ring}.json" for ring in Ring}
    for path in paths.values():
        _refuse_existing(path, path.exists())
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for ring, path in paths.items():
        made = sealing.create(path)
        _refuse_existing(path, made is None)
        if made is not None:
            typer.echo(f"{ring}: key {made.current} in {path}")
    typer.echo("Keep a copy apart from the backup of the records.")


@app.command("show")
def show(
    state_dir: StateDir = None,
    keys_dir: KeysDir = None,
    store: Store = StoreKind.DB,
    kubeconfig: Kubeconfig = None,
    driver_name: DriverName = DRIVER_NAME,
) -> None:
    """Show the ids and ages of the keys, never a key.

    With --store kubernetes also what in the cluster is sealed with them.
    """
    directory = _directory(state_dir, keys_dir)
    rings = {ring: sealing.load(_path(directory, ring)) for ring in _rings(directory, None)}
    uses = None
    if store is StoreKind.KUBERNETES:
        uses = _uses_in_cluster(rings, kubeconfig, driver_name)
    typer.echo(f"{'ring':<10} {'key':<9} {'age':<9} {'use':<16}{' sealed with it' if uses else ''}")
    for ring, keys in rings.items():
        for key_id in sorted(keys.keys, key=lambda i: keys.created.get(i, 0.0), reverse=True):
            made = keys.created.get(key_id)
            shown = "unknown" if made is None else age(time.time() - made)
            use = "seals and opens" if key_id == keys.current else "opens"
            count = f" {uses[ring][key_id]}" if uses else ""
            typer.echo(f"{ring:<10} {key_id:<9} {shown:<9} {use:<16}{count}".rstrip())


@app.command("rotate")
def rotate(
    ring: OneRing = None,
    state_dir: StateDir = None,
    keys_dir: KeysDir = None,
    store_url: StoreUrl = "",
    store_url_file: StoreUrlFile = None,
) -> None:
    """Add a key and seal with it from now on; older keys stay and open.

    Running processes follow at once. Records are sealed anew here when no controller runs,
    else when the controller starts next. Where nodes have a copy of transport.json, they get
    the new file first.
    """
    directory = _directory(state_dir, keys_dir)
    url = "" if keys_dir else _url(directory.parent, store_url, store_url_file)
    for each in _rings(directory, ring):
        _, after = sealing.change(_path(directory, each), KeyRing.rotated)
        typer.echo(f"{each}: key {after.current} seals from now on")
    if ring is not Ring.TRANSPORT and not keys_dir:
        _reseal(directory.parent, url)


@app.command("prune")
def prune(
    ring: OneRing = None,
    state_dir: StateDir = None,
    keys_dir: KeysDir = None,
    store: Store = StoreKind.DB,
    store_url: StoreUrl = "",
    store_url_file: StoreUrlFile = None,
    kubeconfig: Kubeconfig = None,
    driver_name: DriverName = DRIVER_NAME,
) -> None:
    """Remove old keys that nothing is sealed with any more.

    With --store db not while a controller runs: stop it for a moment, no workload notices. With
    --store kubernetes while everything runs, as an administrator of the cluster.
    """
    directory = _directory(state_dir, keys_dir)
    if store is StoreKind.KUBERNETES:
        _prune_by_cluster(directory, _rings(directory, ring), kubeconfig, driver_name)
        return
    if keys_dir:
        raise ConfigurationError(
            "With --keys-dir alone nobody can tell which keys are in use",
            advice="Add --store kubernetes, and --kubeconfig",
        )
    url = _url(directory.parent, store_url, store_url_file)
    _prune_by_store(directory, _rings(directory, ring), url)


def _prune_by_store(directory: Path, rings: list[Ring], url: str) -> None:
    """Prune by the record store of a state directory, and by what is staged there."""
    from csi_driver.cli.keys_in_use import transport_keys_in_use

    for each in rings:
        sealing.require_own(_path(directory, each))  # the store is his, too
    store = _open(directory.parent, url)
    if store is None:
        raise ConfigurationError(
            f"{directory.parent} has no record store: it cannot tell which keys are in use",
            advice="Prune in the state directory of the controller; for a cluster add"
            " --store kubernetes",
        )
    try:
        for each in rings:
            if each is Ring.RECORDS:
                store.reseal()
                uses = store.keys_in_use()
            else:
                uses = transport_keys_in_use(store, directory.parent)
            _prune(directory, each, uses)
    finally:
        store.close()


def _prune_by_cluster(
    directory: Path, rings: list[Ring], kubeconfig: Path | None, driver: str
) -> None:
    """Prune by the records and VolumeAttachments of a cluster, which work on meanwhile."""
    for each in rings:
        path = _path(directory, each)
        sealing.require_own(path)
        keys = sealing.load(path)
        rotated = keys.created.get(keys.current, 0.0)
        if len(keys.keys) > 1 and time.time() - rotated < SETTLED_SECONDS:
            raise ConfigurationError(
                f"The ring {each} was rotated {age(time.time() - rotated)} ago: a controller that"
                " has not got it yet may still seal with the key before",
                advice="Replace the Secrets, and prune ten minutes later",
            )
    uses = _uses_in_cluster(
        {each: sealing.load(_path(directory, each)) for each in rings}, kubeconfig, driver
    )
    for each in rings:
        _prune(directory, each, uses[each])
    typer.echo("Now replace the Secrets by these files.")


def _uses_in_cluster(
    rings: Mapping[Ring, KeyRing], kubeconfig: Path | None, driver: str
) -> dict[Ring, Counter[str]]:
    """How often each key is used in a cluster.

    :raises ConfigurationError: something is sealed with a key that is in none of the rings:
        they belong to another cluster, or are an old copy.
    """
    from csi_driver.cli import keys_in_use
    from csi_driver.cli.cluster import connection_by
    from csi_driver.kube.api import Api

    records, transport = keys_in_use.in_cluster(Api(connection_by(kubeconfig)), driver)
    uses = {Ring.RECORDS: records, Ring.TRANSPORT: transport}
    for ring, keys in rings.items():
        if unknown := sorted(uses[ring].keys() - keys.keys.keys()):
            raise ConfigurationError(
                f"In the cluster something is sealed with {', '.join(unknown)}, which"
                f" {ring}.json here does not have",
                advice="Work on the files that the Secrets of this cluster were made of",
            )
    return uses


_USERS = {Ring.RECORDS: "records sealed", Ring.TRANSPORT: "volumes published"}


def _prune(directory: Path, ring: Ring, uses: Counter[str]) -> None:
    before, after = sealing.change(_path(directory, ring), lambda keys: keys.pruned(uses))
    for key_id in sorted(before.keys.keys() - after.keys.keys()):
        typer.echo(f"{ring}: key {key_id} removed")
    for key_id in sorted(after.keys.keys() - {after.current}):
        typer.echo(f"{ring}: key {key_id} stays, {_USERS[ring]} with it: {uses[key_id]}")
    if after == before:
        typer.echo(f"{ring}: nothing to remove")


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
            f"There are no keys in {directory}",
            advice="Name the directory of cinder-csi serve with --state-dir, or that of keys"
            " create with --keys-dir",
        )
    return rings


def _refuse_existing(path: Path, exists: bool) -> None:
    if exists:
        raise ConfigurationError(
            f"There is a key ring {path} already; it was not changed",
            advice="Name another directory, or add a key with cinder-csi keys rotate",
        )


def _path(directory: Path, ring: Ring) -> Path:
    return directory / f"{ring}.json"


def _directory(state_dir: Path | None, keys_dir: Path | None) -> Path:
    """Where the rings are; without a directory of their own, in the state directory."""
    return (keys_dir or (state_dir or default_state_dir()) / "keys").absolute()


def age(seconds: float) -> str:
    """A duration in its largest whole unit, as ``3 d``."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"
