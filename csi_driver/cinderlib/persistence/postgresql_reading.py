"""Reads the records of a PostgreSQL store beside the controller that has it.

Used by ``opening`` for ``cinder-csi orphans`` and ``records``.  One read-only transaction,
without the store's lock; what is sealed stays sealed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeVar

from sqlalchemy import create_engine, inspect, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from csi_driver.cinderlib.persistence import schema
from csi_driver.cinderlib.persistence.postgresql_url import Address
from csi_driver.cinderlib.persistence.reading import KNOWN_VERSION, RecordReader, decoded
from csi_driver.cinderlib.persistence.records import Record
from csi_driver.cinderlib.persistence.store import StoreCorrupt, StoreTooNew, StoreUnavailable

R = TypeVar("R", bound=Record)


class PostgreSQLReader(RecordReader):
    """A look into the records of a database, as of one moment.

    :raises StoreUnavailable: it cannot be read, or holds no records.
    :raises StoreTooNew: a newer program wrote it.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._engine = create_engine(
            address.url,
            poolclass=NullPool,
            # One transaction for all that is read: records of different kinds fit together.
            isolation_level="REPEATABLE READ",
            use_native_hstore=False,
            connect_args=address.arguments("cinder-csi reader"),
        )
        with self._explained():
            self._connection = self._engine.connect().execution_options(postgresql_readonly=True)
        try:
            with self._explained():
                self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        self._tables = set(inspect(self._connection).get_table_names())
        if schema.meta.name not in self._tables:
            raise StoreUnavailable(
                f"{self._address.name} holds no record store",
                advice="Give the URL that cinder-csi serve has",
            )
        entries = self._connection.execute(select(schema.meta.c.key, schema.meta.c.value))
        meta = dict(entries.tuples().all())
        version = int(meta.get("schema_version", 0))
        self.installation_id = meta.get(schema.INSTALLATION_ID, "")
        if version > KNOWN_VERSION:
            raise StoreTooNew(
                f"The record store {self._address.name} has schema version {version}; this"
                f" program reads {KNOWN_VERSION}"
            )

    def each(self, kind: type[R]) -> Iterator[R | StoreCorrupt]:
        """See :meth:`RecordReader.each`."""
        table = schema.TABLES[kind.KIND]
        if table.name not in self._tables:  # it comes with the next start of a controller
            return iter(())
        with self._explained():
            bodies = self._connection.execute(select(table.c.body).order_by(table.c.id)).scalars()
            return decoded(kind, bodies.all())

    def close(self) -> None:
        """Close the connection; may be called twice."""
        self._connection.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            said = str(getattr(error, "orig", None) or error)
            raise StoreUnavailable(
                f"The record store {self._address.name} cannot be read:"
                f" {self._address.without_password(' '.join(said.split()))}"
            ) from error
