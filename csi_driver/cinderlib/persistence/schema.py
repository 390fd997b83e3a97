"""The tables of the database store, and what is checked and made when it is opened.

Used by ``database`` only; importing this imports SQLAlchemy.

A table per record kind: the record as JSON, and beside it the columns that it is
found by.  ``meta`` holds the schema version, the installation id, and the greatest
version that may have been given to a record.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    MetaData,
    String,
    Table,
    Text,
    delete,
    insert,
    inspect,
    select,
)

from csi_driver.cinderlib.persistence.records import RECORD_TYPES, Record
from csi_driver.cinderlib.persistence.store import StoreCorrupt, StoreTooNew

SCHEMA_VERSION = 1
"""Raised when an older program could no longer use the tables."""

metadata = MetaData()

LAST_VERSION = "last_version"
"""Key in ``meta`` of a version: no greater one was given yet."""

INSTALLATION_ID = "installation_id"
"""Key in ``meta`` of the installation that the store belongs to."""

LAST_COMMIT = "last_commit"
"""Key in ``meta`` of what tells one commit from all others; where a connection can be lost."""

# Ordered by code points everywhere, and without a limit that SQLite does not have.
_TEXT = String(255).with_variant(Text(collation="C"), "postgresql")

meta = Table(
    "meta",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)


def _table(kind: type[Record]) -> Table:
    return Table(
        f"{kind.KIND}_records",
        metadata,
        Column("id", _TEXT, primary_key=True),
        Column("version", BigInteger, nullable=False),
        *(Column(field, _TEXT, nullable=False) for field in kind.INDEXED),
        Column("body", Text, nullable=False),
        # With the id, so that one index both selects and orders a page.
        *(Index(f"{kind.KIND}_by_{field}", field, "id") for field in kind.INDEXED),
    )


TABLES: dict[str, Table] = {kind.KIND: _table(kind) for kind in RECORD_TYPES}


ADDED_LATER = frozenset(
    TABLES[kind].name for kind in ("orphan", "late_attempt", "group", "group_snapshot")
)
"""Tables that stores of version 1 may lack: made when such a store is opened."""


@dataclass(frozen=True)
class Installation:
    """What ``meta`` says; ``fresh`` when it was written just now."""

    id: str
    last_version: int
    fresh: bool


def prepare(connection: Connection, name: str) -> Installation:
    """Make the tables of an empty database, or check those of another.

    :param name: how errors call the database.
    :raises StoreTooNew: a newer program wrote it.
    :raises StoreCorrupt: it is not a record store, or not a whole one.
    """
    found = set(inspect(connection).get_table_names())
    if not found:
        return _make(connection)
    if meta.name not in found:
        raise StoreCorrupt(
            f"The database {name} is not a record store: it has other tables",
            advice="Name another state directory or database; this one was not changed",
        )
    values = dict(connection.execute(select(meta.c.key, meta.c.value)).tuples().all())
    try:
        version = int(values["schema_version"])
        installation = Installation(
            id=str(uuid.UUID(values[INSTALLATION_ID])),
            last_version=int(values[LAST_VERSION]),
            fresh=False,
        )
    except (KeyError, ValueError) as error:
        raise StoreCorrupt(f"The record store {name} has damaged meta data: {error}") from error
    if version > SCHEMA_VERSION:
        raise StoreTooNew(
            f"The record store {name} has schema version {version};"
            f" this program knows {SCHEMA_VERSION}"
        )
    missing = sorted({table.name for table in TABLES.values()} - found - ADDED_LATER)
    if missing:
        raise StoreCorrupt(f"The record store {name} lacks the tables {', '.join(missing)}")
    metadata.create_all(connection)
    return installation


def _make(connection: Connection) -> Installation:
    metadata.create_all(connection)
    installation = Installation(id=str(uuid.uuid4()), last_version=0, fresh=True)
    connection.execute(
        insert(meta),
        [
            {"key": "schema_version", "value": str(SCHEMA_VERSION)},
            {"key": INSTALLATION_ID, "value": installation.id},
            {"key": LAST_VERSION, "value": str(installation.last_version)},
        ],
    )
    return installation


def note_commit(connection: Connection, marker: str) -> None:
    """Let ``meta`` say ``marker``, whether it had such an entry or not."""
    connection.execute(delete(meta).where(meta.c.key == LAST_COMMIT))
    connection.execute(insert(meta).values(key=LAST_COMMIT, value=marker))
