"""SQLite as the database store uses it: how files are opened and what its errors mean.

Used by ``database`` only.  A file is opened with a write-ahead log (readers never
wait for the writer) that is flushed at every commit.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool, StaticPool

from csi_driver.base.errors import CinderCSIError
from csi_driver.cinderlib.persistence.store import StoreCorrupt, StoreUnavailable

BUSY_TIMEOUT_S = 10.0
"""How long another program that has the file open (a backup) may hold its locks."""

READERS = 16
"""Connections that are kept open for reading; more are opened when needed."""

ERRORS = (SQLAlchemyError, sqlite3.Error)
"""What SQLAlchemy raises, and the driver when it is used without it."""

# IMMEDIATE: what is read before the first write is still true when it is written.
_BEGIN = "BEGIN IMMEDIATE"

# SQLite primary result codes that mean the content, not the circumstances.
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class Reader:
    """Runs queries by the database's driver, on connections that it keeps open.

    SQLAlchemy's pool, which has to expect open transactions, takes longer than a query.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # Thread-safe, as append and pop of a deque are.
        self._idle: deque[Any] = deque()

    def rows(self, text: str, parameters: Sequence[object]) -> list[Any]:
        """All rows of the answer to a query."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._engine.raw_connection()
        try:
            found: list[Any] = connection.cursor().execute(text, parameters).fetchall()
        except BaseException:
            connection.close()
            raise
        if len(self._idle) < READERS:
            self._idle.append(connection)
        else:
            connection.close()
        return found

    def close(self) -> None:
        """Close the connections; no query runs any more."""
        while self._idle:
            self._idle.pop().close()


@dataclass(frozen=True)
class Engines:
    """An engine that writes, and what reads; both on one connection for a database in memory."""

    writer: Engine
    reader: Reader

    def dispose(self) -> None:
        """Close all connections, the writer's last: it folds the log into the file."""
        self.reader.close()
        self.writer.dispose()


def open_file(path: Path) -> Engines:
    """Engines on the file ``path``, which exists."""
    url = f"sqlite:///{path}"
    arguments = {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}
    writer = create_engine(url, connect_args=arguments, pool_size=1, max_overflow=0)
    reader = create_engine(url, connect_args=arguments, poolclass=NullPool)
    event.listen(writer, "connect", _on_connect("journal_mode=WAL", "synchronous=FULL"))
    event.listen(writer, "begin", _begin)
    event.listen(reader, "connect", _on_connect("query_only=ON"))
    return Engines(writer, Reader(reader))


def open_in_memory() -> Engines:
    """An engine on a new database in memory: one connection, to be used by one thread at a time."""
    engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    event.listen(engine, "connect", _on_connect())
    event.listen(engine, "begin", _begin)
    return Engines(engine, Reader(engine))


@contextlib.contextmanager
def writing(engines: Engines) -> Iterator[Any]:
    """A cursor of the database's driver, in a transaction that is on disk at the end.

    Nothing of it is kept when the block or the commit fails: a connection that goes
    back to its pool is rolled back.
    """
    with contextlib.closing(engines.writer.raw_connection()) as connection:
        cursor = connection.cursor()
        cursor.execute(_BEGIN)
        yield cursor
        connection.commit()


def create_private(path: Path) -> None:
    """Make the file if it is not there, for its owner's eyes only, with its directory.

    SQLite gives the log and its index the permissions of the file.

    :raises OSError: it cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def why_damaged(engines: Engines) -> str | None:
    """What SQLite finds wrong with the structure of the file, or None."""
    ((answer,),) = engines.reader.rows("PRAGMA quick_check(1)", ())
    return None if answer == "ok" else str(answer)


def explain(error: Exception, name: str) -> CinderCSIError:
    """The store error that a database error means; ``name`` is how it calls the database."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if getattr(cause, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
        return StoreCorrupt(f"The record store {name} is damaged: {cause}")
    return StoreUnavailable(f"The record store {name} cannot be used now: {cause}")


def _on_connect(*pragmas: str) -> Callable[[Any, Any], None]:
    def prepare(connection: Any, _record: Any) -> None:
        # Python's sqlite3 would otherwise begin transactions when it thinks fit.
        connection.isolation_level = None
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").fetchall()

    return prepare


def _begin(connection: Any) -> None:
    connection.exec_driver_sql(_BEGIN)
