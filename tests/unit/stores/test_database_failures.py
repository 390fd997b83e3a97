"""The database store on a disk where things go wrong, and beside other processes."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import NoneType

import pytest
from msgspec.structs import replace

from csi_driver.base.errors import ConfigurationError
from csi_driver.cinderlib.persistence import database
from csi_driver.cinderlib.persistence.factory import database_path, open_store
from csi_driver.cinderlib.persistence.opening import sqlite_store
from csi_driver.cinderlib.persistence.records import KeyValueRecord, VolumeRecord
from csi_driver.cinderlib.persistence.store import (
    RecordConflict,
    StoreCorrupt,
    StoreLocked,
    StoreTooNew,
    StoreUnavailable,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records" / "records.sqlite"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def test_records_and_installation_survive_reopening(path, volume):
    with closing(sqlite_store(path)) as store:
        installation = store.installation_id
        kept = store.put(volume("kept"))
        gone = store.put(volume("gone"))
        store.delete(gone)
    with closing(sqlite_store(path)) as store:
        assert not store.fresh
        assert store.installation_id == installation
        assert store.list(VolumeRecord) == [kept]
        assert store.put(volume("new")).version > gone.version


def test_all_that_was_there_before_is_found(path, volume, monkeypatch):
    monkeypatch.setattr(database, "_PAGE", 2)
    with closing(sqlite_store(path)) as store:
        kept = [store.put(volume(f"v-{number}")) for number in range(5)]
        nameless = store.put(KeyValueRecord(id="", value=1))
    with closing(sqlite_store(path)) as store:
        for record in kept:
            assert store.get(VolumeRecord, record.id) == record
            assert store.list(VolumeRecord, where={"cinder_id": record.cinder_id}) == [record]
        assert store.list(VolumeRecord, where={"backend": "main"}) == kept
        assert store.get(KeyValueRecord, "") == nameless


def test_no_version_is_given_twice_however_many_are_given(path, volume, monkeypatch):
    monkeypatch.setattr(database, "VERSIONS_AT_ONCE", 3)
    given = set()
    for _opening in range(3):
        with closing(sqlite_store(path)) as store:
            for _change in range(8):
                record = store.put(volume())
                given.add(record.version)
                store.delete(record)
    assert len(given) == 3 * 8


def test_a_refused_replacement_takes_nothing_along_that_shares_its_commit(path, volume):
    with closing(sqlite_store(path)) as store:
        old = store.put(volume("old"))
        current = store.put(replace(old, size_gib=2))
        other = store.put(volume("other"))
        puts = [store._put(KeyValueRecord(id=key, value=1)) for key in "abc"]
        outcomes = store._commit(
            [(puts[0],), (puts[1], database._Delete(old)), (puts[2], database._Delete(other))]
        )
        assert [type(outcome) for outcome in outcomes] == [NoneType, RecordConflict, NoneType]
        assert [record.id for record in store.list(KeyValueRecord)] == ["a", "c"]
        assert store.list(VolumeRecord) == [current]


def test_nobody_else_may_read_the_files(path, volume):
    path.parent.mkdir()
    path.touch(mode=0o644)
    with closing(sqlite_store(path)) as store:
        store.put(volume())
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert "records.sqlite-wal" in modes
    assert set(modes.values()) == {0o600}


def test_every_commit_is_flushed_to_a_write_ahead_log(path):
    with closing(sqlite_store(path)) as store, store._database.writer.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2


def test_a_file_that_is_no_database_is_named_and_left_alone(path):
    path.parent.mkdir()
    path.write_bytes(b"my diary, " * 1000)
    with pytest.raises(StoreCorrupt, match=str(path)):
        sqlite_store(path)
    assert path.read_bytes() == b"my diary, " * 1000


def test_a_damaged_database_is_refused(path, volume):
    with closing(sqlite_store(path)) as store:
        for number in range(50):
            store.put(volume(f"v-{number}"))
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 8192))
    with pytest.raises(StoreCorrupt, match=str(path)):
        sqlite_store(path)


def test_a_database_of_something_else_is_refused(path):
    path.parent.mkdir()
    change(path, "CREATE TABLE songs (title TEXT)")
    with pytest.raises(StoreCorrupt, match="not a record store"):
        sqlite_store(path)


def test_a_store_without_one_of_its_tables_is_refused(path):
    sqlite_store(path).close()
    change(path, "DROP TABLE snapshot_records")
    with pytest.raises(StoreCorrupt, match="snapshot_records"):
        sqlite_store(path)


@pytest.mark.parametrize("key", ["schema_version", "installation_id", "last_version"])
def test_a_store_with_damaged_meta_data_is_refused(path, key):
    sqlite_store(path).close()
    change(path, f"UPDATE meta SET value = 'nonsense' WHERE key = '{key}'")
    with pytest.raises(StoreCorrupt, match="meta"):
        sqlite_store(path)


def test_a_record_that_cannot_be_understood_is_an_error_not_an_absence(path, volume):
    sqlite_store(path).close()
    with closing(sqlite_store(path)) as store:
        store.put(volume())
        change(path, "UPDATE volume_records SET body = '{}'")
        with pytest.raises(StoreCorrupt, match="volume"):
            store.get(VolumeRecord, "v-1")


def test_a_store_of_a_newer_program_is_refused_and_left_alone(path):
    sqlite_store(path).close()
    change(path, "UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    before = path.read_bytes()
    with pytest.raises(StoreTooNew, match="99"):
        sqlite_store(path)
    assert path.read_bytes() == before


def test_a_file_left_empty_by_a_crash_is_a_new_store(path):
    path.parent.mkdir()
    path.touch()
    with closing(sqlite_store(path)) as store:
        assert store.fresh


def test_a_directory_that_cannot_be_made_is_explained(tmp_path):
    (tmp_path / "records").write_text("a file is in the way")
    with pytest.raises(StoreUnavailable, match="state directory"):
        sqlite_store(tmp_path / "records" / "records.sqlite")


@pytest.mark.root
def test_a_read_only_disk_is_explained(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StoreUnavailable, match="Read-only"):
        sqlite_store(small_disk / "records.sqlite")


@pytest.mark.root
def test_on_a_full_disk_nothing_is_kept_and_later_all_is_well(small_disk, volume):
    path = small_disk / "records.sqlite"
    store = sqlite_store(path)
    first = store.put(volume("first"))
    fill(small_disk / "ballast")
    with pytest.raises(StoreUnavailable, match="full"):
        for number in range(100):
            refused = f"big-{number}"
            store.put(KeyValueRecord(id=refused, value="x" * 20_000))
    assert store.get(KeyValueRecord, refused) is None
    store.close()

    (small_disk / "ballast").unlink()
    with closing(sqlite_store(path)) as store:
        assert store.get(KeyValueRecord, refused) is None
        assert store.list(VolumeRecord) == [first]
        store.put(KeyValueRecord(id=refused, value="fits now"))


def fill(file: Path) -> None:
    with file.open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(b"\0" * 4096)
        except OSError as error:
            assert error.errno == errno.ENOSPC


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )


HOLD = """
import sys, pathlib
from csi_driver.cinderlib.persistence.opening import sqlite_store
store = sqlite_store(pathlib.Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""

WRITE = """
import os, sys, threading, pathlib
from csi_driver.cinderlib.persistence.opening import sqlite_store
from csi_driver.cinderlib.persistence.records import KeyValueRecord
store = sqlite_store(pathlib.Path(sys.argv[1]))
def write(worker):
    number = 0
    while True:
        number += 1
        record = store.put(KeyValueRecord(id=f"{worker}-{number}", value="x" * 500))
        os.write(1, f"{record.id}\\n".encode())
for worker in range(8):
    threading.Thread(target=write, args=(worker,)).start()
"""


def test_a_second_process_is_refused_until_the_first_ends_however_it_ends(path):
    with child(HOLD, path) as holder:
        try:
            assert holder.stdout.readline() == "open\n"
            with pytest.raises(StoreLocked, match=rf"\b{holder.pid}\b"):
                sqlite_store(path)
        finally:
            holder.send_signal(signal.SIGKILL)
    sqlite_store(path).close()


def test_one_process_cannot_open_a_store_twice(path):
    with closing(sqlite_store(path)), pytest.raises(StoreLocked, match=str(os.getpid())):
        sqlite_store(path)
    sqlite_store(path).close()


def test_what_was_acknowledged_before_a_kill_is_there_after_it(path):
    with child(WRITE, path) as writer:
        try:
            acknowledged = [writer.stdout.readline() for _ in range(300)]
        finally:
            writer.send_signal(signal.SIGKILL)
        acknowledged += writer.stdout.readlines()
    with closing(sqlite_store(path)) as store:
        kept = {record.id for record in store.list(KeyValueRecord)}
        assert kept >= {line.strip() for line in acknowledged if line.endswith("\n")}
        # At most one record per thread was stored and not yet acknowledged.
        assert len(kept) <= len(acknowledged) + 8


def test_choosing_another_store_loads_no_database_library():
    code = (
        "import sys, pathlib\n"
        "from csi_driver.cinderlib.persistence.factory import open_store\n"
        "open_store('memory', pathlib.Path('.'))\n"
        "print('sqlalchemy' in sys.modules)\n"
        "open_store('memory_db', pathlib.Path('.')).close()\n"
        "print('sqlalchemy.orm' in sys.modules)\n"
    )
    with child(code) as process:
        assert process.stdout.read().split() == ["False", "False"]


def test_the_db_store_is_below_the_state_directory(tmp_path):
    with closing(open_store("db", tmp_path)):
        assert database_path(tmp_path).is_file()


def test_a_store_that_does_not_exist_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigurationError, match="memory_db"):
        open_store("etcd", tmp_path)
