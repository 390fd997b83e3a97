"""A storage backend of the object layer: one driver, one configuration, one name.

For programs; ``cinder-csi`` uses :class:`csi_driver.cinderlib.manager.VolumeManager`
directly.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ClassVar

from csi_driver.cinderlib import session
from csi_driver.cinderlib.exceptions import BackendExists, BackendNotFound
from csi_driver.cinderlib.manager import VolumeManager
from csi_driver.cinderlib.persistence.records import VolumeRecord
from csi_driver.cinderlib.stats import BackendStats

if TYPE_CHECKING:
    from csi_driver.cinderlib.volume import Volume


class Backend:
    """A backend by its name: the same configuration answers the same instance.

    Attributes that are not here are the driver's (``initialized``, ``capabilities``, ...).

    :param volume_backend_name: unique in the process.
    :param driver_cfg: ``volume_driver`` and the driver's options, as in cinder.conf.
    :raises BackendExists: the name has another configuration (also a ValueError).
    :raises UnknownDriver, UnknownOption, InvalidOption: the configuration is wrong.
    :raises BackendSetupFailed: the driver's own setup failed.
    """

    backends: ClassVar[dict[str, Backend]] = {}
    """Every backend of the process, by name."""

    # Protects ``backends``; held while a driver is set up, so that two threads which ask
    # for one backend at once get one.
    _lock: ClassVar[threading.RLock] = threading.RLock()

    manager: VolumeManager
    _options: dict[str, Any]

    def __new__(cls, volume_backend_name: str, **driver_cfg: Any) -> Backend:
        """Answer the backend of this name, made if there is none."""
        with cls._lock:
            known = cls.backends.get(volume_backend_name)
            if known is not None:
                if known._options != driver_cfg:
                    raise BackendExists(
                        f"Backend {volume_backend_name!r} has another configuration"
                    )
                return known
            made = super().__new__(cls)
            lookup = session.current().lookup
            made._options = dict(driver_cfg)
            made.manager = VolumeManager(volume_backend_name, driver_cfg, lookup)
            cls.backends[volume_backend_name] = made
            return made

    @classmethod
    def named(cls, name: str) -> Backend:
        """The backend of this name.

        :raises BackendNotFound: none was made in this process.
        """
        with cls._lock:
            if name not in cls.backends:
                raise BackendNotFound(f"Backend {name!r} is not loaded in this process")
            return cls.backends[name]

    def close(self) -> None:
        """Forget the backend; its volumes stay, and its name is free."""
        with self._lock:
            self.manager.close()
            self.backends.pop(self.id, None)

    @property
    def id(self) -> str:
        """The backend's name."""
        return self.manager.name

    @property
    def driver(self) -> Any:
        """The Cinder driver."""
        return self.manager.driver

    @property
    def config(self) -> dict[str, Any]:
        """The backend's name; the options hold credentials and are not shown."""
        return {"volume_backend_name": self.id}

    @property
    def pool_names(self) -> tuple[str, ...]:
        """The names of the backend's pools."""
        return tuple(pool.name for pool in self.manager.stats().pools)

    def stats(self, refresh: bool = False) -> BackendStats:
        """The backend's statistics; see :meth:`VolumeManager.stats`."""
        return self.manager.stats(refresh)

    @property
    def volumes(self) -> list[Volume]:
        """The recorded volumes of the backend."""
        from csi_driver.cinderlib.volume import Volume

        records = session.current().store.list(VolumeRecord, where={"backend": self.id})
        return [Volume._of_record(record) for record in records]

    def create_volume(
        self,
        size: int,
        name: str = "",
        description: str = "",
        bootable: bool = False,
        **fields: Any,
    ) -> Volume:
        """Make a volume; see :class:`Volume` for the fields and :meth:`Volume.create`.

        :param size: in GiB.
        """
        from csi_driver.cinderlib.volume import Volume

        volume = Volume(
            self, size=size, name=name, description=description, bootable=bootable, **fields
        )
        volume.create()
        return volume

    def validate_connector(self, connector: dict[str, Any]) -> None:
        """Let the driver say whether a host can be connected.

        :raises cinder.exception.InvalidConnectorException: it cannot.
        """
        self.driver.validate_connector(connector)

    def __getattr__(self, name: str) -> Any:
        # Only for what is not found; a half-made instance has no manager yet.
        if name.startswith("__") or "manager" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.manager.driver, name)

    def __repr__(self) -> str:
        return f"<Backend {self.id}>"
