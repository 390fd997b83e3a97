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
from csi_driver.base.masking import SECRETS
from csi_driver.cli import demo, keys, orphans, records, revert, serve

HELP = """\
Any OpenStack Cinder volume driver as a Kubernetes CSI driver, with no OpenStack.

cinder-csi serve runs the CSI plugin: Identity, Controller and Node services on a unix
socket. With no configuration at all it keeps volumes as sparse files, and their records in
SQLite, below one state directory.

cinder-csi demo starts such a plugin and walks a volume through its whole life.

cinder-csi keys makes, shows, rotates and prunes the keys that seal secrets.

cinder-csi records exports, imports and checks records: for backups, and to move them.

cinder-csi orphans lists what may be left on backends, and what is not finished.

Every option of serve has an environment variable, shown in its help. Exit codes: 0 done,
1 failed, 2 wrong usage or configuration, 130 interrupted.
"""

app = typer.Typer(
    help=HELP,
    # Plain text: boxes cut the names of environment variables to the terminal's width.
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve")(serve.serve)
app.command("demo")(demo.demo)
app.command("revert")(revert.revert)
app.command("orphans")(orphans.orphans)
app.add_typer(keys.app, name="keys")
app.add_typer(records.app, name="records")


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
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except typer.TyperException as error:
        code = _failed(
            f"{error.format_message().rstrip('.')}. See cinder-csi --help", error.exit_code
        )
    except typer.Abort:
        code = 130
    except CinderCSIError as error:
        code = _failed(str(error), 2 if isinstance(error, ConfigurationError) else 1)
    except OSError as error:
        code = _failed(f"The system refused: {error}", 1)
    sys.exit(code)


def _failed(message: str, code: int) -> int:
    print("cinder-csi:", " ".join(SECRETS.mask(message).split()), file=sys.stderr)
    return code
