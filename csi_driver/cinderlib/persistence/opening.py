"""Opens database stores by path or URL; used by ``factory``.  Importing it loads SQLAlchemy."""

from __future__ import annotations

from pathlib import Path

from csi_driver.base.errors import ConfigurationError
from csi_driver.cinderlib.persistence.database import DatabaseStore
from csi_driver.cinderlib.persistence.reading import RecordReader
from csi_driver.cinderlib.persistence.sqlite import SQLite

_URLS = "Write postgresql://user@host/database, or sqlite:////path/of/the/file"


def sqlite_store(path: Path | None, *, flush: bool = True) -> DatabaseStore:
    """A store in a SQLite file, or in memory; see :class:`SQLite` for both parameters."""
    return DatabaseStore(SQLite(path, flush=flush), lasting=path is not None)


def store_at(connection: str, *, flush: bool = True) -> DatabaseStore:
    """The store at a database URL.

    :param flush: of SQLite.
    :raises ConfigurationError: the URL is malformed, or of another kind of database.
    """
    kind = connection.partition(":")[0].lower()
    if kind == "sqlite":
        return sqlite_store(_sqlite_path(connection), flush=flush)
    if kind not in ("postgresql", "postgres", "postgresql+psycopg"):
        # Not shown: what stands before the colon may be anything, even a password.
        raise ConfigurationError("The connection is no URL of a known database", advice=_URLS)
    if not flush:
        raise ConfigurationError(
            "sqlite_synchronous is an option for SQLite", advice="Leave it out with PostgreSQL"
        )
    _require_psycopg()
    from csi_driver.cinderlib.persistence.postgresql import PostgreSQL
    from csi_driver.cinderlib.persistence.postgresql_url import parse

    return DatabaseStore(PostgreSQL(parse(connection)), lasting=True)


def reader_at(connection: str) -> RecordReader:
    """Reads the store at a PostgreSQL URL beside the controller that has it.

    :raises ConfigurationError: the URL is malformed.
    """
    _require_psycopg()
    from csi_driver.cinderlib.persistence.postgresql_reading import PostgreSQLReader
    from csi_driver.cinderlib.persistence.postgresql_url import parse

    return PostgreSQLReader(parse(connection))


def _require_psycopg() -> None:
    try:
        import psycopg  # noqa: F401 - an extra; without it the next import would fail
    except ImportError as error:
        raise ConfigurationError(
            f"PostgreSQL needs the package psycopg: {error}",
            advice="Install cinder-csi-driver[postgresql]",
        ) from error


def _sqlite_path(connection: str) -> Path | None:
    """The file of a URL as SQLAlchemy writes them; None for a database in memory."""
    scheme, _, rest = connection.partition("://")
    if scheme.lower() != "sqlite" or "?" in rest or (rest and not rest.startswith("/")):
        raise ConfigurationError("The URL of the SQLite file is malformed", advice=_URLS)
    name = rest[1:]
    return None if name in ("", ":memory:") else Path(name).absolute()
