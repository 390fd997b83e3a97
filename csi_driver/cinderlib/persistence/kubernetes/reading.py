"""Reads the records of a cluster beside its controllers.

Used by ``cinder-csi orphans`` and ``cinder-csi keys``; see ``persistence.reading`` for the
same in a database.  Watches nothing, writes nothing, and makes no CinderInstallation.  What
is sealed stays sealed.  Each kind is read as of one moment, one kind after the other.
"""

from __future__ import annotations

from typing import TypeVar

from csi_driver.base.errors import ConfigurationError
from csi_driver.cinderlib.persistence.kubernetes import objects
from csi_driver.cinderlib.persistence.kubernetes.resources import BY_RECORD
from csi_driver.cinderlib.persistence.records import Record
from csi_driver.cinderlib.persistence.store import StoreUnavailable
from csi_driver.kube.api import Api
from csi_driver.kube.errors import ApiError, ApiNotFound
from csi_driver.kube.group import collection, of_driver

R = TypeVar("R", bound=Record)


class ClusterReader:
    """A look into the records of one driver.

    :param driver: the CSI driver name.
    :raises ConfigurationError: no controller of that name ever had records in this cluster.
    :raises StoreUnavailable: the API server does not answer, or refuses.
    """

    def __init__(self, api: Api, driver: str) -> None:
        self._api = api
        self._driver = driver
        try:
            api.get(f"{collection('cinderinstallations')}/{driver}")
        except ApiNotFound as error:
            raise ConfigurationError(
                f"The cluster has no records of the driver {driver}",
                advice="Give the --driver-name that cinder-csi serve has",
            ) from error
        except ApiError as error:
            raise self._unavailable(error) from error

    def list(self, kind: type[R]) -> list[R]:
        """All records of a kind, in the order of their ids; sealed parts as they are.

        :raises StoreUnavailable: they cannot be read.
        :raises StoreCorrupt: one cannot be understood.
        """
        try:
            found, _ = self._api.stream(BY_RECORD[kind].path, of_driver(self._driver))
            read = [objects.to_record(kind, item) for item in found]
        except ApiError as error:
            raise self._unavailable(error) from error
        return sorted(read, key=lambda record: record.id)

    def close(self) -> None:
        """Close the connection."""
        self._api.close()

    def _unavailable(self, error: ApiError) -> StoreUnavailable:
        return StoreUnavailable(
            f"The records of {self._driver} cannot be read: {error.message}", advice=error.advice
        )
