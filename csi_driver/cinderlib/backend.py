"""A storage backend of the object layer: one driver, one configuration, one name.

For programs; ``cinder-csi`` uses :class:`csi_driver.cinderlib.manager.VolumeManager`
directly.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from csi_driver.cinderlib import session
from csi_driver.cinderlib.backend_objects import BackendObjects
from csi_driver.cinderlib.exceptions import BackendExists, BackendNotFound
from csi_driver.cinderlib.key_value import Persistence
from csi_driver.cinderlib.manager import VolumeManager
from csi_driver.cinderlib.operations import BackendOperations
from csi_driver.cinderlib.persistence.choice import StoreConfig
from csi_driver.cinderlib.persistence.records import VolumeRecord
from csi_driver.cinderlib.stats import copied

if TYPE_CHECKING:
    from csi_driver.cinderlib.volume import Volume

T = TypeVar("T")


class _OfSession(Generic[T]):
    """An attribute of the class and of its instances that the session answers."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read

    def __get__(self, instance: object, owner: type | None = None) -> T:
        return self._read()


class Backend(BackendOperations, BackendObjects):
    """A backend by its name: the same configuration answers the same instance.

    Attributes that are not here are the driver's (``initialized``, ``capabilities``, ...).

    :param volume_backend_name: unique in the process.
    :param driver_cfg: ``volume_driver``, by its short or full name (``docs/drivers.md``), and
        the driver's options, as in cinder.conf.
    :raises BackendExists: the name has another configuration (also a ValueError).
    :raises UnknownDriver, MissingPackage, UnknownOption, InvalidOption: the configuration is
        wrong.
    :raises BackendSetupFailed: the driver's own setup failed.
    """

    backends: ClassVar[dict[str, Backend]] = {}
    """Every backend of the process, by name.

    Never changed but replaced, so that threads may go through it at any time.
    """

    # Protects the replacing of ``backends``. What takes long, a driver's set-up, runs under
    # the lock of the backend's name: two threads that ask for one backend get one, and a
    # slow array keeps no other waiting.
    _lock: ClassVar[threading.Lock] = threading.Lock()

    global_setup = staticmethod(session.setup)
    """The same as :func:`csi_driver.cinderlib.setup`."""

    global_initialization = _OfSession(session.is_set_up)
    """Whether the process is set up."""

    project_id = _OfSession(session.project_id)
    """The project that drivers see on volumes."""

    user_id = _OfSession(session.user_id)
    """The user that drivers see on volumes."""

    persistence = _OfSession(Persistence)
    """The record store; see :class:`csi_driver.cinderlib.key_value.Persistence`."""

    manager: VolumeManager
    _options: dict[str, Any]

    def __new__(cls, volume_backend_name: str, **driver_cfg: Any) -> Backend:
        """Answer the backend of this name, made if there is none."""
        with _exclusive(volume_backend_name):
            known = Backend.backends.get(volume_backend_name)
            if known is not None:
                if known._options != driver_cfg:
                    raise BackendExists(
                        f"Backend {volume_backend_name!r} has another configuration"
                    )
                return known
            made = super().__new__(cls)
            lookup = session.current().lookup
            made._options = copied(driver_cfg)
            made.manager = VolumeManager(volume_backend_name, driver_cfg, lookup)
            made._prepare()
            with cls._lock:
                Backend.backends = {**Backend.backends, volume_backend_name: made}
            return made

    @classmethod
    def set_persistence(cls, persistence_config: StoreConfig) -> None:
        """Copy all records to another store and go on there, while objects are in use.

        Waits until no operation runs; those that begin meanwhile wait.  The store of before
        is closed unless it was given as an instance.

        :param persistence_config: as for :func:`csi_driver.cinderlib.setup`.
        :raises InvalidPersistence: there is no such store or option.
        :raises RecordExists: the other store has other records under the same ids.
        :raises StoreUnavailable: a store cannot be used.  After any error the store of
            before stays in use, and the call may be repeated.
        """
        session.set_persistence(persistence_config)

    @classmethod
    def named(cls, name: str) -> Backend:
        """The backend of this name.

        :raises BackendNotFound: none was made in this process.
        """
        found = Backend.backends.get(name)
        if found is None:
            raise BackendNotFound(f"Backend {name!r} is not loaded in this process")
        return found

    def close(self) -> None:
        """Forget the backend; its volumes stay, and its name is free.

        Nothing happens to a backend that is closed already.
        """
        with _exclusive(self.id):
            if Backend.backends.get(self.id) is not self:
                return
            with self._lock:
                Backend.backends = {n: b for n, b in Backend.backends.items() if b is not self}
            self.manager.close()

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
        """The backend's name, and its options if setup's ``output_all_backend_info`` says so.

        The options hold credentials.
        """
        named = {"volume_backend_name": self.id}
        if session.current().options.output_all_backend_info:
            return {**named, **copied(self._options)}
        return named

    @property
    def pools(self) -> list[dict[str, Any]]:
        """The backend's pools, as :meth:`stats` has them."""
        return list(self.stats()["pools"])

    @property
    def pool_names(self) -> tuple[str, ...]:
        """The names of the backend's pools."""
        return tuple(pool.name for pool in self.manager.stats().pools)

    def stats(self, refresh: bool = False) -> dict[str, Any]:
        """The backend's statistics, as its driver reports them to Cinder's scheduler.

        ``pools`` is there in any case: a driver without pools has one, called like the
        backend.  Sizes are GiB, as numbers or text, or 'infinite' or 'unknown'.

        :param refresh: ask the array; else what it told last.
        """
        told: dict[str, Any] = copied(self.manager.stats(refresh).reported)
        return told

    def volumes_filtered(
        self, volume_id: str | None = None, volume_name: str | None = None
    ) -> list[Volume]:
        """The recorded volumes of the backend with this id, this name, or both; or all."""
        from csi_driver.cinderlib.volume import Volume

        where = {"backend": self.id}
        if volume_name is not None:
            where["name"] = volume_name
        records = session.current().store.list(VolumeRecord, where=where)
        return [Volume._of_record(record) for record in records if volume_id in (None, record.id)]

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


def _exclusive(name: str) -> AbstractContextManager[None]:
    return session.current().exclusive(f"backend {name}")
