"""Reads the records of a ``db`` store beside the controller that has it.

Used by ``cinder-csi orphans`` and ``records``; ``postgresql_reading`` and
``kubernetes.reading`` do the same where else records are.  The file is opened read-only and
without the store's lock: SQLite's log lets readers see the last commit while the controller
writes.  What is sealed stays sealed, so no key is needed and no secret can be shown.
"""

from __future__ import annotations

import contextlib
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from csi_driver.cinderlib.persistence import codec
from csi_driver.cinderlib.persistence.records import Record
from csi_driver.cinderlib.persistence.store import StoreCorrupt, StoreTooNew, StoreUnavailable

R = TypeVar("R", bound=Record)

KNOWN_VERSION = 1
"""The newest schema version that can be read; see ``schema.SCHEMA_VERSION``."""

_BUSY_TIMEOUT_S = 10.0


class RecordReader(ABC):
    """A look into a store as of one moment."""

    installation_id: str

    @abstractmethod
    def each(self, kind: type[R]) -> Iterator[R | StoreCorrupt]:
        """All records of a kind, sealed parts as they are; for a damaged one, what is wrong.

        :raises StoreUnavailable: they cannot be read.
        """

    @abstractmethod
    def close(self) -> None:
        """End it; may be called twice."""

    def list(self, kind: type[R]) -> list[R]:
        """All records of a kind, in the order of their ids; sealed parts as they are.

        :raises StoreUnavailable: they cannot be read.
        :raises StoreCorrupt: one cannot be understood.
        """
        found = []
        for record in self.each(kind):
            if isinstance(record, StoreCorrupt):
                raise record
            found.append(record)
        return sorted(found, key=lambda record: record.id)


def decoded(kind: type[R], bodies: Iterable[str]) -> Iterator[R | StoreCorrupt]:
    """The records of what a database keeps; for a damaged one, what is wrong."""
    for body in bodies:
        try:
            yield codec.decode(kind, body)
        except StoreCorrupt as error:
            yield error


class DatabaseReader(RecordReader):
    """A look into the records of the SQLite file ``path``, as of one moment.

    :raises StoreUnavailable: it is not there, or cannot be read.
    :raises StoreTooNew: a newer program wrote it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._explained():
            self._connection = sqlite3.connect(
                f"file:{quote(str(path))}?mode=ro",
                uri=True,
                timeout=_BUSY_TIMEOUT_S,
                isolation_level=None,
            )
        try:
            with self._explained():
                self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        # One transaction for all that is read: records of different kinds fit together.
        self._connection.execute("BEGIN")
        meta = dict(self._connection.execute("SELECT key, value FROM meta").fetchall())
        version = int(meta.get("schema_version", 0))
        self.installation_id = str(meta.get("installation_id", ""))
        if version > KNOWN_VERSION:
            raise StoreTooNew(
                f"The record store {self._path} has schema version {version}; this program"
                f" reads {KNOWN_VERSION}"
            )
        tables = self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        self._tables = {name for (name,) in tables}

    def each(self, kind: type[R]) -> Iterator[R | StoreCorrupt]:
        """See :meth:`RecordReader.each`."""
        table = f"{kind.KIND}_records"
        if table not in self._tables:  # it comes with the next start of a controller
            return iter(())
        with self._explained():
            # The table's name is one of ours, not a caller's.
            rows = self._connection.execute(f'SELECT body FROM "{table}" ORDER BY id').fetchall()
        return decoded(kind, (body for (body,) in rows))

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._connection.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreUnavailable(
                f"The record store {self._path} cannot be read: {error}"
            ) from error
