"""Any sequence of calls answers as a dictionary would; found by hypothesis."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from csi_driver.base.sealing import KeyRing
from csi_driver.cinderlib.persistence.choice import StoreConfig
from csi_driver.cinderlib.persistence.factory import open_store
from csi_driver.cinderlib.persistence.records import Phase, VolumeRecord
from csi_driver.cinderlib.persistence.store import RecordConflict
from tests.support.postgresql import PostgresServer
from tests.unit.stores.conftest import documented_store

IDS = st.sampled_from(["a", "b", "b-1", "c", "é"])
PHASES = st.sampled_from([Phase.CREATING, Phase.AVAILABLE, Phase.ERROR])


class StoreAgainstDictionary(RuleBasedStateMachine):
    kind: StoreConfig = "memory"
    keys: Callable[[], KeyRing] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.config = self.new()
        self.store = open_store(self.config, Path(self.directory.name), self.keys)
        self.model: dict[str, VolumeRecord] = {}
        self.old: list[VolumeRecord] = []

    def new(self) -> StoreConfig:
        """How an empty store is asked for."""
        return self.kind

    def teardown(self) -> None:
        self.store.close()
        self.directory.cleanup()

    @rule(record_id=IDS, phase=PHASES, size=st.integers(1, 99))
    def insert(self, record_id: str, phase: Phase, size: int) -> None:
        record = VolumeRecord(
            id=record_id,
            name="n",
            backend="b",
            phase=phase,
            size_gib=size,
            cinder_id="c",
            created_at=0.0,
            provider={"provider_auth": f"CHAP user {size}"},
        )
        if record_id in self.model:
            self.expect_conflict(record)
        else:
            self.model[record_id] = self.store.put(record)

    @rule(record_id=IDS, phase=PHASES)
    def update(self, record_id: str, phase: Phase) -> None:
        if current := self.model.get(record_id):
            self.old.append(current)
            self.model[record_id] = self.store.put(replace(current, phase=phase))

    @rule(record_id=IDS)
    def remove(self, record_id: str) -> None:
        if current := self.model.pop(record_id, None):
            self.old.append(current)
            self.store.delete(current)

    @rule(data=st.data())
    def act_on_an_old_copy(self, data: st.DataObject) -> None:
        if not self.old:
            return
        copy = data.draw(st.sampled_from(self.old))
        self.expect_conflict(copy)
        if copy.id in self.model:
            with pytest.raises(RecordConflict):
                self.store.delete(copy)
        else:
            self.store.delete(copy)

    @rule(record_id=IDS)
    def get(self, record_id: str) -> None:
        assert self.store.get(VolumeRecord, record_id) == self.model.get(record_id)

    @rule(after=st.one_of(st.just(""), IDS), limit=st.integers(1, 4), phase=PHASES)
    def select(self, after: str, limit: int, phase: Phase) -> None:
        expected = [
            self.model[record_id]
            for record_id in sorted(self.model)
            if record_id > after and self.model[record_id].phase is phase
        ]
        found = self.store.list(VolumeRecord, where={"phase": phase}, after=after, limit=limit)
        assert found == expected[:limit]

    @invariant()
    def everything_is_listed(self) -> None:
        assert self.store.list(VolumeRecord) == [self.model[name] for name in sorted(self.model)]

    def expect_conflict(self, record: VolumeRecord) -> None:
        with pytest.raises(RecordConflict):
            self.store.put(record)


class MemoryDatabaseAgainstDictionary(StoreAgainstDictionary):
    kind = "memory_db"


class SealedMemoryAgainstDictionary(StoreAgainstDictionary):
    keys = staticmethod(cache(KeyRing.generate))


class DatabaseAgainstDictionary(StoreAgainstDictionary):
    kind = "db"

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = open_store(self.config, Path(self.directory.name))
        assert not self.store.fresh


class PostgreSQLAgainstDictionary(DatabaseAgainstDictionary):
    server: PostgresServer

    def new(self) -> StoreConfig:
        connection = self.server.socket_url(self.server.new_database())
        return {"storage": "db", "connection": connection}


class CustomAgainstDictionary(StoreAgainstDictionary):
    def new(self) -> StoreConfig:
        made: StoreConfig = documented_store()(Path(self.directory.name))  # type: ignore[call-arg]
        return made


FEW = settings(
    max_examples=20,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

TestMemory = StoreAgainstDictionary.TestCase
TestMemoryDatabase = MemoryDatabaseAgainstDictionary.TestCase
TestSealedMemory = SealedMemoryAgainstDictionary.TestCase
TestDatabase = DatabaseAgainstDictionary.TestCase
TestCustom = CustomAgainstDictionary.TestCase


class TestPostgreSQL(PostgreSQLAgainstDictionary.TestCase):  # type: ignore[misc,name-defined]
    @pytest.fixture(autouse=True)
    def given_a_server(self, postgres: PostgresServer) -> None:
        PostgreSQLAgainstDictionary.server = postgres


for case in (
    TestMemory,
    TestMemoryDatabase,
    TestSealedMemory,
    TestDatabase,
    TestCustom,
    TestPostgreSQL,
):
    case.settings = FEW
del case  # a name at the top would be collected as one more test
