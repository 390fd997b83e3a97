"""Opens the record store that the configuration names; called by ``cli`` and the object layer."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from csi_driver.base.errors import ConfigurationError
from csi_driver.cinderlib.persistence.memory import MemoryStore
from csi_driver.cinderlib.persistence.store import RecordStore

StoreKind = Literal["memory", "db", "memory_db"]
"""The stores of this package, as the configuration names them."""


def open_store(kind: StoreKind, state_dir: Path) -> RecordStore:
    """The store of that kind; ``db`` keeps its file below ``state_dir``.

    :raises ConfigurationError: there is no such kind.
    :raises StoreUnavailable: see :class:`DatabaseStore`; likewise StoreLocked,
        StoreCorrupt and StoreTooNew.
    """
    if kind == "memory":
        return MemoryStore()
    if kind not in get_args(StoreKind):
        raise ConfigurationError(
            f"There is no record store {kind!r}", advice="Name memory, db or memory_db"
        )
    # Here, because it loads SQLAlchemy (tens of MiB), which other stores do without.
    from csi_driver.cinderlib.persistence.database import DatabaseStore

    return DatabaseStore(database_path(state_dir) if kind == "db" else None)


def database_path(state_dir: Path) -> Path:
    """Where the ``db`` store of a state directory is."""
    return state_dir / "records" / "records.sqlite"
