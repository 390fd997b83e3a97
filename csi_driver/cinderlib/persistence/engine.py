"""What the database store asks of a database: SQLite and PostgreSQL are such.

Implemented by ``sqlite`` and ``postgresql``, used by ``database``.  What runs for every
call is SQL text for the database's driver; SQLAlchemy's engine makes the connections
and the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from sqlalchemy import Dialect

from csi_driver.cinderlib.persistence.schema import Installation

T = TypeVar("T")


class Database(Protocol):
    """A database that holds a record store and that this process has for itself.

    ``rows`` may be called by many threads at once, ``write`` by one.  Both raise the errors
    of ``store``, whatever the driver raised.
    """

    dialect: Dialect
    installation: Installation
    exclusive: bool
    """No other process can write while this one has it: it cannot be lost unnoticed."""

    def rows(self, text: str, parameters: Sequence[object]) -> list[Any]:
        """All rows of the answer to a query."""

    def write(self, work: Callable[[Any], T]) -> T:
        """Run ``work`` with a cursor of the driver, in a transaction that is durable at the end.

        ``work`` may run again, in a new transaction, when the first one was lost; nothing
        of it is kept when it raises.
        """

    def close(self) -> None:
        """Let the next process have the database; may be called twice."""
