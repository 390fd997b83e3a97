"""The ``db`` and ``memory_db`` stores: records in a database, by SQLAlchemy Core.

Made by ``factory``, which alone imports this: SQLAlchemy is only loaded by those
who choose the store.  Threads that write at the same time share a transaction
(``group_commit``), reads go beside it.  What runs for every call is SQL text made
once (``statements``).  What SQLite and PostgreSQL do differently is kept in the
modules of these names.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec

from csi_driver.cinderlib.persistence import codec, conflicts, schema
from csi_driver.cinderlib.persistence.engine import Database
from csi_driver.cinderlib.persistence.group_commit import GroupCommit
from csi_driver.cinderlib.persistence.records import RECORD_TYPES, Record
from csi_driver.cinderlib.persistence.seen import Seen
from csi_driver.cinderlib.persistence.statements import Prepared, Statements, setting_meta
from csi_driver.cinderlib.persistence.store import RecordStore, StoreUnavailable

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


@dataclass(frozen=True)
class _Adopt:
    """A change to make: the store belongs to another installation."""

    installation_id: str


_Change = _Put | _Delete | _Adopt
_Together = tuple[_Change, ...]
"""Changes of one caller, of which all are made or none."""

VERSIONS_AT_ONCE = 1000
"""So many versions are marked as given before they are, lest every commit write it down."""


_PAGE = 1000
"""Records that are looked at in one query when the store is opened."""


class _RefusedHalfway(Exception):
    """Changes of a caller, the first of which were made before another met a conflict."""

    def __init__(self, changes: _Together, refusal: Exception) -> None:
        self.changes = changes
        self.refusal = refusal


class DatabaseStore(RecordStore):
    """Records in a database that this process has for itself.

    :param database: open, its tables made; closed with the store.
    :param lasting: it outlives the process.
    """

    def __init__(self, database: Database, *, lasting: bool) -> None:
        self._database = database
        self.lasting = lasting
        dialect = database.dialect
        self._statements = {kind.KIND: Statements(kind, dialect) for kind in RECORD_TYPES}
        self._set_meta = setting_meta(dialect)
        installation = database.installation
        self.installation_id = installation.id
        self.fresh = installation.fresh
        self._versions = itertools.count(installation.last_version + 1)
        # The greatest version that the database knows may have been given.  For who commits.
        self._marked = installation.last_version
        self._closed = False
        # None: only a query tells what is there.  Changed by who commits.
        self._seen: Seen | None = None
        if database.exclusive:
            try:
                self._seen = self._look_at_all()
            except BaseException:
                database.close()
                raise
        self._writer = GroupCommit(self._commit)

    def get(self, kind: type[R], record_id: str) -> R | None:
        """See :meth:`RecordStore.get`."""
        if self._is_absent(kind, {"id": record_id}):
            return None
        statement = self._statements[kind.KIND].body
        rows = self._read(statement, {"record_id": record_id})
        return codec.decode(kind, rows[0][0]) if rows else None

    def put(self, record: R) -> R:
        """See :meth:`RecordStore.put`."""
        put = self._put(record)
        self._change(put)
        return codec.decode(type(record), put.body)

    def delete(self, record: Record) -> None:
        """See :meth:`RecordStore.delete`."""
        self._change(_Delete(record))

    def replace(self, old: Record, new: R) -> R:
        """See :meth:`RecordStore.replace`."""
        put = self._put(new)
        self._change(put, _Delete(old))
        return codec.decode(type(new), put.body)

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
        if self._is_absent(kind, selected):
            return []
        statement = self._statements[kind.KIND].page(tuple(selected), limit is not None)
        rows = self._read(statement, {"after": after, "limit": limit, **selected})
        return [codec.decode(kind, body) for (body,) in rows]

    def adopt(self, installation_id: str) -> None:
        """See :meth:`RecordStore.adopt`."""
        self._change(_Adopt(installation_id))
        self.installation_id = installation_id

    def close(self) -> None:
        """Commit what waits; close the database and give up its lock."""
        self._closed = True
        self._writer.close()
        self._database.close()

    def _put(self, record: Record) -> _Put:
        codec.require_storable(record)
        version = next(self._versions)
        body = codec.encode(msgspec.structs.replace(record, version=version)).decode()
        return _Put(record, version, body)

    def _change(self, *changes: _Change) -> None:
        """Make the changes, all or none; durable when it returns."""
        self._writer.submit(changes).result()

    def _commit(self, batch: Sequence[_Together]) -> Sequence[Exception | None]:
        """Make the changes in one transaction; called by one thread at a time."""
        refused: dict[int, Exception] = {}
        while True:
            tried = [changes for changes in batch if id(changes) not in refused]
            try:
                made, self._marked = self._database.write(partial(self._make, tried))
            except _RefusedHalfway as halfway:
                # Nothing of the batch was kept: it is made again, without this one.
                refused[id(halfway.changes)] = halfway.refusal
            else:
                outcomes = iter(made)
                return [refused.get(id(changes)) or next(outcomes) for changes in batch]

    def _make(
        self, batch: Sequence[_Together], cursor: Any
    ) -> tuple[Sequence[Exception | None], int]:
        """The conflict of each, and the greatest version that the database has marked."""
        outcomes = [self._make_together(cursor, changes) for changes in batch]
        given = [change.version for each in batch for change in each if isinstance(change, _Put)]
        last = max(given, default=0)
        if last <= self._marked:
            return outcomes, self._marked
        # With the records: a version that was given is never given again.
        marked = last + VERSIONS_AT_ONCE
        self._set_meta.run(cursor, {"name": schema.LAST_VERSION, "setting": str(marked)})
        return outcomes, marked

    def _make_together(self, cursor: Any, changes: _Together) -> Exception | None:
        for position, change in enumerate(changes):
            refusal = self._apply(cursor, change)
            if refusal is not None and position:
                raise _RefusedHalfway(changes, refusal)
            if refusal is not None:
                return refusal
        return None

    def _apply(self, cursor: Any, change: _Change) -> Exception | None:
        """Make one change unless it conflicts with what is stored; answer the conflict."""
        if isinstance(change, _Adopt):
            setting = {"name": schema.INSTALLATION_ID, "setting": change.installation_id}
            self._set_meta.run(cursor, setting)
            return None
        record = change.record
        statements = self._statements[record.KIND]
        this = {"record_id": record.id, "known": record.version}
        if isinstance(change, _Delete):
            if statements.delete.run(cursor, this).rowcount:
                return None
            return conflicts.why_not_delete(record, self._stored_version(cursor, record))
        indexed = codec.indexed_values(record)
        if self._seen is not None:
            self._seen.note(record.KIND, {"id": record.id} | indexed)
        columns = {"version": change.version, "body": change.body}
        statement = statements.update if record.version else statements.insert
        if statement.run(cursor, this | columns | indexed).rowcount:
            return None
        return conflicts.why_not_put(record, self._stored_version(cursor, record))

    def _stored_version(self, cursor: Any, record: Record) -> int | None:
        statement = self._statements[record.KIND].version
        row = statement.run(cursor, {"record_id": record.id}).fetchone()
        return None if row is None else int(row[0])

    def _look_at_all(self) -> Seen:
        """What is there when the store is opened."""
        seen = Seen()
        for kind in RECORD_TYPES:
            statement = self._statements[kind.KIND].keys
            first, more = "", True
            while more:
                rows = self._read(statement, {"first": first, "limit": _PAGE})
                for row in rows:
                    seen.note(kind.KIND, dict(zip(("id", *kind.INDEXED), row, strict=True)))
                    first = row[0]
                more = len(rows) == _PAGE
        return seen

    def _is_absent(self, kind: type[Record], values: Mapping[str, str]) -> bool:
        """Whether no record has all these values, if that is known without a query."""
        self._require_open()
        return self._seen is not None and self._seen.rules_out(kind.KIND, values)

    def _require_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("The record store is closed")

    def _read(self, statement: Prepared, values: dict[str, Any]) -> Sequence[Any]:
        self._require_open()
        return self._database.rows(statement.text, statement.bind(values))
