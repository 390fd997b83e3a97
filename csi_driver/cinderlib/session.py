"""What the objects of a process share: its record store, its locks, its attachers.

Made by :func:`setup`, which programs call and which the first ``Backend`` implies; used
by the objects.  ``cinder-csi serve`` does not use it: the controller has a store and
locks of its own.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csi_driver.attach.attacher import DEVICE_SCAN_ATTEMPTS, Attacher, AttachSettings, Execute
from csi_driver.base.errors import ConfigurationError
from csi_driver.cinderlib.exceptions import InvalidPersistence, SetupConflict
from csi_driver.cinderlib.locks import ObjectLocks
from csi_driver.cinderlib.lookup import StoreLookup
from csi_driver.cinderlib.persistence.choice import StoreConfig
from csi_driver.cinderlib.persistence.copying import copy_records
from csi_driver.cinderlib.persistence.exchangeable import ExchangeableStore
from csi_driver.cinderlib.persistence.factory import open_store
from csi_driver.cinderlib.persistence.store import RecordStore
from csi_driver.cinderlib.runtime import bootstrap

LOG = logging.getLogger(__name__)

DEFAULT_PROJECT_ID = DEFAULT_USER_ID = "cinderlib"
"""Project and user of volumes when none are given, as in cinderlib."""

CHATTY = (
    "castellan",
    "cinder",
    "os_brick",
    "oslo_concurrency",
    "oslo_config",
    "oslo_messaging",
    "oslo_policy",
    "oslo_privsep",
    "oslo_service",
    "oslo_utils",
    "oslo_versionedobjects",
    "oslo_vmware",
    "stevedore",
    "tooz",
)
"""Loggers that ``disable_logs`` keeps away from those of the host program."""


@dataclass(frozen=True)
class LibraryOptions:
    """How the objects behave; see :func:`setup`."""

    non_uuid_ids: bool = False
    output_all_backend_info: bool = False
    fail_on_missing_backend: bool = True


class Session:
    """The store and the locks behind the objects.  Thread-safe."""

    def __init__(
        self,
        settings: bootstrap.RuntimeSettings,
        store: RecordStore,
        options: LibraryOptions = LibraryOptions(),
    ) -> None:
        self.settings = settings
        self.options = options
        self.store = ExchangeableStore(store)
        self.lookup = StoreLookup(self.store)
        self._locks = ObjectLocks()
        # Whether the program made the store, and closes it.
        self._given = True

    def exclusive(self, record_id: str) -> AbstractContextManager[None]:
        """One thread at a time works on an object; the others wait."""
        return self._locks.exclusive(record_id)

    def move_to(self, config: StoreConfig) -> None:
        """Copy all records to another store and go on there; see ``Backend.set_persistence``."""
        target = _open(config, self.settings.state_path)
        if target is self.store.inner:
            return
        given = _is_made(config)
        try:
            with self._locks.alone():
                before, was_given = self.store.inner, self._given
                copied = copy_records(before, target)
                self.store.exchange(target)
                self._given = given
        except BaseException:
            if not given:
                target.close()
            raise
        LOG.info("%d records were moved to another store", copied.total())
        if not was_given:
            before.close()

    def attacher(
        self,
        *,
        multipath: bool = False,
        enforce_multipath: bool = False,
        device_scan_attempts: int = DEVICE_SCAN_ATTEMPTS,
    ) -> Attacher:
        """What attaches volumes to this host."""
        return Attacher(
            AttachSettings(
                lock_path=self.settings.state_path / "locks",
                root_helper=self.settings.root_helper,
                host=self.settings.host,
                multipath=multipath,
                enforce_multipath=enforce_multipath,
                device_scan_attempts=device_scan_attempts,
            )
        )


# Protects _session.
_lock = threading.Lock()
_session: Session | None = None


def setup(
    file_locks_path: str | os.PathLike[str] | None = None,
    root_helper: str = "sudo",
    *,
    suppress_requests_ssl_warnings: bool = True,
    disable_logs: bool = True,
    non_uuid_ids: bool = False,
    output_all_backend_info: bool = False,
    project_id: str | None = None,
    user_id: str | None = None,
    persistence_config: StoreConfig | None = None,
    fail_on_missing_backend: bool = True,
    host: str | None = None,
    **cinder_options: Any,
) -> None:
    """Prepare the process for backends, once; the first ``Backend`` does it with defaults.

    :param file_locks_path: directory for lock files and for the ``db`` store; by default
        ``cinderlib`` in the user's state directory (XDG_STATE_HOME).
    :param root_helper: command prefix for privileged commands; not used as root.
    :param suppress_requests_ssl_warnings: say nothing of arrays whose certificate a driver
        was told not to verify.
    :param disable_logs: keep what Cinder and its libraries log (:data:`CHATTY`) from the
        handlers of the host program; its own loggers, and this project's, stay as they are.
    :param non_uuid_ids: let volumes and snapshots have ids that are no UUIDs.
    :param output_all_backend_info: show every option of a backend, passwords too, in its
        ``config`` and in JSON.
    :param project_id: project that drivers see on volumes; some use it in names.
    :param user_id: user that drivers see on volumes.
    :param persistence_config: ``memory`` (the default), ``db`` or ``memory_db``; the same
        with options, as ``{"storage": "db", "connection": URL}``; or a store of your own, by
        the name of its entry point, its class or an instance (``docs/metadata.md``).
    :param fail_on_missing_backend: whether loading an object of a backend that this process
        does not have is an error.
    :param host: the name under which volumes belong to this installation.
    :param cinder_options: options of cinder.conf's section [DEFAULT].
    :raises SetupConflict: the process is set up already, or spoiled for it.
    :raises InvalidPersistence: there is no such store or option.
    :raises StateDirectoryError: the directory cannot be used.
    :raises UnknownOption, InvalidOption: one of ``cinder_options``; setup may be called again.
    """
    with _lock:
        if _session is not None:
            raise SetupConflict("Already set up")
        _start(
            bootstrap.RuntimeSettings(
                state_path=Path(file_locks_path) if file_locks_path else _default_directory(),
                host=host or socket.gethostname(),
                root_helper=root_helper,
                project_id=project_id or DEFAULT_PROJECT_ID,
                user_id=user_id or DEFAULT_USER_ID,
                cinder_options=cinder_options,
            ),
            persistence_config,
            LibraryOptions(
                non_uuid_ids=non_uuid_ids,
                output_all_backend_info=output_all_backend_info,
                fail_on_missing_backend=fail_on_missing_backend,
            ),
        )
    _keep_quiet(logs=disable_logs, ssl_warnings=suppress_requests_ssl_warnings)


def get_connector_properties(
    root_helper: str | None = None,
    my_ip: str = "",
    multipath: bool = False,
    enforce_multipath: bool = False,
    host: str | None = None,
    execute: Execute | None = None,
) -> dict[str, Any]:
    """What backends need to know of this host, for ``volume.connect``.

    The arguments are those of os-brick's function of this name.

    :param root_helper: command prefix for privileged commands; by default setup's.
    :param my_ip: address that backends may export to; by default that of the default route.
    :param multipath: the host uses several paths to a volume where there are several.
    :param enforce_multipath: refuse without multipathd instead of using one path.
    :param host: name under which backends know this host; by default setup's.
    :param execute: runs the commands in place of os-brick; without it the process needs root.
    :raises ConnectorPropertiesFailed: multipath is enforced and multipathd is away, or the
        host cannot be asked.
    """
    settings = current().settings
    attacher = Attacher(
        AttachSettings(
            lock_path=settings.state_path / "locks",
            root_helper=root_helper or settings.root_helper,
            host=host or settings.host,
            my_ip=my_ip,
            multipath=multipath,
            enforce_multipath=enforce_multipath,
        )
    )
    properties = attacher.connector_properties(execute)
    return {**properties, "enforce_multipath": enforce_multipath}


def set_persistence(persistence_config: StoreConfig) -> None:
    """See :meth:`csi_driver.cinderlib.Backend.set_persistence`."""
    if is_set_up():
        current().move_to(persistence_config)
    else:
        setup(persistence_config=persistence_config)


def is_set_up() -> bool:
    """Whether :func:`setup` was called or implied."""
    return _session is not None


def project_id() -> str:
    """The project that drivers see on volumes."""
    return _session.settings.project_id if _session else DEFAULT_PROJECT_ID


def user_id() -> str:
    """The user that drivers see on volumes."""
    return _session.settings.user_id if _session else DEFAULT_USER_ID


def current() -> Session:
    """The session of this process; set up with defaults if it was not."""
    with _lock:
        if _session is not None:
            return _session
        settings = bootstrap.RuntimeSettings(state_path=_default_directory())
        made = _start(settings, None, LibraryOptions())
    _keep_quiet(logs=True, ssl_warnings=True)
    return made


def _keep_quiet(*, logs: bool, ssl_warnings: bool) -> None:
    if logs:
        for name in CHATTY:
            logger = logging.getLogger(name)
            logger.propagate = False
            # Without any handler Python prints warnings to stderr.
            logger.addHandler(logging.NullHandler())
    if ssl_warnings:
        import urllib3

        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)


def _start(
    settings: bootstrap.RuntimeSettings,
    persistence_config: StoreConfig | None,
    options: LibraryOptions,
) -> Session:
    global _session  # noqa: PLW0603 - one process, one Cinder, one session
    store = _open(persistence_config, settings.state_path)
    try:
        bootstrap.setup(settings)
    except BaseException:
        store.close()
        raise
    _session = Session(settings, store, options)
    _session._given = _is_made(persistence_config)
    return _session


def _default_directory() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "cinderlib"


def _open(config: StoreConfig | None, directory: Path) -> RecordStore:
    try:
        return open_store(config or "memory", directory)
    except ConfigurationError as error:
        raise InvalidPersistence(error.message, advice=error.advice) from error


def _is_made(config: StoreConfig | None) -> bool:
    """Whether ``config`` is, or holds, a store that exists already."""
    storage = config.get("storage") if isinstance(config, Mapping) else config
    return isinstance(storage, RecordStore)
