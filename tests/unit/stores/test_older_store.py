"""A database that an earlier version of the program made is completed when it is opened."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from csi_driver.cinderlib.persistence.factory import database_path, open_store
from csi_driver.cinderlib.persistence.records import (
    GroupRecord,
    GroupSnapshotRecord,
    KeyValueRecord,
    OrphanRecord,
    Phase,
)


def test_a_table_that_came_later_is_made(tmp_path: Path) -> None:
    store = open_store("db", tmp_path)
    store.put(KeyValueRecord(id="kept", value="as it was"))
    store.close()
    with closing(sqlite3.connect(database_path(tmp_path))) as database:
        database.execute("DROP TABLE orphan_records")
    store = open_store("db", tmp_path)
    try:
        orphan = OrphanRecord(
            id="1", kind="volume", backend="b", name="n", csi_id="c", since=1.0, reason="r"
        )
        store.put(orphan)
        assert [found.id for found in store.list(OrphanRecord, where={"backend": "b"})] == ["1"]
        kept = store.get(KeyValueRecord, "kept")
        assert kept is not None
        assert kept.value == "as it was"
    finally:
        store.close()


def test_groups_have_a_place_in_a_store_from_before_there_were_groups(tmp_path: Path) -> None:
    open_store("db", tmp_path).close()
    with closing(sqlite3.connect(database_path(tmp_path))) as database:
        database.execute("DROP TABLE group_records")
        database.execute("DROP TABLE group_snapshot_records")
    store = open_store("db", tmp_path)
    try:
        group = store.put(
            GroupRecord(
                id="g",
                name="pair",
                backend="b",
                phase=Phase.AVAILABLE,
                cinder_id="c",
                created_at=1.0,
                specs={"consistent_group_snapshot_enabled": "<is> True"},
            )
        )
        cut = store.put(
            GroupSnapshotRecord(
                id="s",
                name="cut",
                group_id=group.id,
                backend="b",
                phase=Phase.AVAILABLE,
                cinder_id="d",
                created_at=2.0,
            )
        )
        assert store.list(GroupRecord, where={"name": "pair"}) == [group]
        assert store.list(GroupSnapshotRecord, where={"group_id": group.id}) == [cut]
    finally:
        store.close()
