"""The command line: a module per command; puts the parts together.

``cinder-csi serve`` is what runs in production, ``cinder-csi demo`` shows it.
Errors that a person can mend are one line and an exit code; a traceback is a
defect.
"""

from __future__ import annotations

import sys

import typer

from csi_driver import __version__
from csi_driver.base.errors import CinderCSIError, ConfigurationError
from csi_driver.cli import demo, serve

HELP = """\
Any OpenStack Cinder volume driver as a Kubernetes CSI driver, with no OpenStack.

[bold]cinder-csi serve[/bold] runs the CSI plugin: Identity, Controller and Node services on a unix
socket. With no configuration at all it keeps volumes as sparse files, and their records in
SQLite, below one state directory.

[bold]cinder-csi demo[/bold] starts such a plugin and walks a volume through its whole life.

Every option of serve has an environment variable, shown in its help. Exit codes: 0 done,
1 failed, 2 wrong usage or configuration, 130 interrupted.
"""

app = typer.Typer(
    help=HELP,
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve")(serve.serve)
app.command("demo")(demo.demo)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"cinder-csi {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    pass


def main() -> None:
    """The console script ``cinder-csi``."""
    try:
        app()
    except CinderCSIError as error:
        print(f"cinder-csi: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigurationError) else 1)
