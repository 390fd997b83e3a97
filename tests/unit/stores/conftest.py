"""A store of every kind, opened as the factory opens it: in clear, and with sealed secrets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from csi_driver.base.sealing import KeyRing
from csi_driver.cinderlib.persistence.choice import StoreConfig
from csi_driver.cinderlib.persistence.factory import open_store
from csi_driver.cinderlib.persistence.records import Phase, VolumeRecord
from csi_driver.cinderlib.persistence.sealed import SealedStore
from csi_driver.cinderlib.persistence.store import RecordStore
from tests.support import examples
from tests.support.postgresql import PostgresServer, running

KINDS = ("memory", "memory_db", "db", "postgresql", "custom")


@functools.cache
def documented_store() -> type[RecordStore]:
    """The class that docs/metadata.md shows as a store of one's own."""
    page = (examples.ROOT / "docs" / "metadata.md").read_text()
    namespace: dict[str, Any] = {"__name__": "documented"}
    (block,) = (each for each in examples.blocks_of(page) if "class FileStore" in each.text)
    exec(block.text, namespace)
    found: type[RecordStore] = namespace["FileStore"]
    return found


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server that runs as long as the tests do."""
    with running() as server:
        yield server


@pytest.fixture
def config_of(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], StoreConfig]:
    """How a new store of a kind is asked for."""

    def config(kind: str) -> StoreConfig:
        if kind == "custom":
            # Whoever wants it sealed says so: an instance is used as it is.
            made: StoreConfig = documented_store()(tmp_path / "custom")  # type: ignore[call-arg]
            return made
        if kind != "postgresql":
            return kind
        server: PostgresServer = request.getfixturevalue("postgres")
        return {"storage": "db", "connection": server.socket_url(server.new_database())}

    return config


@pytest.fixture(params=[*KINDS, *(f"sealed {kind}" for kind in KINDS if kind != "db")])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, config_of: Callable[[str], StoreConfig]
) -> Iterator[RecordStore]:
    _, sealed, kind = request.param.rpartition("sealed ")
    ring = KeyRing.generate()
    store = open_store(config_of(kind), tmp_path, (lambda: ring) if sealed else None)
    if sealed and kind == "custom":
        store = SealedStore(store, lambda: ring)
    yield store
    store.close()


@pytest.fixture
def volume() -> Callable[..., VolumeRecord]:
    def make(record_id: str = "v-1", **fields: Any) -> VolumeRecord:
        defaults: dict[str, Any] = {
            "name": f"name of {record_id}",
            "backend": "main",
            "phase": Phase.CREATING,
            "size_gib": 1,
            "cinder_id": f"cinder-{record_id}",
            "created_at": 1.5,
        }
        return VolumeRecord(id=record_id, **defaults | fields)

    return make
