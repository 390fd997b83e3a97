"""Reads the records of a cluster beside its controllers.

Used by ``cinder-csi orphans``, ``keys`` and ``records``; see ``persistence.reading`` for the
same in a database.  Watches nothing, writes nothing, and makes no CinderInstallation.  What
is sealed stays sealed.  All kinds are read at one resource version, so that a volume and its
connections fit together: the API server has them out of one etcd.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from csi_driver.base.errors import ConfigurationError
from csi_driver.cinderlib.persistence.kubernetes import installations, objects
from csi_driver.cinderlib.persistence.kubernetes.resources import BY_RECORD
from csi_driver.cinderlib.persistence.reading import RecordReader
from csi_driver.cinderlib.persistence.records import Record
from csi_driver.cinderlib.persistence.store import StoreCorrupt, StoreUnavailable
from csi_driver.kube.api import Api, Object
from csi_driver.kube.errors import ApiError
from csi_driver.kube.group import of_driver
from csi_driver.kube.node_objects import CONFIRMATIONS

R = TypeVar("R", bound=Record)


class ClusterReader(RecordReader):
    """A look into the records of one driver.

    Nothing is kept: each kind is read when it is asked for, which has to be within the five
    minutes that an API server remembers.

    :param api: closed with the reader.
    :param driver: the CSI driver name.
    :raises ConfigurationError: no controller of that name ever had records in this cluster.
    :raises StoreUnavailable: the API server does not answer, or refuses.
    """

    def __init__(self, api: Api, driver: str) -> None:
        self._api = api
        self._driver = driver
        self._version = ""
        try:
            found = installations.find(api, driver)
        except ApiError as error:
            raise self._unavailable(error) from error
        if found is None:
            raise ConfigurationError(
                f"The cluster has no records of the driver {driver}",
                advice="Give the --driver-name that cinder-csi serve has",
            )
        self.installation_id = found

    def each(self, kind: type[R]) -> Iterator[R | StoreCorrupt]:
        """See :meth:`RecordReader.each`."""
        for item in self._items(BY_RECORD[kind].path):
            try:
                yield objects.to_record(kind, item)
            except StoreCorrupt as error:
                yield error

    def confirmations(self) -> Iterator[Object]:
        """What nodes confirmed, as objects.

        :raises StoreUnavailable: they cannot be read.
        """
        return self._items(CONFIRMATIONS)

    def close(self) -> None:
        """Close the connection."""
        self._api.close()

    def _items(self, path: str) -> Iterator[Object]:
        query = of_driver(self._driver)
        if self._version:  # of what was read first; a version is one of the whole cluster
            query |= {"resourceVersion": self._version, "resourceVersionMatch": "Exact"}
        try:
            items, version = self._api.stream(path, query)
            self._version = self._version or version
            yield from items
        except ApiError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: ApiError) -> StoreUnavailable:
        return StoreUnavailable(
            f"The records of {self._driver} cannot be read: {error.message}", advice=error.advice
        )
