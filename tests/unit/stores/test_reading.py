"""A store is read beside the process that has it, and is not changed by that."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from csi_driver.cinderlib.persistence.factory import database_path, open_store
from csi_driver.cinderlib.persistence.reading import DatabaseReader
from csi_driver.cinderlib.persistence.records import KeyValueRecord, OrphanRecord
from csi_driver.cinderlib.persistence.schema import SCHEMA_VERSION
from csi_driver.cinderlib.persistence.store import RecordStore, StoreTooNew, StoreUnavailable


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RecordStore]:
    store = open_store("db", tmp_path)
    yield store
    store.close()


def orphan(number: int) -> OrphanRecord:
    return OrphanRecord(
        id=f"c{number}", kind="volume", backend="b", name="n", csi_id="v", since=1.0, reason="r"
    )


def ids(path: Path) -> list[str]:
    with closing(DatabaseReader(path)) as reader:
        return [record.id for record in reader.list(OrphanRecord)]


def test_records_are_read_while_another_holds_the_store(tmp_path, store):
    path = database_path(tmp_path)
    assert ids(path) == []
    store.put(orphan(2))
    store.put(orphan(1))
    assert ids(path) == ["c1", "c2"]


def test_records_are_read_when_nobody_holds_the_store(tmp_path, store):
    store.put(orphan(1))
    store.close()
    assert ids(database_path(tmp_path)) == ["c1"]
    again = open_store("db", tmp_path)
    assert [record.id for record in again.list(OrphanRecord)] == ["c1"]
    again.close()


def test_all_that_is_read_is_of_one_moment(tmp_path, store):
    store.put(orphan(1))
    with closing(DatabaseReader(database_path(tmp_path))) as reader:
        assert [record.id for record in reader.list(OrphanRecord)] == ["c1"]
        store.put(orphan(2))
        assert [record.id for record in reader.list(OrphanRecord)] == ["c1"]


def test_what_is_sealed_stays_sealed(tmp_path, store):
    store.put(KeyValueRecord(id="chap", value="secret"))
    with closing(DatabaseReader(database_path(tmp_path))) as reader:
        [found] = reader.list(KeyValueRecord)
    assert "secret" not in str(found.value)


def test_a_kind_that_the_store_has_no_table_for_has_no_records(tmp_path, store):
    store.close()
    path = database_path(tmp_path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE orphan_records")
    assert ids(path) == []


def test_a_store_of_a_newer_program_is_refused(tmp_path, store):
    store.close()
    path = database_path(tmp_path)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "UPDATE meta SET value = ? WHERE key = 'schema_version'", [str(SCHEMA_VERSION + 1)]
        )
    with pytest.raises(StoreTooNew, match=f"reads {SCHEMA_VERSION}"):
        DatabaseReader(path)


@pytest.mark.parametrize("content", [None, b"", b"no database " * 100])
def test_what_is_no_store_is_said_to_be_none(tmp_path, content):
    path = tmp_path / "records.sqlite"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreUnavailable, match=r"records\.sqlite cannot be read"):
        DatabaseReader(path)
