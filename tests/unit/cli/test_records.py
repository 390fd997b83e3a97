"""`cinder-csi records` between state directories: everything arrives, or nothing is changed."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from csi_driver.base import publish_context, sealing
from csi_driver.base.errors import ConfigurationError
from csi_driver.base.sealing import KeyRing, load_or_create
from csi_driver.base.values import Confirmation, Formatting, FormattingState, PublishContext
from csi_driver.cinderlib.persistence import export_file, importing
from csi_driver.cinderlib.persistence.copying import differences
from csi_driver.cinderlib.persistence.export_file import Export
from csi_driver.cinderlib.persistence.factory import database_path, open_as_kept, open_store
from csi_driver.cinderlib.persistence.importing import Import
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    KeyValueRecord,
    Operation,
    Phase,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.cinderlib.persistence.store import (
    RecordExists,
    RecordStore,
    StoreLocked,
    StoreUnavailable,
)
from csi_driver.cli import records_work
from csi_driver.cli.installation import prove, recorded_store
from csi_driver.cli.records_homes import StateDirectory
from csi_driver.cli.records_work import Imported, Keys
from csi_driver.cli.shared_directory import SharedDirectory
from csi_driver.config import Hidden, Role, Settings
from tests.support.postgresql import PostgresServer, running

COMMAND = Path(sys.executable).with_name("cinder-csi")
SECRET = "chap-of-the-array"
NEVER = Formatting(fs_uuid="7c7f2a55-8a0c-4b5f-9a53-0c7b6a3d6f10")
FORMATTED = Formatting(state=FormattingState.FORMATTED, fs_type="xfs", fs_uuid=NEVER.fs_uuid)
COMMON: dict[str, Any] = {"backend": "b", "created_at": 0.5}
DRIVER = "csi.cinderlib.io"


class Place:
    """A state directory, or a database with one, and what the command does with it."""

    def __init__(self, directory: Path, url: str = "") -> None:
        self.directory = directory
        self.settings = Settings(
            state_dir=directory,
            endpoint=f"unix://{directory}/csi.sock",
            node_id="n",
            role=Role.CONTROLLER,
            store_url=Hidden(url),
        )
        self.home = StateDirectory(self.settings)
        self._config: Any = {"storage": "db", "connection": url} if url else "db"
        self.kind = "postgresql" if url else "db"

    @classmethod
    def with_keys_of(cls, other: Place, directory: Path, url: str = "") -> Place:
        """A new one, as an administrator prepares it."""
        for path in (other.directory / "keys").iterdir():
            target = directory / "keys" / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
        return cls(directory, url)

    def store(self) -> RecordStore:
        return open_store(self._config, self.directory)

    def export(self, *, while_running: bool = False) -> Export:
        content, found = records_work.export(self.home, self.settings, while_running=while_running)
        assert found.problems == ()
        return export_file.parse(content, "f")

    def bring(self, given: Export, *, moving: bool = True, accept: bool = False) -> Imported:
        return records_work.bring(
            self.home, self.settings, given, moving=moving, accept_problems=accept
        )


@pytest.fixture
def source(tmp_path: Path) -> Place:
    """A place in use: secrets, a published volume, and something in progress."""
    place = Place(tmp_path / "source")
    transport = load_or_create(place.settings.transport_keys)
    with closing(place.store()) as store:
        prove(store, "db", place.directory)
        for number in range(20):
            store.put(volume(f"v-{number}", provider={"provider_auth": f"CHAP {SECRET}"}))
        begun = Operation(kind="create", step="backend", since=1.0, owner="h/1")
        store.put(volume("begun", phase=Phase.CREATING, operation=begun))
        sealed = publish_context.seal(
            PublishContext(
                volume_id="v-0",
                node_id="n1",
                connection={"data": {"auth_password": SECRET}},
                size_bytes=1,
                formatting=NEVER,
            ),
            transport,
            DRIVER,
        )
        store.put(
            ConnectionRecord(
                id="v-0/n1",
                volume_id="v-0",
                node_id="n1",
                phase=Phase.ATTACHED,
                cinder_id="c",
                connector={"auth_password": SECRET},
                publish_context=sealed,
                **COMMON,
            )
        )
        store.put(
            SnapshotRecord(
                id="s",
                name="n",
                volume_id="v-1",
                phase=Phase.AVAILABLE,
                size_gib=1,
                cinder_id="s",
                **COMMON,
            )
        )
        store.put(KeyValueRecord(id="k", value={"secret": SECRET}))
    return place


def volume(record_id: str, **fields: Any) -> VolumeRecord:
    defaults: dict[str, Any] = {
        "name": record_id,
        "size_gib": 1,
        "phase": Phase.AVAILABLE,
        "cinder_id": f"cinder-{record_id}",
        "formatting": NEVER,
        **COMMON,
    }
    return VolumeRecord(id=record_id, **defaults | fields)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with running() as server:
        yield server


# -- all of it arrives -------------------------------------------------------------


def test_records_move_to_another_state_directory(source: Place, tmp_path: Path) -> None:
    target = Place.with_keys_of(source, tmp_path / "target")
    done = target.bring(source.export())
    assert done.counts == {"volume": 21, "snapshot": 1, "connection": 1, "key_value": 1}
    assert done.written == 24
    assert not done.left
    assert not done.unformatted
    with closing(source.store()) as one, closing(target.store()) as other:
        assert differences(one, other) == []
        assert one.installation_id == other.installation_id
        prove(other, "db", target.directory)
    assert recorded_store(target.directory) == "db"
    assert target.export().records == source.export().records


def test_records_move_to_postgresql_and_back(
    source: Place, tmp_path: Path, postgres: PostgresServer
) -> None:
    url = postgres.socket_url(postgres.new_database())
    database = Place.with_keys_of(source, tmp_path / "database", url)
    database.bring(source.export())
    assert recorded_store(database.directory) == "postgresql"
    back = Place.with_keys_of(source, tmp_path / "back")
    back.bring(database.export())
    with closing(source.store()) as one, closing(database.store()) as two:
        assert differences(one, two) == []
        with closing(back.store()) as three:
            assert differences(one, three) == []


def test_what_nodes_proved_is_looked_for_in_the_state_directory_of_the_database(
    source: Place, tmp_path: Path, postgres: PostgresServer
) -> None:
    """Elsewhere there is nothing of it, and a formatted volume would count as never formatted."""
    url = postgres.socket_url(postgres.new_database())
    database = Place.with_keys_of(source, tmp_path / "database", url)
    database.bring(source.export())
    proof = Confirmation(volume_id="v-0", formatting=FORMATTED)
    SharedDirectory(database.directory).confirm(proof)
    told = [each for each in database.export().records if each.id == "v-0"]
    assert [each.formatting for each in told if isinstance(each, VolumeRecord)] == [FORMATTED]
    for elsewhere in (tmp_path / "nowhere", source.directory):
        with pytest.raises(ConfigurationError, match="Name the one of the controller"):
            Place(elsewhere, url).export()


def test_no_secret_is_in_the_file_and_no_key_is_needed_to_make_it(source: Place) -> None:
    for path in (source.directory / "keys").iterdir():
        path.unlink()
    content, _ = records_work.export(source.home, source.settings, while_running=False)
    assert SECRET.encode() not in content
    assert not list((source.directory / "keys").iterdir())


def test_a_file_is_made_beside_a_running_controller_if_that_is_said(
    source: Place, tmp_path: Path
) -> None:
    with closing(source.store()) as store:
        with pytest.raises(StoreLocked, match="is in use by the process"):
            source.export()
        beside = source.export(while_running=True)
        store.put(volume("later"))
    assert beside.header.while_running
    assert beside.header.counts["volume"] == 21
    target = Place.with_keys_of(source, tmp_path / "target")
    with pytest.raises(ConfigurationError, match="beside a controller"):
        target.bring(beside, moving=True)
    target.bring(beside, moving=False)


def test_secrets_in_clear_are_not_exported(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with closing(open_as_kept("db", tmp_path)) as store:
        store.put(KeyValueRecord(id="k", value=SECRET))
    with pytest.raises(ConfigurationError, match="as the key_value k") as refused:
        place.export()
    assert "Start the controller once" in str(refused.value)


# -- what nodes proved --------------------------------------------------------------


@pytest.mark.parametrize("moving", [True, False])
def test_what_nodes_proved_travels_in_the_records_and_into_the_ledger(
    source: Place, tmp_path: Path, moving: bool
) -> None:
    proof = Confirmation(volume_id="v-0", formatting=FORMATTED, identity="wwn")
    SharedDirectory(source.directory).confirm(proof)
    target = Place.with_keys_of(source, tmp_path / "target")
    target.bring(source.export(), moving=moving)
    with closing(target.store()) as store:
        record = store.get(VolumeRecord, "v-0")
    assert record is not None
    assert (record.formatting, record.identity) == (FORMATTED, "wwn")
    assert SharedDirectory(target.directory).confirmation("v-0") == proof


def test_a_backup_allows_no_filesystem_to_be_made_and_no_operation_to_go_on(
    source: Place, tmp_path: Path
) -> None:
    target = Place.with_keys_of(source, tmp_path / "target")
    ledger = SharedDirectory(target.directory)
    since = Confirmation(volume_id="v-1", formatting=FORMATTED)
    ledger.confirm(since)
    done = target.bring(source.export(), moving=False)
    assert len(done.unformatted) == 20
    assert done.left == ("volume begun: create, at step backend",)
    with closing(target.store()) as store:
        found = store.list(VolumeRecord)
    assert [each.operation for each in found] == [None] * 21
    begun = found.pop(0)
    assert (begun.id, begun.formatting) == ("begun", NEVER)
    assert ledger.confirmation("begun") is None
    assert {each.formatting.state for each in found} == {FormattingState.UNKNOWN}
    for each in found:
        told = ledger.confirmation(each.id)
        assert told is not None
        # A proof that is there already is newer than the backup.
        expected = (
            since
            if each.id == "v-1"
            else Confirmation(volume_id=each.id, formatting=each.formatting)
        )
        assert told == expected


# -- broken off -----------------------------------------------------------------------


def test_nobody_works_with_the_half_of_an_import_and_it_goes_on(
    source: Place, tmp_path: Path
) -> None:
    given = source.export()
    target = Place.with_keys_of(source, tmp_path / "target")

    def stop_here(*_: object) -> None:
        raise StoreUnavailable("the disk is full")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(target.home, "confirm", stop_here)
        with pytest.raises(StoreUnavailable, match="the disk is full"):
            target.bring(given)
    with pytest.raises(ConfigurationError, match="was not finished") as refused:
        target.store()
    assert given.header.made_at in str(refused.value)
    with pytest.raises(ConfigurationError, match="was not finished"):
        target.export(while_running=True)
    found = records_work.check_home(target.home, target.settings)
    assert any("was not finished" in each for each in found.problems)

    with closing(open_as_kept("db", target.directory)) as kept:
        lost = kept.get(VolumeRecord, "v-7")
        assert lost is not None
        kept.delete(lost)
    with pytest.raises(RecordExists, match="Another import was begun"):
        target.bring(given, moving=False)
    done = target.bring(given)
    assert done.written == 1
    with closing(source.store()) as one, closing(target.store()) as other:
        assert differences(one, other) == []


def test_other_content_in_the_middle_of_an_import_is_not_overwritten(
    source: Place, tmp_path: Path
) -> None:
    given = source.export()
    target = Place.with_keys_of(source, tmp_path / "target")
    with closing(open_as_kept("db", target.directory)) as kept:
        begun = Import(sha256=given.sha256, made_at=given.header.made_at, moving=True)
        importing.begin(kept, begun)
        theirs = kept.put(volume("v-3", size_gib=99))
    with pytest.raises(RecordExists, match="another volume v-3"):
        target.bring(given)
    with closing(open_as_kept("db", target.directory)) as kept:
        assert kept.get(VolumeRecord, "v-3") == theirs


# -- refused, and nothing is changed ----------------------------------------------------


def test_a_store_with_records_is_left_alone(source: Place, tmp_path: Path) -> None:
    given = source.export()
    target = Place.with_keys_of(source, tmp_path / "target")
    target.bring(given)
    with pytest.raises(RecordExists, match="has records already: 21 volume, 1 snapshot"):
        target.bring(given)


def test_the_directory_of_another_installation_is_left_alone(source: Place, tmp_path: Path) -> None:
    target = Place.with_keys_of(source, tmp_path / "target")
    with closing(target.store()) as store:
        prove(store, "db", target.directory)
        mine = store.installation_id
    with pytest.raises(ConfigurationError, match=f"belongs to installation {mine}"):
        target.bring(source.export())


def test_a_controller_at_work_keeps_an_import_out(source: Place, tmp_path: Path) -> None:
    given = source.export()
    target = Place.with_keys_of(source, tmp_path / "target")
    with closing(target.store()), pytest.raises(StoreLocked):
        target.bring(given)


def test_keys_that_do_not_open_the_records_are_told_before_anything_is_made(
    source: Place, tmp_path: Path
) -> None:
    given = source.export()
    key_id = sealing.load(source.settings.records_keys).current
    bare = Place(tmp_path / "bare")
    bare.directory.mkdir()
    with pytest.raises(ConfigurationError, match=f"records key {key_id} is not at hand"):
        bare.bring(given)
    assert not list(bare.directory.iterdir())
    load_or_create(bare.settings.records_keys)
    with pytest.raises(ConfigurationError, match=f"records key {key_id} is not at hand"):
        bare.bring(given)
    assert not database_path(bare.directory).exists()
    # Whoever knows better may go on.
    assert bare.bring(given, accept=True).written == 24


def test_another_driver_s_records_are_refused(source: Place, tmp_path: Path) -> None:
    given = source.export()
    target = Place.with_keys_of(source, tmp_path / "target")
    target.settings = msgspec.structs.replace(target.settings, driver_name="other.example.com")
    with pytest.raises(ConfigurationError, match=f"--driver-name {DRIVER}"):
        target.bring(given)


def test_a_place_that_does_not_exist_is_refused_and_not_made(source: Place, tmp_path: Path) -> None:
    nowhere = Place(tmp_path / "nowhere")
    for while_running in (True, False):
        with pytest.raises(ConfigurationError, match="has no record store"):
            nowhere.export(while_running=while_running)
    # The keys are not there either; whoever accepts that still has to make the directory.
    with pytest.raises(ConfigurationError, match="There is no directory"):
        nowhere.bring(source.export(), accept=True)
    assert not nowhere.directory.exists()


# -- check ---------------------------------------------------------------------------------


def test_a_check_finds_what_does_not_fit_together(source: Place) -> None:
    assert records_work.check_home(source.home, source.settings).problems == ()
    other = load_or_create(source.directory / "other.json")
    with closing(source.store()) as store:
        gone = store.get(VolumeRecord, "v-1")
        assert gone is not None
        store.delete(gone)
        store.put(volume("twin", cinder_id="cinder-v-2"))
        store.put(volume("grouped", group_id="g"))
    with closing(open_store("db", source.directory, lambda: other)) as store:
        store.put(KeyValueRecord(id="foreign", value=1))
    _spoil(source, "volume", "v-5")
    found = records_work.check_home(source.home, source.settings)
    assert "\n".join(found.problems) == Matching(
        r"A stored volume record cannot be understood: .*",
        r"volume grouped names the group g, which is not there",
        r"snapshot s names the volume v-1, which is not there",
        r"volume twin, volume v-2 have one Cinder id, cinder-v-2, on backend b"
        r"|volume v-2, volume twin have one Cinder id, cinder-v-2, on backend b",
        rf"The records key {other.current} is not at hand: .* key_value foreign",
    )


def test_a_check_opens_publish_contexts_too(source: Place) -> None:
    strangers = KeyRing.generate()
    keys = Keys(sealing.load(source.settings.records_keys), strangers)
    (problem,) = records_work.check_export(source.export(), keys).problems
    assert "publish_context of connection v-0/n1 does not open" in problem


class Matching:
    """Equal to text whose lines match these patterns, one by one."""

    def __init__(self, *patterns: str) -> None:
        self._patterns = patterns

    def __eq__(self, text: object) -> bool:
        lines = str(text).splitlines()
        return len(lines) == len(self._patterns) and all(
            re.fullmatch(pattern, line) for pattern, line in zip(self._patterns, lines, strict=True)
        )

    def __repr__(self) -> str:
        return "\n".join(self._patterns)

    __hash__ = None  # type: ignore[assignment]


def _spoil(place: Place, kind: str, record_id: str) -> None:
    with sqlite3.connect(database_path(place.directory)) as connection:
        connection.execute(f"UPDATE {kind}_records SET body = '{{}}' WHERE id = ?", (record_id,))
    connection.close()


# -- the command ------------------------------------------------------------------------------


@pytest.fixture
def run(source: Place) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    def run(*arguments: str | Path, code: int = 0, given: bytes = b"") -> Any:
        done = subprocess.run(
            [COMMAND, "records", *arguments],
            env={"PATH": "/usr/bin:/bin", "CINDER_CSI_STATE_DIR": str(source.directory)},
            input=given,
            capture_output=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert b"Traceback" not in done.stderr
        assert SECRET.encode() not in done.stdout + done.stderr
        return done

    return run


def test_the_command_writes_checks_and_imports_a_file(source, run, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    assert b"Exported: 21 volume, 1 snapshot" in run("export", file).stderr
    assert file.stat().st_mode & 0o777 == 0o600
    assert run("export", "-").stdout.splitlines()[1:-1] == file.read_bytes().splitlines()[1:-1]
    told = run("check", file).stdout.decode()
    assert "No problems" in told
    assert sealing.load(source.settings.records_keys).current in told
    assert b"volume               21" in run("check").stdout
    target = Place.with_keys_of(source, tmp_path / "target")
    done = run("import", "-", "--state-dir", target.directory, given=file.read_bytes())
    assert b"20 volumes were not formatted at that time" in done.stdout
    assert b"  volume begun: create, at step backend" in done.stdout


def test_bad_input_is_one_line_with_advice(source, run, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    run("export", file)
    for text, code, said in (
        (b"hello", 1, b"is no export of records"),
        (file.read_bytes()[:-100], 1, b"truncated"),
        (file.read_bytes().replace(b"v-7", b"v-8"), 1, b"checksum"),
        (file.read_bytes().replace(b"v-7", b"v-\xff"), 1, b"was changed since"),
        (file.read_bytes().replace(b"program", b"\xffrogram"), 1, b"was changed"),
        (b'{"a":' * 100_000, 1, b"is no export of records"),
    ):
        for command in ("check", "import"):
            told = run(command, "-", given=text, code=code).stderr
            assert said in told
            assert told.count(b"\n") == 1
    assert b"cannot be read" in run("check", tmp_path / "absent", code=2).stderr
    assert b"There is no directory" in run("export", tmp_path / "a" / "b", code=2).stderr
    assert b"is no file" in run("export", tmp_path, code=2).stderr
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert b"is no file" in run("export", pipe, code=2).stderr
    assert pipe.is_fifo()
    # Its standard output is a pipe here.
    assert b"/dev/stdout is no file" in run("export", "/dev/stdout", code=2).stderr
    link = tmp_path / "link"
    link.symlink_to(file)
    run("export", link)
    assert link.is_symlink()
    assert b"in memory" in run("check", "--store", "memory", code=2).stderr
    sealing.change(source.settings.records_keys, KeyRing.rotated)
    source.settings.records_keys.unlink()
    assert b"is not at hand" in run("check", file, code=1).stdout
