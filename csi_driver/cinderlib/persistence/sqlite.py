"""SQLite as the database store uses it: how files are opened and what its errors mean.

Used by ``factory`` and ``database`` only.  A file is opened with a write-ahead log (readers
never wait for the writer) that is flushed at every commit.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool, StaticPool

from csi_driver.base.errors import CinderCSIError
from csi_driver.cinderlib.persistence import schema
from csi_driver.cinderlib.persistence.lock import ProcessLock
from csi_driver.cinderlib.persistence.store import StoreCorrupt, StoreUnavailable

T = TypeVar("T")

BUSY_TIMEOUT_S = 10.0
"""How long another program that has the file open (a backup) may hold its locks."""

READERS = 16
"""Connections that are kept open for reading; more are opened when needed."""

_ERRORS = (SQLAlchemyError, sqlite3.Error)
"""What SQLAlchemy raises, and the driver when it is used without it."""

# IMMEDIATE: what is read before the first write is still true when it is written.
_BEGIN = "BEGIN IMMEDIATE"

# SQLite primary result codes that mean the content, not the circumstances.
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class _Reader:
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


class _Writer:
    """Runs transactions, one at a time, on a connection that it keeps open."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Any = None

    def run(self, work: Callable[[Any], T]) -> T:
        """The answer of ``work``, once what it did is durable; nothing is kept when it raises."""
        if self._connection is None:
            self._connection = self._engine.raw_connection()
        connection = self._connection.driver_connection
        try:
            cursor = connection.cursor()
            cursor.execute(_BEGIN)
            answer = work(cursor)
            connection.commit()
        except BaseException:
            # Rolls back, and leaves nothing of what failed to the next transaction.
            self.close()
            raise
        return answer

    def close(self) -> None:
        """Close the connection; it is made anew when it is needed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class SQLite:
    """A SQLite database, file or memory; see :class:`~.engine.Database`.

    :param path: the file, made when it is not there; None: in memory, gone when closed.
    :param flush: let every commit reach the disk.  Without, a power loss may take the last
        changes along (the file stays whole, and a killed process loses nothing).
    :raises StoreLocked: another process uses the file.
    :raises StoreCorrupt: the file is no record store, or a damaged one.
    :raises StoreTooNew: a newer program wrote it.
    :raises StoreUnavailable: it cannot be made, read or written.
    """

    exclusive = True

    def __init__(self, path: Path | None, *, flush: bool = True) -> None:
        self._name = str(path) if path else "in memory"
        # The one connection of a database in memory serves one thread at a time.
        self._one_at_a_time: contextlib.AbstractContextManager[object] = (
            contextlib.nullcontext() if path else threading.Lock()
        )
        with contextlib.ExitStack() as undo, self._explained():
            if path:
                undo.callback(_claim(path).release)
            self.writer, reader = _open_file(path, flush) if path else _open_in_memory()
            # The writer's connection goes last: it folds the log into the file.
            undo.callback(self.writer.dispose)
            self._writer = _Writer(self.writer)
            undo.callback(self._writer.close)
            self._reader = _Reader(reader)
            undo.callback(self._reader.close)
            self.dialect = self.writer.dialect
            self.installation = self._prepare()
            if path:
                _make_names_durable(path.parent)
            self._release = undo.pop_all()

    def rows(self, text: str, parameters: Sequence[object]) -> list[Any]:
        """See :meth:`Database.rows`."""
        try:
            with self._one_at_a_time:
                return self._reader.rows(text, parameters)
        except _ERRORS as error:
            raise _explain(error, self._name) from error

    def write(self, work: Callable[[Any], T]) -> T:
        """See :meth:`Database.write`."""
        try:
            with self._one_at_a_time:
                return self._writer.run(work)
        except _ERRORS as error:
            raise _explain(error, self._name) from error

    def close(self) -> None:
        """See :meth:`Database.close`."""
        self._release.close()

    def _prepare(self) -> schema.Installation:
        damage = self._why_damaged()
        if damage:
            raise StoreCorrupt(f"The record store {self._name} is damaged: {damage}")
        with self.writer.begin() as connection:
            return schema.prepare(connection, self._name)

    def _why_damaged(self) -> str | None:
        """What SQLite finds wrong with the structure of the file, or None."""
        ((answer,),) = self._reader.rows("PRAGMA quick_check(1)", ())
        return None if answer == "ok" else str(answer)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except _ERRORS as error:
            raise _explain(error, self._name) from error


def _open_file(path: Path, flush: bool) -> tuple[Engine, Engine]:
    """Engines to write and to read the file ``path``, which exists."""
    url = f"sqlite:///{path}"
    arguments = {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}
    writer = create_engine(url, connect_args=arguments, poolclass=NullPool)
    reader = create_engine(url, connect_args=arguments, poolclass=NullPool)
    synchronous = "synchronous=FULL" if flush else "synchronous=NORMAL"
    event.listen(writer, "connect", _on_connect("journal_mode=WAL", synchronous))
    event.listen(writer, "begin", _begin)
    event.listen(reader, "connect", _on_connect("query_only=ON"))
    return writer, reader


def _open_in_memory() -> tuple[Engine, Engine]:
    """One engine on a new database in memory, with one connection."""
    engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    event.listen(engine, "connect", _on_connect())
    event.listen(engine, "begin", _begin)
    return engine, engine


def _create_private(path: Path) -> None:
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


def _claim(path: Path) -> ProcessLock:
    """Make the file if need be, and keep other processes out of it."""
    try:
        _create_private(path)
        return ProcessLock(path.with_name(path.name + ".lock"))
    except OSError as error:
        raise StoreUnavailable(
            f"The record store {path} cannot be opened: {error}",
            advice="Name a state directory on a local disk that this user can write",
        ) from error


def _make_names_durable(directory: Path) -> None:
    """Flush the names of a new file and of its log."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain(error: Exception, name: str) -> CinderCSIError:
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
