"""The ``db`` and ``memory_db`` stores: records in SQLite, by SQLAlchemy Core.

Made by ``factory``, which alone imports this: SQLAlchemy is only loaded by those
who choose the store.  Writes go through one thread that commits in groups
(``group_commit``), reads go beside it.  What runs for every call is SQL text made
once (``statements``).  SQL that only SQLite understands is kept in ``sqlite``, so
that another database needs another such module.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from csi_driver.cinderlib.persistence import codec, conflicts, schema, sqlite
from csi_driver.cinderlib.persistence.group_commit import GroupCommit
from csi_driver.cinderlib.persistence.lock import ProcessLock
from csi_driver.cinderlib.persistence.records import RECORD_TYPES, Record
from csi_driver.cinderlib.persistence.statements import Prepared, Statements, setting_meta
from csi_driver.cinderlib.persistence.store import RecordStore, StoreCorrupt, StoreUnavailable

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class _Put:
    """A change to make: ``record`` as the caller knows it, and what is to be stored."""

    record: Record
    version: int
    body: str


@dataclass(frozen=True)
class _Delete:
    """A change to make: ``record``, as the caller knows it, goes."""

    record: Record


class DatabaseStore(RecordStore):
    """Records in a database that this process has for itself.

    :param path: the SQLite file, made when it is not there; None: in memory,
        gone when the store is closed.
    :raises StoreLocked: another process uses the file.
    :raises StoreCorrupt: the file is no record store, or a damaged one.
    :raises StoreTooNew: a newer program wrote it.
    :raises StoreUnavailable: it cannot be made, read or written.
    """

    def __init__(self, path: Path | None) -> None:
        self._name = str(path) if path else "in memory"
        # The one connection of a database in memory serves one thread at a time.
        self._one_at_a_time: contextlib.AbstractContextManager[object] = (
            contextlib.nullcontext() if path else threading.Lock()
        )
        with contextlib.ExitStack() as undo, self._explained():
            if path:
                undo.callback(_claim(path).release)
            self._engines = sqlite.open_file(path) if path else sqlite.open_in_memory()
            undo.callback(self._engines.dispose)
            dialect = self._engines.writer.dialect
            self._statements = {kind.KIND: Statements(kind, dialect) for kind in RECORD_TYPES}
            self._set_meta = setting_meta(dialect)
            installation = self._prepare()
            if path:
                _make_names_durable(path.parent)
            self._release = undo.pop_all()
        self.installation_id = installation.id
        self.fresh = installation.fresh
        self._versions = itertools.count(installation.last_version + 1)
        self._last_version = installation.last_version
        self._closed = False
        self._writer = GroupCommit(self._commit)

    def get(self, kind: type[R], record_id: str) -> R | None:
        """See :meth:`RecordStore.get`."""
        statement = self._statements[kind.KIND].body
        rows = self._read(statement, {"record_id": record_id})
        return codec.decode(kind, rows[0][0]) if rows else None

    def put(self, record: R) -> R:
        """See :meth:`RecordStore.put`."""
        version = next(self._versions)
        body = codec.encode(msgspec.structs.replace(record, version=version)).decode()
        with self._explained():
            self._writer.submit(_Put(record, version, body)).result()
        return codec.decode(type(record), body)

    def delete(self, record: Record) -> None:
        """See :meth:`RecordStore.delete`."""
        with self._explained():
            self._writer.submit(_Delete(record)).result()

    def list(
        self,
        kind: type[R],
        *,
        where: Mapping[str, str] | None = None,
        after: str = "",
        limit: int | None = None,
    ) -> list[R]:
        """See :meth:`RecordStore.list`."""
        selected = codec.selection(kind, where)
        statement = self._statements[kind.KIND].page(tuple(selected), limit is not None)
        rows = self._read(statement, {"after": after, "limit": limit, **selected})
        return [codec.decode(kind, body) for (body,) in rows]

    def close(self) -> None:
        """Commit what waits; close the database and give up its lock."""
        self._closed = True
        self._writer.close()
        self._release.close()

    def _prepare(self) -> schema.Installation:
        damage = sqlite.why_damaged(self._engines)
        if damage:
            raise StoreCorrupt(f"The record store {self._name} is damaged: {damage}")
        with self._engines.writer.begin() as connection:
            return schema.prepare(connection, self._name)

    def _commit(self, changes: Sequence[_Put | _Delete]) -> Sequence[Exception | None]:
        """Make the changes in one transaction; called by the writer thread alone."""
        with self._one_at_a_time, sqlite.writing(self._engines) as cursor:
            outcomes = [self._apply(cursor, change) for change in changes]
            puts = [change.version for change in changes if isinstance(change, _Put)]
            if puts:
                self._last_version = max(self._last_version, *puts)
                # With the records: a version that was given is never given again.
                setting = {"name": schema.LAST_VERSION, "setting": str(self._last_version)}
                self._set_meta.run(cursor, setting)
        return outcomes

    def _apply(self, cursor: Any, change: _Put | _Delete) -> Exception | None:
        """Make one change unless it conflicts with what is stored; answer the conflict."""
        record = change.record
        statements = self._statements[record.KIND]
        this = {"record_id": record.id}
        row = statements.version.run(cursor, this).fetchone()
        stored = None if row is None else row[0]
        if isinstance(change, _Delete):
            refusal = conflicts.why_not_delete(record, stored)
            if refusal is None and stored is not None:
                statements.delete.run(cursor, this)
            return refusal
        refusal = conflicts.why_not_put(record, stored)
        if refusal is None:
            columns = {"version": change.version, "body": change.body}
            statement = statements.insert if stored is None else statements.update
            statement.run(cursor, this | columns | codec.indexed_values(record))
        return refusal

    def _read(self, statement: Prepared, values: dict[str, Any]) -> Sequence[Any]:
        if self._closed:
            raise StoreUnavailable("The record store is closed")
        try:
            with self._one_at_a_time:
                return self._engines.reader.rows(statement.text, statement.bind(values))
        except sqlite.ERRORS as error:
            raise sqlite.explain(error, self._name) from error

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite.ERRORS as error:
            raise sqlite.explain(error, self._name) from error


def _claim(path: Path) -> ProcessLock:
    """Make the file if need be, and keep other processes out of it."""
    try:
        sqlite.create_private(path)
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
