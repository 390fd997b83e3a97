"""Opens the record store that is asked for; called by ``cli`` and the object layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from csi_driver.base.errors import ConfigurationError, SealError
from csi_driver.base.sealing import KeyFile, KeyRing
from csi_driver.cinderlib.persistence import importing
from csi_driver.cinderlib.persistence.choice import Choice, StoreConfig, choose
from csi_driver.cinderlib.persistence.memory import MemoryStore
from csi_driver.cinderlib.persistence.sealed import SealedStore, keys_in_use
from csi_driver.cinderlib.persistence.store import RecordStore

StoreKind = Literal["memory", "db", "memory_db"]
"""The stores of this package, as the configuration names them."""


def open_store(
    config: StoreConfig, state_dir: Path, keys: Callable[[], KeyRing] | None = None
) -> RecordStore:
    """The store that ``config`` asks for; see ``docs/metadata.md``.

    :param config: ``memory``, ``memory_db``, ``db`` or the name of an entry point; a mapping
        of ``storage`` (name, class or instance) and options; a class; or an instance, which
        is answered as it is.
    :param state_dir: ``db`` keeps its file below it unless it has a ``connection``.
    :param keys: seals the secrets in records (see :class:`SealedStore`).  None: with the key
        file of the state directory, which is made with the store; a store that does not
        outlive the process is left as it is, since the keys would lie beside it.
    :raises ConfigurationError: there is no such store or option, the key file is damaged, or
        an import into the store was not finished.
    :raises SealError: records are sealed and the key file is gone.
    :raises StoreUnavailable: see :class:`SQLite` and :class:`PostgreSQL`; likewise
        StoreLocked, StoreCorrupt and StoreTooNew.
    """
    choice = choose(config)
    if isinstance(choice, RecordStore):
        return choice
    store = _open(choice, state_dir)
    try:
        if store.lasting:
            importing.refuse_unfinished(store)
        if keys is None and store.lasting:
            keys = _key_file(store, records_key_path(state_dir))
    except BaseException:
        store.close()
        raise
    return store if keys is None else SealedStore(store, keys)


def open_as_kept(config: StoreConfig, state_dir: Path) -> RecordStore:
    """The store as it lies, whole or not: what is sealed in it stays sealed.

    :raises CinderCSIError: as :func:`open_store`, but for keys and imports.
    """
    choice = choose(config)
    return choice if isinstance(choice, RecordStore) else _open(choice, state_dir)


def _open(choice: Choice, state_dir: Path) -> RecordStore:
    if choice.make is not None:
        return choice.make(**choice.options)
    if choice.name == "memory":
        return MemoryStore()
    # Here, because it loads SQLAlchemy (tens of MiB), which other stores do without.
    from csi_driver.cinderlib.persistence import opening

    if choice.name == "memory_db":
        return opening.sqlite_store(None)
    connection = _text(choice.options)
    flush = _switch(choice.options)
    if not connection:
        return opening.sqlite_store(database_path(state_dir), flush=flush)
    return opening.store_at(connection, flush=flush)


def _text(options: Mapping[str, Any]) -> str:
    connection = options.get("connection") or ""
    if not isinstance(connection, str):
        raise ConfigurationError("connection is not text", advice="Give the URL of a database")
    return connection


def _switch(options: Mapping[str, Any]) -> bool:
    flush = options.get("sqlite_synchronous", True)
    if not isinstance(flush, bool):
        raise ConfigurationError(f"sqlite_synchronous is {flush!r}", advice="Give True or False")
    return flush


def _key_file(store: RecordStore, path: Path) -> KeyFile:
    # A new key beside records that it cannot open would only hide that the old one is lost.
    if not path.exists() and (lost := keys_in_use(store)):
        raise SealError(
            f"{path} is gone, and records are sealed with the keys {', '.join(sorted(lost))}",
            advice="Restore it from a backup",
        )
    return KeyFile(path)


def database_path(state_dir: Path) -> Path:
    """Where the ``db`` store of a state directory is."""
    return state_dir / "records" / "records.sqlite"


def records_key_path(state_dir: Path) -> Path:
    """Where the records keys of a state directory are; only a controller has this file."""
    return state_dir / "keys" / "records.json"
