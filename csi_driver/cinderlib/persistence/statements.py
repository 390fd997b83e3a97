"""The statements that run for every call, as SQL text made once.

Used by ``database``.  SQLAlchemy writes them, from the tables of ``schema``, and the
driver of the database runs them: passing each through SQLAlchemy's engine took more
CPU than all else that a change or a read needs.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import Dialect, bindparam, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.elements import ClauseElement

from csi_driver.cinderlib.persistence import schema
from csi_driver.cinderlib.persistence.records import Record

_INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
"""Statements that insert unless there is such a row, which each dialect has of its own."""


class Prepared:
    """One statement, for a driver whose parameters go by position."""

    def __init__(
        self, statement: ClauseElement, dialect: Dialect, columns: tuple[str, ...] = ()
    ) -> None:
        compiled: Any = statement.compile(dialect=dialect, column_keys=list(columns) or None)
        self.text = str(compiled)
        self.parameters = tuple(compiled.positiontup)
        # What SQLAlchemy adds of its own: with SQLite, an offset of 0 beside each limit.
        self._added = {name: value for name, value in compiled.params.items() if value is not None}

    def bind(self, values: dict[str, Any]) -> list[object]:
        """The parameters by position; ``values`` by their names."""
        given = self._added | values
        return [given[name] for name in self.parameters]

    def run(self, cursor: Any, values: dict[str, Any]) -> Any:
        """Run it; answers the cursor."""
        cursor.execute(self.text, self.bind(values))
        return cursor


class Statements:
    """What is done with the records of one kind; ``record_id`` is a parameter of each.

    ``insert`` and ``update`` also take the columns; ``update`` and ``delete`` the version
    ``known``.  Where something else is stored these three change nothing, and their row
    count tells: what is stored need not be read before.
    """

    def __init__(self, kind: type[Record], dialect: Dialect) -> None:
        self._dialect = dialect
        self._table = table = schema.TABLES[kind.KIND]
        this_record = table.c.id == bindparam("record_id")
        this_version = table.c.version == bindparam("known")
        columns = ("version", "body", *kind.INDEXED)
        self.body = Prepared(select(table.c.body).where(this_record), dialect)
        self.version = Prepared(select(table.c.version).where(this_record), dialect)
        new = _INSERT[dialect.name](table).values(id=bindparam("record_id"))
        self.insert = Prepared(new.on_conflict_do_nothing(), dialect, columns)
        changed = update(table).where(this_record, this_version)
        self.update = Prepared(changed, dialect, columns)
        self.delete = Prepared(delete(table).where(this_record, this_version), dialect)
        self.page = cache(self._page)
        every = select(table.c.id, *(table.c[field] for field in kind.INDEXED))
        next_ones = every.where(table.c.id >= bindparam("first")).order_by(table.c.id)
        self.keys = Prepared(next_ones.limit(bindparam("limit")), dialect)

    def _page(self, fields: tuple[str, ...], limited: bool) -> Prepared:
        """The bodies after the id ``after``, with equal ``fields``, in the order of ids.

        The names of the fields are parameters too, and ``limit`` when it is limited.
        """
        table = self._table
        query = select(table.c.body).where(table.c.id > bindparam("after")).order_by(table.c.id)
        for field in fields:
            query = query.where(table.c[field] == bindparam(field))
        if limited:
            query = query.limit(bindparam("limit"))
        return Prepared(query, self._dialect)


def setting_meta(dialect: Dialect) -> Prepared:
    """Changes an entry of ``meta``, ``name`` to ``setting``."""
    this_entry = schema.meta.c.key == bindparam("name")
    changed = update(schema.meta).where(this_entry).values(value=bindparam("setting"))
    return Prepared(changed, dialect)
