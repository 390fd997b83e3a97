"""Opens the record store that the configuration names; called by ``cli`` and the object layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from csi_driver.base.errors import ConfigurationError, SealError
from csi_driver.base.sealing import KeyFile, KeyRing
from csi_driver.cinderlib.persistence.memory import MemoryStore
from csi_driver.cinderlib.persistence.sealed import SealedStore, keys_in_use
from csi_driver.cinderlib.persistence.store import RecordStore

StoreKind = Literal["memory", "db", "memory_db"]
"""The stores of this package, as the configuration names them."""


def open_store(
    kind: StoreKind, state_dir: Path, keys: Callable[[], KeyRing] | None = None
) -> RecordStore:
    """The store of that kind; ``db`` keeps its file below ``state_dir``.

    :param keys: seals the secrets in records (see :class:`SealedStore`).  None: a ``db``
        store uses the key file of the state directory, which is made with the store; a
        store in memory is left as it is, since the keys would lie beside it.
    :raises ConfigurationError: there is no such kind, or the key file is damaged.
    :raises SealError: records are sealed and the key file is gone.
    :raises StoreUnavailable: see :class:`DatabaseStore`; likewise StoreLocked,
        StoreCorrupt and StoreTooNew.
    """
    store = _open(kind, state_dir)
    try:
        if keys is None and kind == "db":
            keys = _key_file(store, records_key_path(state_dir))
    except BaseException:
        store.close()
        raise
    return store if keys is None else SealedStore(store, keys)


def _open(kind: StoreKind, state_dir: Path) -> RecordStore:
    if kind == "memory":
        return MemoryStore()
    if kind not in get_args(StoreKind):
        raise ConfigurationError(
            f"There is no record store {kind!r}", advice="Name memory, db or memory_db"
        )
    # Here, because it loads SQLAlchemy (tens of MiB), which other stores do without.
    from csi_driver.cinderlib.persistence.database import DatabaseStore

    return DatabaseStore(database_path(state_dir) if kind == "db" else None)


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
