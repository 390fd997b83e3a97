"""A store of every kind, opened as the factory opens it: in clear, and with sealed secrets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from csi_driver.base.sealing import KeyRing
from csi_driver.cinderlib.persistence.factory import open_store
from csi_driver.cinderlib.persistence.records import Phase, VolumeRecord
from csi_driver.cinderlib.persistence.store import RecordStore


@pytest.fixture(params=["memory", "memory_db", "db", "sealed memory", "sealed memory_db"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RecordStore]:
    _, sealed, kind = request.param.rpartition("sealed ")
    ring = KeyRing.generate()
    store = open_store(kind, tmp_path, (lambda: ring) if sealed else None)
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
