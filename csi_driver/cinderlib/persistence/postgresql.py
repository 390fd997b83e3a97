"""PostgreSQL as the database store uses it: the lock, lost connections, what errors mean.

Used by ``factory`` and ``database`` only.  One connection writes, and the same one holds
an advisory lock: what has lost the lock cannot write.  When it is lost it is made anew,
and the entry ``last_commit`` of ``meta`` tells what happened meanwhile: nothing, another
controller, or a database that went back in time.  Readers have connections of their own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from csi_driver.base.errors import CinderCSIError, ConfigurationError
from csi_driver.cinderlib.persistence import schema
from csi_driver.cinderlib.persistence.postgresql_readers import Readers, is_lost
from csi_driver.cinderlib.persistence.postgresql_url import Address
from csi_driver.cinderlib.persistence.statements import setting_meta
from csi_driver.cinderlib.persistence.store import (
    StoreCorrupt,
    StoreLocked,
    StoreUnavailable,
)

LOG = logging.getLogger(__name__)

T = TypeVar("T")

OLDEST = 14
"""Major version of the oldest server that is used."""

LOCK_WAIT_MS = 2000
"""How long the lock is waited for: the session of a process that was killed ends soon."""

RESOLVE_S = 5.0
"""How long a commit whose answer was lost is asked after."""

_RETRY_S = 0.1
_ERRORS = (SQLAlchemyError, psycopg.Error)

# Classes of SQLSTATE that mean the content: damaged pages, missing tables or columns.
_DAMAGED = ("XX001", "XX002", "42P01", "42703")

# Errors that a new installation meets.
_ADVICE = {
    "42501": "Let the user own the database, or a schema of its own in it",
    "53100": "Make room on the server's disk; the call may be retried",
}

# The second number is the schema: stores in two schemas of a database are two.
_LOCK = "1129470281, hashtext(current_schema()::text)"

_HOLDER = text("""
    SELECT a.pid, a.application_name, coalesce(host(a.client_addr), 'this machine')
    FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND l.classid::bigint = 1129470281
      AND l.objid::bigint = hashtext(current_schema()::text)::bigint & 4294967295
""")

_SESSION = (
    # A host that is gone loses the lock after half a minute, not after hours.
    "SET tcp_keepalives_idle = 10",
    "SET tcp_keepalives_interval = 5",
    "SET tcp_keepalives_count = 3",
    "SET idle_session_timeout = 0",
    f"SET lock_timeout = {LOCK_WAIT_MS}",
)


class PostgreSQL:
    """A record store's schema in a PostgreSQL database; see :class:`~.engine.Database`.

    :raises StoreLocked: another process uses it.
    :raises StoreCorrupt: it is no record store, or a damaged one.
    :raises StoreTooNew: a newer program wrote it.
    :raises StoreUnavailable: it cannot be reached, made, read or written.
    :raises ConfigurationError: server or database are not fit for it.
    """

    # A server can give the lock to another while the connection is lost.
    exclusive = False

    def __init__(self, address: Address) -> None:
        self._address = address
        self._token = secrets.token_hex(8)
        # At most 63 bytes; whose session it is shows the token.
        self._me = f"cinder-csi {socket.gethostname()[:24]}/{os.getpid()} {self._token}"
        self._engine = self._make_engine()
        self._readers = Readers(self._engine)
        self._connection: Connection | None = None
        # Makes the error that ends the use of the store by this process.
        self._over: Callable[[], CinderCSIError] | None = None
        self._count = 0
        # What ``last_commit`` says as far as we know, and what it says if the last commit,
        # whose answer was lost, was one.
        self._marker = self._in_doubt = ""
        with contextlib.ExitStack() as undo, self._explained():
            undo.callback(self.close)
            self._connection = self._connect()
            self.dialect = self._connection.dialect
            self._set_marker = setting_meta(self.dialect)
            self.installation = self._prepare(self._connection)
            undo.pop_all()

    def rows(self, statement: str, parameters: Sequence[object]) -> list[Any]:
        """See :meth:`Database.rows`."""
        if self._over:
            raise self._over()
        try:
            return self._readers.rows(statement, parameters)
        except _ERRORS as error:
            raise self._explain(error) from error

    def write(self, work: Callable[[Any], T]) -> T:
        """See :meth:`Database.write`.

        :raises StoreLocked: another controller had the store after the connection was lost.
        :raises StoreCorrupt: the database lost changes that it had confirmed.
        """
        with self._explained():
            try:
                return self._transaction(work)
            except psycopg.Error:
                if self._connection is not None:
                    raise
            # The connection was lost, perhaps long ago, and nothing was committed.
            return self._transaction(work)

    def close(self) -> None:
        """See :meth:`Database.close`."""
        self._drop()
        self._readers.close()
        self._engine.dispose()

    # -- writing ---------------------------------------------------------------

    def _transaction(self, work: Callable[[Any], T]) -> T:
        raw: Any = self._own().connection.driver_connection
        self._count += 1
        marker = f"{self._token}/{self._count}"
        try:
            with raw.cursor() as cursor:
                answer = work(cursor)
                self._set_marker.run(cursor, {"name": schema.LAST_COMMIT, "setting": marker})
        except BaseException as error:
            self._roll_back(raw, error)
            raise
        try:
            raw.commit()
        except psycopg.Error as error:
            self._in_doubt = marker
            self._roll_back(raw, error)
            if self._connection is None and self._was_committed(marker):
                return answer
            raise
        except BaseException:
            # A signal: the next connection looks whether it was one.
            self._in_doubt = marker
            self._drop()
            raise
        self._marker, self._in_doubt = marker, ""
        return answer

    def _roll_back(self, raw: Any, after: BaseException) -> None:
        lost = is_lost(after)
        if not lost:
            try:
                raw.rollback()
            except psycopg.Error:
                lost = True
        if lost:
            LOG.debug("The connection to %s is lost", self._address.name)
            self._drop()

    def _was_committed(self, marker: str) -> bool:
        """Whether a commit whose answer was lost was one.

        :raises StoreUnavailable: it is not known, because the server does not come back.
        """
        deadline = time.monotonic() + RESOLVE_S
        while True:
            try:
                self._own()
            except _ERRORS as error:
                if time.monotonic() > deadline:
                    raise StoreUnavailable(
                        f"The connection to the record store {self._address.name} was lost in the"
                        " middle of a commit: whether the change is stored is not known",
                    ) from error
                time.sleep(_RETRY_S)
            else:
                return self._marker == marker

    def _own(self) -> Connection:
        """The connection that writes, made anew when it was lost.

        :raises CinderCSIError: the store is another controller's, or damaged: for good.
        """
        if self._over:
            raise self._over()
        if self._connection is None:
            connection = self._connect()
            try:
                self._look_what_happened(connection)
            except BaseException:
                connection.invalidate()
                connection.close()
                raise
            self._connection = connection
            LOG.info("The record store %s is connected again", self._address.name)
        return self._connection

    def _look_what_happened(self, connection: Connection) -> None:
        """Compare ``last_commit`` with what this process wrote last."""
        this_entry = schema.meta.c.key == schema.LAST_COMMIT
        with connection.begin():
            found = connection.execute(schema.meta.select().where(this_entry)).one().value
        if found in (self._marker, self._in_doubt):
            # Settled: what goes back to an older commit than this one has lost changes.
            self._marker, self._in_doubt = found, ""
            return
        name = self._address.name
        if found.startswith(self._token):
            self._over = lambda: StoreCorrupt(
                f"The record store {name} lost changes that it had confirmed",
                advice="It was restored, or a standby took over that lagged behind; see that it"
                " has the newest records, then restart this process",
            )
        else:
            self._over = lambda: StoreLocked(
                f"Another controller took the record store {name} over while the connection"
                " was lost",
                advice="Stop one of the two, and restart this process if it is to go on",
            )
        raise self._over()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # Not given back: to a pool, or with a rollback that would wait for the server.
            with contextlib.suppress(*_ERRORS):
                connection.invalidate()
                connection.close()

    # -- connecting ------------------------------------------------------------

    def _make_engine(self) -> Engine:
        return create_engine(
            self._address.url,
            poolclass=NullPool,
            # Parameters by position, as statements are prepared for; and no hstore.
            paramstyle="format",
            use_native_hstore=False,
            connect_args=self._address.arguments(self._me),
        )

    def _connect(self) -> Connection:
        """A connection that holds the lock."""
        connection = self._engine.connect()
        try:
            with connection.begin():
                for statement in _SESSION:
                    connection.exec_driver_sql(statement)
                _require_fitness(connection, self._address.name)
            self._lock(connection)
        except BaseException:
            connection.invalidate()
            connection.close()
            raise
        return connection

    def _lock(self, connection: Connection) -> None:
        with connection.begin():
            for holder in connection.execute(_HOLDER).all():
                if holder.application_name == self._me:
                    # Ours: the server has not noticed yet that we lost the connection.
                    connection.execute(
                        text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": holder.pid}
                    )
        try:
            with connection.begin():
                connection.exec_driver_sql(f"SELECT pg_advisory_lock({_LOCK})")
        except DBAPIError as error:
            if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
                raise
            with connection.begin():
                holders = [f"{who} ({where})" for _, who, where in connection.execute(_HOLDER)]
            raise StoreLocked(
                f"The record store {self._address.name} is in use by"
                f" {', '.join(holders) or 'another process'}",
                advice="Stop the other process, or give this one a database of its own",
            ) from error

    def _prepare(self, connection: Connection) -> schema.Installation:
        marker = f"{self._token}/0"
        with connection.begin():
            made = schema.prepare(connection, self._address.name)
            schema.note_commit(connection, marker)
        self._marker = marker
        return made

    # -- errors ----------------------------------------------------------------

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except _ERRORS as error:
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> CinderCSIError:
        cause = error.orig if isinstance(error, DBAPIError) else error
        said = self._address.without_password(" ".join(str(cause).split()))
        name = self._address.name
        state = getattr(cause, "sqlstate", None) or ""
        if state in _DAMAGED:
            return StoreCorrupt(f"The record store {name} is damaged: {said}")
        return StoreUnavailable(
            f"The record store {name} cannot be used now: {said}", advice=_ADVICE.get(state)
        )


def _require_fitness(connection: Connection, name: str) -> None:
    """Refuse a server that could lose or garble records; make every commit durable.

    :raises ConfigurationError: says what is wrong with it.
    """

    def setting(of: str) -> str:
        return str(connection.exec_driver_sql(f"SHOW {of}").scalar_one())

    if int(setting("server_version_num")) < OLDEST * 10_000:
        raise ConfigurationError(
            f"The server of {name} is PostgreSQL {setting('server_version')}",
            advice=f"Use PostgreSQL {OLDEST} or newer",
        )
    if setting("server_encoding") != "UTF8":
        raise ConfigurationError(
            f"The database {name} has the encoding {setting('server_encoding')}",
            advice="Make it with ENCODING 'UTF8' TEMPLATE template0",
        )
    if setting("fsync") == "off":
        LOG.warning("The server of %s runs with fsync=off: a power loss destroys records", name)
    if setting("synchronous_commit") == "off":
        connection.exec_driver_sql("SET synchronous_commit = on")
