"""The database store in PostgreSQL, where server, network and other controllers interfere."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from csi_driver.base.errors import CinderCSIError, ConfigurationError
from csi_driver.cinderlib.persistence import postgresql as module
from csi_driver.cinderlib.persistence.opening import reader_at, store_at
from csi_driver.cinderlib.persistence.records import KeyValueRecord, OrphanRecord, VolumeRecord
from csi_driver.cinderlib.persistence.store import (
    StoreCorrupt,
    StoreLocked,
    StoreTooNew,
    StoreUnavailable,
)
from tests.support.lossy_proxy import LossyProxy
from tests.support.postgresql import PASSWORD, USER, PostgresServer, running

ROOT = Path(__file__).parents[3]


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    return postgres.new_database()


@pytest.fixture
def url(postgres: PostgresServer, database: str) -> str:
    return postgres.socket_url(database)


def end_sessions(server: PostgresServer, database: str) -> None:
    """What an administrator, a firewall or a restart does to connections that are open."""
    sessions = f"SELECT pid FROM pg_stat_activity WHERE datname = '{database}'"
    server.sql(f"SELECT pg_terminate_backend(pid, 10000) FROM ({sessions}) AS found")


def test_records_and_installation_survive_reopening(url: str, volume: Callable[..., Any]) -> None:
    with closing(store_at(url)) as store:
        assert store.fresh
        installation = store.installation_id
        kept = store.put(volume("kept"))
        gone = store.put(volume("gone"))
        store.delete(gone)
    with closing(store_at(url)) as store:
        assert not store.fresh
        assert store.installation_id == installation
        assert store.list(VolumeRecord) == [kept]
        assert store.put(volume("new")).version > gone.version


# -- another controller --------------------------------------------------------

WRITE = """
import os, sys
from csi_driver.cinderlib.persistence.opening import store_at
from csi_driver.cinderlib.persistence.records import KeyValueRecord
store = store_at(sys.argv[1])
number = 0
while True:
    number += 1
    store.put(KeyValueRecord(id=f"{number:06}", value="x" * 500))
    os.write(1, f"{number:06}\\n".encode())
"""


def test_a_second_controller_is_refused_until_the_first_dies_and_then_has_all_of_it(
    url: str,
) -> None:
    command = [sys.executable, "-c", WRITE, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as first:
        assert first.stdout is not None
        try:
            acknowledged = [first.stdout.readline() for _ in range(50)]
            with pytest.raises(StoreLocked, match=rf"/{first.pid}\b"):
                store_at(url)
        finally:
            first.send_signal(signal.SIGKILL)
        acknowledged += first.stdout.readlines()
    with closing(store_at(url)) as store:
        kept = {record.id for record in store.list(KeyValueRecord)}
        assert kept >= {line.strip() for line in acknowledged if line.endswith("\n")}
        assert len(kept) <= len(acknowledged) + 1


def test_stores_in_two_schemas_of_one_database_do_not_meet(
    postgres: PostgresServer, database: str, url: str
) -> None:
    postgres.sql("CREATE SCHEMA other", database)
    with (
        closing(store_at(url)) as one,
        closing(store_at(url + "&options=-csearch_path%3Dother")) as other,
    ):
        one.put(KeyValueRecord(id="k", value=1))
        assert other.get(KeyValueRecord, "k") is None
        assert other.installation_id != one.installation_id


def test_who_lost_the_lock_to_another_never_writes_or_reads_again(
    postgres: PostgresServer, database: str, url: str
) -> None:
    with closing(store_at(url)) as first:
        record = first.put(KeyValueRecord(id="k", value="first"))
        end_sessions(postgres, database)
        with closing(store_at(url)) as second:
            changed = second.put(replace(record, value="second"))
            with pytest.raises(StoreLocked, match="in use by"):
                first.put(replace(record, value="first again"))
        # Now it gets the lock, and sees that it was another's.
        for _ in range(2):
            with pytest.raises(StoreLocked, match=r"took the record store .* over"):
                first.put(KeyValueRecord(id="new", value=1))
        with pytest.raises(StoreLocked):
            first.get(KeyValueRecord, "k")
    with closing(store_at(url)) as third:
        assert third.list(KeyValueRecord) == [changed]


def test_a_session_of_our_own_that_the_server_still_holds_is_ended(url: str) -> None:
    with closing(store_at(url)) as store:
        first = store.put(KeyValueRecord(id="k", value=1))
        raw = store._database._connection.connection.driver_connection  # type: ignore[attr-defined]
        nowhere = os.open(os.devnull, os.O_RDWR)
        # The server's end stays open, as when the network in between forgot the connection.
        server_side = os.dup(raw.fileno())
        try:
            os.dup2(nowhere, raw.fileno())
            assert store.put(replace(first, value=2)).value == 2
        finally:
            os.close(nowhere)
            os.close(server_side)


# -- lost connections ----------------------------------------------------------


def test_a_connection_that_was_lost_while_nothing_happened_is_not_noticed(
    postgres: PostgresServer, database: str, url: str, volume: Callable[..., Any]
) -> None:
    with closing(store_at(url)) as store:
        stored = store.put(volume())
        assert store.get(VolumeRecord, "v-1") == stored
        end_sessions(postgres, database)
        assert store.get(VolumeRecord, "v-1") == stored
        end_sessions(postgres, database)
        assert store.put(replace(stored, size_gib=2)).version > stored.version


def test_work_goes_on_when_the_server_is_back(volume: Callable[..., Any]) -> None:
    with (
        running() as server,
        closing(store_at(server.socket_url(server.new_database()))) as store,
    ):
        first = store.put(volume("a"))
        server.stop()
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                store.put(volume("b"))
            with pytest.raises(StoreUnavailable):
                store.get(VolumeRecord, "a")
        server.start()
        second = store.put(volume("b"))
        assert store.list(VolumeRecord) == [first, second]


@pytest.fixture
def proxy(postgres: PostgresServer) -> Iterator[LossyProxy]:
    with closing(LossyProxy(postgres.port)) as proxy:
        yield proxy


@pytest.fixture
def lossy_url(proxy: LossyProxy, postgres: PostgresServer, database: str) -> str:
    return postgres.port_url(database).replace(f":{postgres.port}/", f":{proxy.port}/")


def test_a_commit_whose_answer_was_lost_is_looked_up(lossy_url: str, proxy: LossyProxy) -> None:
    with closing(store_at(lossy_url)) as store:
        proxy.lose("answer", b"COMMIT")
        stored = store.put(KeyValueRecord(id="k", value=1))
        assert store.get(KeyValueRecord, "k") == stored
        assert store.put(replace(stored, value=2)).value == 2


def test_a_commit_that_never_arrived_is_none(lossy_url: str, proxy: LossyProxy) -> None:
    with closing(store_at(lossy_url)) as store:
        proxy.lose("request", b"COMMIT")
        with pytest.raises(StoreUnavailable):
            store.put(KeyValueRecord(id="k", value=1))
        assert store.get(KeyValueRecord, "k") is None
        store.put(KeyValueRecord(id="k", value=2))


def test_a_change_that_was_cut_off_before_its_commit_is_made_once(
    lossy_url: str, proxy: LossyProxy
) -> None:
    with closing(store_at(lossy_url)) as store:
        first = store.put(KeyValueRecord(id="k", value=1))
        for lost in ("request", "answer"):
            proxy.lose(lost, b"UPDATE key_value_records")
            first = store.put(replace(first, value=first.value + 1))
        assert store.list(KeyValueRecord) == [first]
        assert first.value == 3


def test_a_commit_that_cannot_be_looked_up_says_so(
    lossy_url: str, proxy: LossyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESOLVE_S", 0.0)
    with closing(store_at(lossy_url)) as store:
        proxy.lose("answer", b"COMMIT")
        proxy.accepting = False
        with pytest.raises(StoreUnavailable, match="not known"):
            store.put(KeyValueRecord(id="k", value=1))
        proxy.accepting = True
        found = store.get(KeyValueRecord, "k")
        assert found is not None
        store.put(replace(found, value=2))


@pytest.mark.parametrize("committed", [False, True])
def test_a_commit_that_a_signal_interrupts_is_looked_up_before_the_next(
    postgres: PostgresServer,
    database: str,
    url: str,
    committed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with closing(store_at(url)) as store:
        raw = store._database._connection.connection.driver_connection  # type: ignore[attr-defined]
        commit = raw.commit

        def interrupted() -> None:
            if committed:
                commit()
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(raw, "commit", interrupted)
            store.put(KeyValueRecord(id="k", value=1))
        end_sessions(postgres, database)
        store.put(KeyValueRecord(id="next", value=1))
        assert (store.get(KeyValueRecord, "k") is not None) is committed


def test_a_database_that_went_back_in_time_is_not_written(
    postgres: PostgresServer, database: str, url: str
) -> None:
    with closing(store_at(url)) as store:
        token = postgres.sql("SELECT value FROM meta WHERE key = 'last_commit'", database)
        store.put(KeyValueRecord(id="k", value=1))
        # As a standby that lagged behind: the first commit of this process was its last.
        postgres.sql("DELETE FROM key_value_records", database)
        postgres.sql(f"UPDATE meta SET value = '{token}' WHERE key = 'last_commit'", database)
        end_sessions(postgres, database)
        for _ in range(2):
            with pytest.raises(StoreCorrupt, match="lost changes"):
                store.put(KeyValueRecord(id="other", value=1))


def test_a_commit_that_was_once_in_doubt_is_not_taken_for_the_newest(
    postgres: PostgresServer, database: str, lossy_url: str, proxy: LossyProxy
) -> None:
    with closing(store_at(lossy_url)) as store:
        proxy.lose("answer", b"COMMIT")
        store.put(KeyValueRecord(id="k", value=1))
        was_in_doubt = postgres.sql("SELECT value FROM meta WHERE key = 'last_commit'", database)
        store.put(KeyValueRecord(id="k2", value=1))
        postgres.sql("DELETE FROM key_value_records WHERE id = 'k2'", database)
        restored = f"UPDATE meta SET value = '{was_in_doubt}' WHERE key = 'last_commit'"
        postgres.sql(restored, database)
        end_sessions(postgres, database)
        with pytest.raises(StoreCorrupt, match="lost changes"):
            store.put(KeyValueRecord(id="k3", value=1))


# -- secrets -------------------------------------------------------------------


@pytest.mark.parametrize("failure", ["wrong password", "no server", "no database", "option"])
def test_the_password_is_in_no_error_and_no_log(
    postgres: PostgresServer, database: str, failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url = postgres.port_url(database)
    secret = PASSWORD
    if failure == "wrong password":
        secret = "x-9y"  # too short to be masked by its value alone
        url = postgres.port_url(database, secret)
    elif failure == "no server":
        url = url.replace(f":{postgres.port}/", ":1/")
    elif failure == "no database":
        url += "_of_nobody"
    else:
        url += f"?sslmode=wrong&sslpassword={secret}"
    with pytest.raises(CinderCSIError) as raised:
        store_at(url)
    shown = "".join(traceback.format_exception(raised.value)) + repr(raised.value)
    assert f"{USER}@127.0.0.1" in str(raised.value)
    assert secret not in shown + caplog.text


def test_a_password_opens_the_store_and_is_in_no_log(
    postgres: PostgresServer, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with closing(store_at(postgres.port_url(database))) as store:
        store.put(KeyValueRecord(id="k", value=1))
        end_sessions(postgres, database)
        store.put(KeyValueRecord(id="k2", value=1))
        with pytest.raises(StoreLocked) as refused:
            store_at(postgres.port_url(database))
    assert "connected again" in caplog.text
    assert PASSWORD not in caplog.text + str(refused.value)


# -- readers beside the controller ----------------------------------------------


def test_a_reader_sees_one_moment_beside_the_controller(
    url: str, volume: Callable[..., Any]
) -> None:
    with closing(store_at(url)) as store:
        first = store.put(volume("a"))
        with closing(reader_at(url)) as reader:
            assert reader.list(VolumeRecord) == [first]
            store.put(volume("b"))
            store.put(KeyValueRecord(id="k", value=1))
            assert reader.list(KeyValueRecord) == []
            assert reader.list(VolumeRecord) == [first]


def test_a_reader_understands_what_an_older_version_made_and_nothing_newer(
    postgres: PostgresServer, database: str, url: str
) -> None:
    with pytest.raises(StoreUnavailable, match="holds no record store"):
        reader_at(url)
    store_at(url).close()
    postgres.sql("DROP TABLE orphan_records", database)
    with closing(reader_at(url)) as reader:
        assert reader.list(OrphanRecord) == []
    postgres.sql("UPDATE meta SET value = '99' WHERE key = 'schema_version'", database)
    with pytest.raises(StoreTooNew, match="99"):
        reader_at(url)
    secret = "x-9y"
    with pytest.raises(StoreUnavailable, match="password authentication") as refused:
        reader_at(postgres.port_url(database, secret))
    assert secret not in "".join(traceback.format_exception(refused.value))


# -- what the database has to be -----------------------------------------------


def test_a_database_of_something_else_is_refused(
    postgres: PostgresServer, database: str, url: str
) -> None:
    postgres.sql("CREATE TABLE songs (title TEXT)", database)
    with pytest.raises(StoreCorrupt, match="not a record store"):
        store_at(url)


def test_a_store_without_one_of_its_tables_is_refused(
    postgres: PostgresServer, database: str, url: str
) -> None:
    store_at(url).close()
    postgres.sql("DROP TABLE snapshot_records", database)
    with pytest.raises(StoreCorrupt, match="snapshot_records"):
        store_at(url)


def test_a_table_that_goes_away_meanwhile_is_damage(
    postgres: PostgresServer, database: str, url: str
) -> None:
    with closing(store_at(url)) as store:
        postgres.sql("DROP TABLE key_value_records", database)
        with pytest.raises(StoreCorrupt, match="key_value_records"):
            store.put(KeyValueRecord(id="k", value=1))
        with pytest.raises(StoreCorrupt, match="key_value_records"):
            store.get(KeyValueRecord, "k")


def test_a_store_of_a_newer_program_is_refused(
    postgres: PostgresServer, database: str, url: str
) -> None:
    store_at(url).close()
    postgres.sql("UPDATE meta SET value = '99' WHERE key = 'schema_version'", database)
    with pytest.raises(StoreTooNew, match="99"):
        store_at(url)


def test_a_database_that_cannot_hold_every_text_is_refused(postgres: PostgresServer) -> None:
    with pytest.raises(ConfigurationError, match=r"LATIN1.*UTF8"):
        store_at(postgres.socket_url(postgres.new_database("LATIN1")))


def test_a_user_that_may_make_no_table_is_told_so(postgres: PostgresServer, database: str) -> None:
    postgres.sql(f"CREATE ROLE guest_of_{database} LOGIN")
    url = postgres.socket_url(database).replace(f"//{USER}@", f"//guest_of_{database}@")
    with pytest.raises(StoreUnavailable, match="own the database"):
        store_at(url)


def test_commits_are_durable_even_where_the_database_says_otherwise(
    postgres: PostgresServer, database: str, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    postgres.sql(f"ALTER DATABASE {database} SET synchronous_commit = off")
    with closing(store_at(url)) as store:
        raw: Any = store._database._connection  # type: ignore[attr-defined]
        assert raw.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"
        raw.rollback()
    # The server of the tests does not flush, and is told off for it.
    assert "fsync=off" in caplog.text


def test_readers_cannot_write(url: str) -> None:
    with closing(store_at(url)) as store, pytest.raises(StoreUnavailable, match="read-only"):
        store._database.rows("DELETE FROM meta RETURNING key", ())


def test_more_readers_than_connections_wait_for_one(url: str) -> None:
    with closing(store_at(url)) as store:
        store.put(KeyValueRecord(id="k", value=7))
        with ThreadPoolExecutor(32) as pool:
            found = pool.map(lambda _: store.get(KeyValueRecord, "k"), range(320))
            assert {record.value for record in found if record} == {7}
