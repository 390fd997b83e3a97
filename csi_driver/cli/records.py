"""``cinder-csi records``: records as a file, for backups and for moving to another store."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from csi_driver.base.errors import ConfigurationError
from csi_driver.base.files import write_atomic
from csi_driver.cli import store_options
from csi_driver.cli.store_options import DriverName, Kubeconfig, StoreUrl, StoreUrlFile
from csi_driver.config import (
    DRIVER_NAME,
    Hidden,
    LogLevel,
    Role,
    Settings,
    StoreKind,
    default_node_id,
    default_state_dir,
    validated,
)

if TYPE_CHECKING:
    from csi_driver.cinderlib.persistence.export_file import Export
    from csi_driver.cli.records_homes import Home
    from csi_driver.cli.records_work import Found

app = typer.Typer(
    help="Export, import and check records: for backups, and to move to another store."
    " See docs/backup.md."
)

Store = Annotated[
    StoreKind,
    typer.Option(
        envvar="CINDER_CSI_STORE",
        help="Where the records are, or are to be: db (SQLite, or PostgreSQL with --store-url)"
        " or kubernetes.",
    ),
]
StateDir = Annotated[
    Path | None,
    typer.Option(
        envvar="CINDER_CSI_STATE_DIR",
        help="With --store db: the state directory of the controller.",
        show_default="/var/lib/cinder-csi; ~/.local/state/cinder-csi without root",
    ),
]
KeysDir = Annotated[
    Path | None,
    typer.Option(
        envvar="CINDER_CSI_KEYS_DIR",
        help="With --store kubernetes: directory of records.json and transport.json. They are"
        " only looked into to see whether they open the records; an export needs none.",
        show_default="keys in the state directory",
    ),
]
Namespace = Annotated[
    str,
    typer.Option(
        help="With --store kubernetes: the namespace of the controllers, for their Lease if"
        " there is none yet.",
    ),
]
DEFAULT_NAMESPACE = "cinder-csi"


@app.command("export")
def export(
    file: Annotated[
        Path, typer.Argument(help="The file to write, mode 0600; - for standard output.")
    ],
    while_running: Annotated[
        bool,
        typer.Option(
            "--while-running",
            help="Beside a controller that works: all records as of one moment. For backups; such"
            " a file cannot be imported with --moving.",
        ),
    ] = False,
    store: Store = StoreKind.DB,
    state_dir: StateDir = None,
    store_url: StoreUrl = "",
    store_url_file: StoreUrlFile = None,
    kubeconfig: Kubeconfig = None,
    driver_name: DriverName = DRIVER_NAME,
    namespace: Namespace = DEFAULT_NAMESPACE,
) -> None:
    """Write all records into a file. Secrets stay sealed in it; no key is needed.

    Without --while-running the controller has to be stopped, and is kept out meanwhile.
    """
    from csi_driver.cli import records_work

    target = _target(file)
    url = store_options.store_url(store_url, store_url_file)
    settings = _settings(store, state_dir, url, kubeconfig, None, driver_name)
    content, found = records_work.export(
        _home(settings, namespace), settings, while_running=while_running
    )
    if str(file) == "-":
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        write_atomic(target, content, mode=0o600)
    _say(f"Exported: {_told(found.counts)}")
    for problem in found.problems:
        _say(f"WARNING: {problem}")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A file of an export; - for standard input.")],
    moving: Annotated[
        bool,
        typer.Option(
            "--moving",
            help="No controller and no node plugin has worked with these volumes since the"
            " export: take everything over as it was. Without it the file is a backup: what may"
            " have happened since is allowed for.",
        ),
    ] = False,
    accept_problems: Annotated[
        bool,
        typer.Option(
            "--accept-problems",
            help="Import although records check finds problems, as sealed parts that no key at"
            " hand opens.",
        ),
    ] = False,
    store: Store = StoreKind.DB,
    state_dir: StateDir = None,
    store_url: StoreUrl = "",
    store_url_file: StoreUrlFile = None,
    kubeconfig: Kubeconfig = None,
    keys_dir: KeysDir = None,
    driver_name: DriverName = DRIVER_NAME,
    namespace: Namespace = DEFAULT_NAMESPACE,
) -> None:
    """Bring the records of a file into an empty store, with the installation that they are of.

    The whole file is verified first. If the command is interrupted, no controller starts on the
    half of the records; run it again. Stop the controllers before.
    """
    from csi_driver.cli import records_work

    given = _read(file)
    url = store_options.store_url(store_url, store_url_file)
    settings = _settings(store, state_dir, url, kubeconfig, keys_dir, driver_name)
    done = records_work.bring(
        _home(settings, namespace),
        settings,
        given,
        moving=moving,
        accept_problems=accept_problems,
    )
    typer.echo(f"Imported, as of {given.header.made_at}: {_told(done.counts)}")
    there = sum(done.counts.values()) - done.written
    if there:
        typer.echo(f"{there} of them were there already")
    if done.unformatted:
        typer.echo(
            f"{len(done.unformatted)} volumes were not formatted at that time. Whatever they hold"
            " by now is kept: no filesystem is made on them any more (docs/backup.md)"
        )
    if done.left:
        typer.echo("In progress at that time, and gone on with only when it is asked for again:")
        typer.echo("\n".join(f"  {line}" for line in done.left))


@app.command("check")
def check(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="A file of an export; - for standard input.", show_default="the records in use"
        ),
    ] = None,
    store: Store = StoreKind.DB,
    state_dir: StateDir = None,
    store_url: StoreUrl = "",
    store_url_file: StoreUrlFile = None,
    kubeconfig: Kubeconfig = None,
    keys_dir: KeysDir = None,
    driver_name: DriverName = DRIVER_NAME,
) -> None:
    """See whether records are whole, fit together, and open with the keys at hand.

    In a cluster they are compared with PersistentVolumes, VolumeSnapshotContents and
    VolumeAttachments, too. Changes nothing, and works beside a controller. Exit code 1 when there
    are problems.
    """
    from csi_driver.cli import records_work

    url = store_options.store_url(store_url, store_url_file)
    if file is not None:
        given = _read(file)
        settings = _settings(StoreKind.KUBERNETES, state_dir, Hidden(), None, keys_dir, driver_name)
        found = records_work.check_export(given, records_work.Keys.below(settings))
        _describe(given)
    else:
        settings = _settings(store, state_dir, url, kubeconfig, keys_dir, driver_name)
        found = records_work.check_home(_home(settings, DEFAULT_NAMESPACE), settings)
    _report(found)


def _settings(
    store: StoreKind,
    state_dir: Path | None,
    url: Hidden,
    kubeconfig: Path | None,
    keys_dir: Path | None,
    driver_name: str,
) -> Settings:
    if store is StoreKind.MEMORY:
        raise ConfigurationError(
            "Records in memory are nobody else's to read", advice="Use --store db or kubernetes"
        )
    directory = (state_dir or default_state_dir()).absolute()
    return validated(
        Settings(
            state_dir=directory,
            endpoint=f"unix://{directory}/csi.sock",
            node_id=default_node_id(),
            role=Role.CONTROLLER,
            store=store,
            store_url=url,
            kubeconfig=kubeconfig.absolute() if kubeconfig else None,
            keys_dir=keys_dir.absolute() if keys_dir else None,
            driver_name=driver_name,
        )
    )


def _home(settings: Settings, namespace: str) -> Home[Any]:
    from csi_driver.cli import logs

    logs.configure(LogLevel.WARNING)
    if settings.store is StoreKind.KUBERNETES:
        from csi_driver.cli.records_cluster import Cluster

        return Cluster(settings, namespace)
    from csi_driver.cli.records_homes import StateDirectory

    return StateDirectory(settings)


def _target(file: Path) -> Path:
    """Where the file is written: what is there is replaced, which has to be a file."""
    # Of a link what it leads to: /dev/stdout itself must not be replaced.
    target = Path(os.path.realpath(file))
    if not target.parent.is_dir():
        raise ConfigurationError(f"There is no directory {target.parent}")
    if file.exists() and not file.is_file():
        raise ConfigurationError(
            f"{file} is no file", advice="Name a file in a directory, or - for standard output"
        )
    return target


def _read(file: Path) -> Export:
    from csi_driver.cinderlib.persistence import export_file

    if str(file) == "-":
        return export_file.parse(sys.stdin.buffer.read(), "Standard input")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    return export_file.parse(content, str(file))


def _describe(given: Export) -> None:
    header = given.header
    how = "beside a controller" if header.while_running else "with no controller running"
    typer.echo(f"Records of {header.driver}, installation {header.installation_id}")
    typer.echo(f"exported at {header.made_at} from {header.store} by {header.program}, {how}")
    for ring, keys in (("records", header.records_keys), ("transport", header.transport_keys)):
        if keys:
            typer.echo(f"{ring} keys that opened them: {', '.join(sorted(keys))}")


def _report(found: Found) -> None:
    for kind, number in found.counts.items():
        typer.echo(f"{kind:<15} {number:>7}")
    if found.notes:
        typer.echo(f"Notes: {len(found.notes)}")
        typer.echo("\n".join(found.notes))
    if not found.problems:
        typer.echo("No problems")
        return
    typer.echo(f"Problems: {len(found.problems)}")
    typer.echo("\n".join(found.problems))
    raise typer.Exit(1)


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in counts.items()) or "no records"


def _say(text: str) -> None:
    """To standard error: standard output may be the file."""
    typer.echo(text, err=True)
