"""The interface that every record store implements, and its errors.

Called by ``controller`` and the object layer; implemented by ``memory``,
``database`` and later by the Kubernetes store.  All of them pass the one suite
``tests/unit/stores/test_store_behaviour.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TypeVar

from csi_driver.base import faults
from csi_driver.base.errors import CinderCSIError
from csi_driver.cinderlib.persistence.records import RECORD_TYPES, Record

R = TypeVar("R", bound=Record)

BETWEEN = "store/replace/between"
"""Fault point of stores that replace a record by two changes: between them."""


class RecordConflict(CinderCSIError):
    """The stored record is not the version that the change was planned on."""

    advice = "Retry; the call plans again on the newer record"


class RecordExists(RecordConflict):
    """A record with this id exists already."""


class StoreUnavailable(CinderCSIError):
    """The store cannot be reached or written now; nothing of the change is kept.

    Except when the message says that it is not known: the answer to a commit was lost with
    the connection to a server.  Who repeats the call reads the record anew.
    """

    advice = "Check the database, its disk space and its permissions; the call may be retried"


class StoreCorrupt(CinderCSIError):
    """The store's content cannot be understood."""

    advice = "Restore the store from a backup; it was not changed"


class StoreTooNew(CinderCSIError):
    """The store was written by a newer version of this program."""

    advice = "Run that newer version; the store was not changed"


class StoreLocked(CinderCSIError):
    """Another controller process uses the store."""

    advice = "Stop the other process, or give this one a state directory of its own"


class RecordStore(ABC):
    """Keeps records; thread-safe; a change is durable when the call returns.

    ``installation_id`` is random, made once with the store.  ``fresh`` says that
    this process made it: nothing was recorded before.  ``lasting`` says that it outlives
    the process: the secrets in its records are sealed then.
    """

    installation_id: str
    fresh: bool
    lasting: bool = True

    @abstractmethod
    def get(self, kind: type[R], record_id: str) -> R | None:
        """The record, or None.

        :raises StoreUnavailable: the store cannot be read.
        """

    @abstractmethod
    def put(self, record: R) -> R:
        """Store the record and return it with its new version.

        ``version`` 0 inserts; any other must be the stored one.

        :raises InvalidRequest: id or an indexed field is longer than some store can index.
        :raises TypeError: it holds something that JSON has no place for.
        :raises RecordExists: version 0, and the id exists.
        :raises RecordConflict: the stored version is another, or the record is gone.
        :raises StoreUnavailable: nothing was stored.
        """

    @abstractmethod
    def delete(self, record: Record) -> None:
        """Remove the record; nothing happens when it is gone already.

        :raises RecordConflict: the stored version is another.
        :raises StoreUnavailable: nothing was removed.
        """

    def replace(self, old: Record, new: R) -> R:
        """Store ``new`` and remove ``old``, of any kinds; the answer is that of :meth:`put`.

        One change where the store can: both or nothing.  Else ``new`` is stored first, and
        what fails in between leaves both.

        :raises: what :meth:`put` and :meth:`delete` raise.
        """
        stored = self.put(new)
        faults.reach(BETWEEN)
        self.delete(old)
        return stored

    @abstractmethod
    def list(
        self,
        kind: type[R],
        *,
        where: Mapping[str, str] | None = None,
        after: str = "",
        limit: int | None = None,
    ) -> list[R]:
        """Records in the order of their ids.

        :param where: equal values of fields in the type's ``INDEXED``.
        :param after: only ids greater than this one ('' from the beginning).
        :param limit: at most so many.
        :raises ValueError: ``where`` names a field that is not indexed.
        """

    def adopt(self, installation_id: str) -> None:
        """Belong to another installation, whose records are copied into this new store.

        A store that lasts keeps the id, too.
        """
        self.installation_id = installation_id

    @abstractmethod
    def close(self) -> None:
        """Release files, locks and threads; may be called twice."""


def pages(store: RecordStore, limit: int = 500) -> Iterator[list[Record]]:
    """Every record of a store, kind by kind, ``limit`` at a time.

    :raises StoreUnavailable: the store cannot be read.
    """
    for kind in RECORD_TYPES:
        after = ""
        while page := store.list(kind, after=after, limit=limit):
            yield list(page)
            after = page[-1].id
