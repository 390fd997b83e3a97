"""The options of commands that say where records are.

Used by ``serve``, ``orphans``, ``keys`` and ``records``.  Without them records are in a SQLite
file of the state directory.  A password never comes by the command line, where ``ps`` shows
it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import parse_qsl, urlsplit

import typer

from csi_driver.base.errors import ConfigurationError
from csi_driver.base.masking import is_secret_name
from csi_driver.config import Hidden

if TYPE_CHECKING:
    from csi_driver.cinderlib.persistence.choice import StoreConfig
    from csi_driver.cinderlib.persistence.reading import RecordReader

POSTGRESQL = "postgresql"
"""What a state directory remembers of a store in PostgreSQL."""

_VARIABLE = "CINDER_CSI_STORE_URL"

_FORM = "Write it as postgresql://user:password@host:5432/database; %-encode signs in a password"


def _without_password(given: str) -> str:
    """The value of the option, which may have a password if the environment has it."""
    if given and given != os.environ.get(_VARIABLE) and _has_password(given):
        raise ConfigurationError(
            "--store-url has a password, which everybody on this machine can see",
            advice="Put the URL into a file for --store-url-file, or into the environment"
            f" variable {_VARIABLE}",
        )
    return given


StoreUrl = Annotated[
    str,
    typer.Option(
        envvar=_VARIABLE,
        callback=_without_password,
        help="With --store db: the URL of a PostgreSQL database for the records, as"
        " postgresql://user@host/database. With a password only in the environment variable.",
        show_default="SQLite in the state directory",
    ),
]
StoreUrlFile = Annotated[
    Path | None,
    typer.Option(
        envvar="CINDER_CSI_STORE_URL_FILE",
        help="A file that holds that URL, with its password.",
    ),
]
Kubeconfig = Annotated[
    Path | None,
    typer.Option(
        envvar="CINDER_CSI_KUBECONFIG",
        help="With --store kubernetes: the kubeconfig of a process outside of the cluster.",
        show_default="the Pod's service account",
    ),
]
DriverName = Annotated[
    str,
    typer.Option(envvar="CINDER_CSI_DRIVER_NAME", help="CSI name of the plugin."),
]


def store_url(given: str, file: Path | None) -> Hidden:
    """The URL of the records' database; '' for SQLite in the state directory.

    :raises ConfigurationError: it is given twice, is malformed, or cannot be read.
    """
    if given and file:
        raise ConfigurationError(
            "The URL of the record store is given twice",
            advice="Use --store-url or --store-url-file",
        )
    if file:
        try:
            given = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"--store-url-file cannot be read: {error}") from error
        if not given:
            raise ConfigurationError(f"--store-url-file {file} is empty", advice=_FORM)
    if given and given.partition(":")[0] not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise ConfigurationError("The URL of the record store is not PostgreSQL's", advice=_FORM)
    return Hidden(given)


def asked(kind: str, url: str) -> StoreConfig:
    """How the record store is asked for."""
    return {"storage": kind, "connection": str(url)} if url else kind


def remembered(kind: str, url: str) -> str:
    """What the state directory remembers of the store, to recognise another one."""
    return POSTGRESQL if url else kind


def require_url(recorded: str | None, url: str, directory: Path) -> None:
    """Refuse to look for records of a state directory in the wrong place.

    :raises ConfigurationError: they are in PostgreSQL, and no URL is given.
    """
    if recorded == POSTGRESQL and not url:
        raise ConfigurationError(
            f"The records of {directory} are in a PostgreSQL database",
            advice="Give its URL with --store-url-file or CINDER_CSI_STORE_URL, as to serve",
        )


def reader(directory: Path, url: str) -> RecordReader:
    """Reads the records of a state directory beside its controller.

    :raises ConfigurationError: records are kept in memory or elsewhere, or there are none.
    """
    from csi_driver.cinderlib.persistence.factory import database_path
    from csi_driver.cinderlib.persistence.reading import DatabaseReader
    from csi_driver.cli.installation import recorded_store

    recorded = recorded_store(directory)
    if recorded == "memory":
        raise ConfigurationError(
            f"The controller of {directory} keeps its records in memory (--store memory): only"
            " its log tells of them",
            advice="Look there for 'may be left on backend'; --store db keeps records",
        )
    require_url(recorded, url, directory)
    if url:
        from csi_driver.cinderlib.persistence.opening import reader_at

        return reader_at(url)
    path = database_path(directory)
    if not path.exists():
        raise ConfigurationError(
            f"{directory} has no record store",
            advice="Name the directory of cinder-csi serve with --state-dir",
        )
    return DatabaseReader(path)


def _has_password(url: str) -> bool:
    try:
        parts = urlsplit(url)
        named = any(is_secret_name(name) for name, _ in parse_qsl(parts.query))
    except ValueError:
        return True  # malformed: who knows what is in it
    # A password with a / or @ is not where it should be.
    return parts.password is not None or named or "@" in parts.path
