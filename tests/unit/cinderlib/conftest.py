"""A process set up for Cinder, backends with the double, and records to call them with."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import csi_driver.cinderlib as cinderlib
from csi_driver.cinderlib import session
from csi_driver.cinderlib.lookup import StoreLookup
from csi_driver.cinderlib.manager import VolumeManager
from csi_driver.cinderlib.persistence.memory import MemoryStore
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    Phase,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.cinderlib.runtime import bootstrap
from tests.doubles import faults
from tests.support import cinder_process

DOUBLE = "tests.doubles.driver.DoubleDriver"

_names = (f"double{number}" for number in itertools.count())


@pytest.fixture(scope="session")
def runtime() -> bootstrap.RuntimeSettings:
    return cinder_process.set_up()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@dataclass
class Loaded:
    """A manager with the double, and what a test does with both."""

    manager: VolumeManager
    store: MemoryStore

    @property
    def driver(self) -> Any:
        return self.manager.driver

    @property
    def faults(self) -> faults.Faults:
        return faults.of_backend(self.manager.name)

    def volume(self, size: int = 1, **fields: Any) -> VolumeRecord:
        """A stored record of a volume that is not made yet."""
        identity = str(uuid.uuid4())
        return self.store.put(
            VolumeRecord(
                id=identity,
                **{
                    "name": f"pvc-{identity}",
                    "backend": self.manager.name,
                    "phase": Phase.CREATING,
                    "size_gib": size,
                    "cinder_id": str(uuid.uuid4()),
                    "created_at": 1.7e9,
                    **fields,
                },
            )
        )

    def made_volume(self, size: int = 1, **fields: Any) -> VolumeRecord:
        """A stored record of a volume that exists."""
        return self.store.put(
            self.manager.create_volume(self.volume(size, phase=Phase.AVAILABLE, **fields))
        )

    def snapshot(self, volume: VolumeRecord) -> SnapshotRecord:
        """A stored record of a snapshot that is not made yet."""
        return self.store.put(
            SnapshotRecord(
                id=str(uuid.uuid4()),
                name="cut",
                volume_id=volume.id,
                backend=self.manager.name,
                phase=Phase.CREATING,
                size_gib=volume.size_gib,
                cinder_id=str(uuid.uuid4()),
                created_at=1.7e9,
            )
        )

    def made_snapshot(self, volume: VolumeRecord) -> SnapshotRecord:
        """A stored record of a snapshot that exists."""
        return self.store.put(self.manager.create_snapshot(self.snapshot(volume), volume))

    def connection(self, volume: VolumeRecord, host: str = "node1", **fields: Any) -> Any:
        """A stored record of a connection that is not made yet."""
        return self.store.put(
            ConnectionRecord(
                id=str(uuid.uuid4()),
                **{
                    "volume_id": volume.id,
                    "backend": self.manager.name,
                    "phase": Phase.ATTACHING,
                    "cinder_id": str(uuid.uuid4()),
                    "created_at": 1.7e9,
                    "connector": {"host": host, "ip": "192.0.2.1"},
                    **fields,
                },
            )
        )


@pytest.fixture
def load(runtime: bootstrap.RuntimeSettings, store: MemoryStore) -> Iterator[Callable[..., Loaded]]:
    """Loads backends; they are closed after the test."""
    managers: list[VolumeManager] = []

    def load(name: str = "", driver: str = DOUBLE, **options: Any) -> Loaded:
        manager = VolumeManager(
            name or next(_names), {"volume_driver": driver, **options}, StoreLookup(store)
        )
        managers.append(manager)
        return Loaded(manager, store)

    yield load
    for manager in managers:
        manager.close()


@pytest.fixture
def loaded(load: Callable[..., Loaded]) -> Loaded:
    """One backend with volumes in memory."""
    return load()


Make = Callable[..., cinderlib.Backend]


@pytest.fixture
def make(
    runtime: bootstrap.RuntimeSettings,
    store: MemoryStore,
    free_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Make]:
    """Makes backends in a session of the test's own."""
    monkeypatch.setattr(session, "_session", session.Session(runtime, store))

    def make(name: str = free_name, **options: Any) -> cinderlib.Backend:
        return cinderlib.Backend(name, volume_driver=DOUBLE, **options)

    yield make
    for backend in list(cinderlib.Backend.backends.values()):
        backend.close()


@pytest.fixture
def backend(make: Make) -> cinderlib.Backend:
    """One backend in a session of the test's own."""
    return make()


@pytest.fixture
def free_name() -> str:
    """A backend name that no other test uses."""
    return next(_names)
