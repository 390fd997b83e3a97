"""What the objects of a process share: its record store, its locks, its attachers.

Made by :func:`setup`, which programs call and which the first ``Backend`` implies; used
by the objects.  ``cinder-csi serve`` does not use it: the controller has a store and
locks of its own.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from csi_driver.attach.attacher import Attacher, AttachSettings
from csi_driver.base.errors import ConfigurationError
from csi_driver.cinderlib.exceptions import InvalidPersistence, SetupConflict
from csi_driver.cinderlib.lookup import StoreLookup
from csi_driver.cinderlib.persistence.choice import StoreConfig
from csi_driver.cinderlib.persistence.factory import open_store
from csi_driver.cinderlib.persistence.store import RecordStore
from csi_driver.cinderlib.runtime import bootstrap

PROJECT_ID = USER_ID = "cinderlib"
"""Project and user of volumes when none are given, as in cinderlib."""


class Session:
    """The store and the locks behind the objects.  Thread-safe.

    ``_guard`` protects the table of locks and is held for a dictionary access only.
    """

    def __init__(self, settings: bootstrap.RuntimeSettings, store: RecordStore) -> None:
        self.settings = settings
        self.store = store
        self.lookup = StoreLookup(store)
        self._guard = threading.Lock()
        self._locks: dict[str, tuple[threading.RLock, int]] = {}

    @contextmanager
    def exclusive(self, record_id: str) -> Iterator[None]:
        """One thread at a time works on an object; the others wait."""
        with self._guard:
            lock, users = self._locks.get(record_id, (threading.RLock(), 0))
            self._locks[record_id] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._guard:
                lock, users = self._locks[record_id]
                if users > 1:
                    self._locks[record_id] = (lock, users - 1)
                else:
                    del self._locks[record_id]

    def attacher(self, *, multipath: bool = False, enforce_multipath: bool = False) -> Attacher:
        """What attaches volumes to this host."""
        return Attacher(
            AttachSettings(
                lock_path=self.settings.state_path / "locks",
                root_helper=self.settings.root_helper,
                host=self.settings.host,
                multipath=multipath,
                enforce_multipath=enforce_multipath,
            )
        )


# Protects _session.
_lock = threading.Lock()
_session: Session | None = None


def setup(
    file_locks_path: str | os.PathLike[str] | None = None,
    root_helper: str = "sudo",
    *,
    host: str | None = None,
    project_id: str | None = None,
    user_id: str | None = None,
    persistence_config: StoreConfig | None = None,
) -> None:
    """Prepare the process for backends, once.

    :param file_locks_path: directory for lock files and for the ``db`` store; by default
        ``cinderlib`` in the user's state directory (XDG_STATE_HOME).
    :param root_helper: command prefix for privileged commands; not used as root.
    :param host: the name under which volumes belong to this installation.
    :param persistence_config: ``memory`` (the default), ``db`` or ``memory_db``; the same
        with options, as ``{"storage": "db", "connection": URL}``; or a store of your own, by
        the name of its entry point, its class or an instance (``docs/metadata.md``).
    :raises SetupConflict: the process is set up already, or spoiled for it.
    :raises InvalidPersistence: there is no such store or option.
    :raises StateDirectoryError: the directory cannot be used.
    """
    with _lock:
        if _session is not None:
            raise SetupConflict("Already set up")
        _start(
            bootstrap.RuntimeSettings(
                state_path=Path(file_locks_path) if file_locks_path else _default_directory(),
                host=host or socket.gethostname(),
                root_helper=root_helper,
                project_id=project_id or PROJECT_ID,
                user_id=user_id or USER_ID,
            ),
            persistence_config,
        )


def current() -> Session:
    """The session of this process; set up with defaults if it was not."""
    with _lock:
        return _session or _start(bootstrap.RuntimeSettings(state_path=_default_directory()), None)


def _start(
    settings: bootstrap.RuntimeSettings,
    persistence_config: StoreConfig | None,
) -> Session:
    global _session  # noqa: PLW0603 - one process, one Cinder, one session
    store = _open(persistence_config, settings.state_path)
    try:
        bootstrap.setup(settings)
    except BaseException:
        store.close()
        raise
    _session = Session(settings, store)
    return _session


def _default_directory() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "cinderlib"


def _open(config: StoreConfig | None, directory: Path) -> RecordStore:
    try:
        return open_store(config or "memory", directory)
    except ConfigurationError as error:
        raise InvalidPersistence(error.message, advice=error.advice) from error
