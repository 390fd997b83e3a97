"""The connections that read a PostgreSQL store; used by ``postgresql`` only."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import psycopg
from sqlalchemy import Engine

READERS = 8
"""Connections at most; more readers wait for one."""


def is_lost(error: BaseException) -> bool:
    """Whether an error of the driver means that its connection is of no use any more."""
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    # None: it comes from this side.  08: the connection; 57P: the server ends the session.
    return error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))


class Readers:
    """Runs queries by the driver, on connections that it keeps open.  Thread-safe.

    A connection that was lost is made anew, once for a query: a server that was restarted
    is not noticed.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._slots = threading.BoundedSemaphore(READERS)
        # Thread-safe, as append and pop of a deque are.
        self._idle: deque[Any] = deque()

    def rows(self, statement: str, parameters: Sequence[object]) -> list[Any]:
        """All rows of the answer to a query."""
        with self._slots:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self._ask(self._connect(), statement, parameters)
            try:
                return self._ask(connection, statement, parameters)
            except psycopg.Error as error:
                if not is_lost(error):
                    raise
                # The others were lost with it, most likely.
                self.close()
            return self._ask(self._connect(), statement, parameters)

    def close(self) -> None:
        """Close the connections that nobody uses."""
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _ask(self, connection: Any, statement: str, parameters: Sequence[object]) -> list[Any]:
        try:
            found: list[Any] = connection.execute(statement, parameters).fetchall()
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return found

    def _connect(self) -> Any:
        pooled = self._engine.raw_connection()
        connection: Any = pooled.driver_connection
        pooled.detach()
        connection.autocommit = True
        connection.execute("SET default_transaction_read_only = on")
        return connection
