"""Where ``cinder-csi records`` finds records and brings them: a state directory.

:class:`Home` is what an export and an import need of a place; the one of a cluster is
:mod:`~csi_driver.cli.records_cluster`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Protocol, TypeVar

from csi_driver.base.errors import ConfigurationError
from csi_driver.base.values import Confirmation
from csi_driver.cinderlib.persistence import importing
from csi_driver.cinderlib.persistence.factory import open_as_kept
from csi_driver.cinderlib.persistence.importing import Import
from csi_driver.cinderlib.persistence.reading import RecordReader
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    KeyValueRecord,
    Record,
    VolumeRecord,
)
from csi_driver.cinderlib.persistence.store import RecordStore
from csi_driver.cli import installation, store_options
from csi_driver.cli.records_counterparts import Counterparts
from csi_driver.cli.shared_directory import SharedDirectory
from csi_driver.config import Settings
from csi_driver.controller import restoring

Reader = TypeVar("Reader", bound=RecordReader)


class Home(Protocol[Reader]):
    """A place of records, and of what nodes tell about volumes."""

    def alone(self) -> AbstractContextManager[None]:
        """Keep controllers out meanwhile.

        :raises StoreLocked: one works here, or began meanwhile.
        """

    def reader(self) -> Reader:
        """A look at all records as of now; makes nothing.

        :raises ConfigurationError: there are none.
        """

    def confirmed(self, reader: Reader, records: Sequence[Record]) -> dict[str, Confirmation]:
        """What nodes proved and counts, by volume id."""

    def counterparts(self) -> Counterparts | None:
        """What users have of the volumes now, where that can be seen."""

    def receiving(self, installation_id: str, this: Import) -> AbstractContextManager[RecordStore]:
        """The store to import into, as it lies, with the marker set; controllers are kept out.

        :raises CinderCSIError: it is no place for these records; nothing was changed.
        """

    def confirm(self, confirmations: Sequence[tuple[Confirmation, str]]) -> None:
        """Let the ledger say this, unless it has a proof already; from which node beside it."""


class StateDirectory:
    """The records of a state directory: in SQLite, or in PostgreSQL by a URL."""

    def __init__(self, settings: Settings) -> None:
        self._directory = settings.state_dir
        self._url = settings.store_url
        self._kind = store_options.remembered("db", self._url)
        self._ledger = SharedDirectory(self._directory)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """See :meth:`Home.alone`."""
        self.reader().close()  # what is not there must not be made by opening it
        with closing(self._open()):
            yield

    def reader(self) -> RecordReader:
        """See :meth:`Home.reader`."""
        return store_options.reader(self._directory, self._url)

    def confirmed(self, reader: RecordReader, records: Sequence[Record]) -> dict[str, Confirmation]:
        """See :meth:`Home.confirmed`.

        :raises ConfigurationError: it is not the state directory of this database.
        """
        published = any(isinstance(each, ConnectionRecord) and each.node_id for each in records)
        if self._url and published:
            installation.require_of(self._directory, reader.installation_id, self._kind)
        volumes = (record.id for record in records if isinstance(record, VolumeRecord))
        found = ((volume_id, self._ledger.confirmation(volume_id)) for volume_id in volumes)
        return {volume_id: told for volume_id, told in found if told is not None}

    def counterparts(self) -> None:
        """See :meth:`Home.counterparts`: the orchestrator is not known here."""

    @contextmanager
    def receiving(self, installation_id: str, this: Import) -> Iterator[RecordStore]:
        """See :meth:`Home.receiving`."""
        if not self._directory.is_dir():
            raise ConfigurationError(
                f"There is no directory {self._directory}",
                advice="Make it (mode 0700) with the keys of these records in its directory keys",
            )
        store_options.require_url(
            installation.recorded_store(self._directory), self._url, self._directory
        )
        installation.require_room(self._directory, installation_id, self._kind)
        with closing(self._open()) as store:
            begun = store.get(KeyValueRecord, importing.MARKER) is not None
            if not (store.fresh or begun or store.installation_id == installation_id):
                raise ConfigurationError(
                    f"The record store belongs to installation {store.installation_id}, the"
                    f" records are of {installation_id}",
                    advice="Import into a store that is new; nothing was changed",
                )
            importing.begin(store, this)
            store.adopt(installation_id)
            yield store
            installation.prove(store, self._kind, self._directory)

    def confirm(self, confirmations: Sequence[tuple[Confirmation, str]]) -> None:
        """See :meth:`Home.confirm`."""
        for confirmation, _ in confirmations:
            if restoring.is_weaker(self._ledger.confirmation(confirmation.volume_id)):
                self._ledger.confirm(confirmation)

    def _open(self) -> RecordStore:
        return open_as_kept(store_options.asked("db", self._url), self._directory)
