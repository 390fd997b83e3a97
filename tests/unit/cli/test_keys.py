"""`cinder-csi keys`: shows no key, rotates without losing anything, prunes only what is unused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from csi_driver.base import publish_context
from csi_driver.base.sealing import KeyRing, load, load_or_create
from csi_driver.base.values import Formatting, PublishContext
from csi_driver.cinderlib.persistence.factory import database_path, open_store, records_key_path
from csi_driver.cinderlib.persistence.records import ConnectionRecord, Phase, VolumeRecord
from csi_driver.cinderlib.persistence.store import RecordStore
from csi_driver.cli.keys import age

COMMAND = Path(sys.executable).with_name("cinder-csi")


def transport_keys_path(directory: Path) -> Path:
    return directory / "keys" / "transport.json"


class Installation:
    """A state directory with keys of both rings and a record store."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        load_or_create(transport_keys_path(directory))
        with self.store():
            pass

    @contextmanager
    def store(self) -> Iterator[RecordStore]:
        store = open_store("db", self.directory)
        try:
            yield store
        finally:
            store.close()

    @property
    def records_ring(self) -> KeyRing:
        return load(records_key_path(self.directory))

    @property
    def transport_ring(self) -> KeyRing:
        return load(transport_keys_path(self.directory))

    def keys(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [COMMAND, "keys", *arguments],
            env={"PATH": "/usr/bin:/bin", "CINDER_CSI_STATE_DIR": str(self.directory)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        for path in (self.directory / "keys").glob("*.json"):
            for key in load(path).keys.values():
                assert key not in done.stdout + done.stderr
        return done.stdout + done.stderr

    def sealed_context(self, volume_id: str) -> dict[str, str]:
        context = PublishContext(
            volume_id=volume_id, node_id="n", connection={}, size_bytes=1, formatting=Formatting()
        )
        return publish_context.seal(context, self.transport_ring, "csi.example.org")


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


def volume(record_id: str) -> VolumeRecord:
    return VolumeRecord(
        id=record_id,
        name=record_id,
        backend="b",
        phase=Phase.AVAILABLE,
        size_gib=1,
        cinder_id="c",
        created_at=0.5,
        provider={"provider_auth": "CHAP user password-of-a-target"},
    )


def connection(volume_id: str, context: dict[str, str]) -> ConnectionRecord:
    return ConnectionRecord(
        id=f"{volume_id}@n",
        volume_id=volume_id,
        backend="b",
        phase=Phase.ATTACHED,
        cinder_id="c",
        created_at=0.5,
        publish_context=context,
    )


def test_showing_tells_ring_id_age_and_use(installation: Installation):
    old = installation.transport_ring.current
    installation.keys("rotate", "--ring", "transport")
    lines = [line.split() for line in installation.keys("show").splitlines()]
    assert [line[0] for line in lines] == ["ring", "records", "transport", "transport"]
    assert lines[1][1] == installation.records_ring.current
    new = installation.transport_ring.current
    assert [(line[1], " ".join(line[4:])) for line in lines[2:]] == [
        (new, "seals and opens"),
        (old, "opens"),
    ]


def test_a_key_of_unknown_age_is_shown_as_such(installation: Installation):
    path = transport_keys_path(installation.directory)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(load(path), created={})))
    assert "unknown" in installation.keys("show")


def test_rotating_seals_records_anew_and_pruning_removes_the_old_key(installation: Installation):
    with installation.store() as store:
        kept = [store.put(volume(f"v-{number}")) for number in range(3)]
    old = installation.records_ring.current
    assert "records: sealed anew: 3" in installation.keys("rotate", "--ring", "records")
    assert old in installation.records_ring.keys
    assert f"records: key {old} removed" in installation.keys("prune", "--ring", "records")
    assert set(installation.records_ring.keys) == {installation.records_ring.current}
    with installation.store() as store:
        assert [r.provider for r in store.list(VolumeRecord)] == [r.provider for r in kept]
    assert "records: nothing to remove" in installation.keys("prune", "--ring", "records")


def test_a_transport_key_stays_while_a_volume_is_published_or_staged_with_it(
    installation: Installation,
):
    first = installation.transport_ring.current
    with installation.store() as store:
        published = store.put(connection("v-1", installation.sealed_context("v-1")))
    installation.keys("rotate", "--ring", "transport")
    second = installation.transport_ring.current
    staged = installation.directory / "node" / "volumes" / "v-2.json"
    staged.parent.mkdir(parents=True)
    state = {"volume_id": "v-2", "publish_context": installation.sealed_context("v-2")}
    staged.write_bytes(msgspec.json.encode(state))
    installation.keys("rotate")
    third = installation.transport_ring.current

    told = installation.keys("prune")
    assert f"key {first} stays, volumes published with it: 1" in told
    assert f"key {second} stays, volumes published with it: 1" in told
    with installation.store() as store:
        store.delete(published)
    assert f"transport: key {first} removed" in installation.keys("prune")
    staged.unlink()
    assert f"transport: key {second} removed" in installation.keys("prune")
    assert set(installation.transport_ring.keys) == {third}


def test_with_a_controller_running_records_wait_and_nothing_is_pruned(installation: Installation):
    with installation.store() as store:
        store.put(volume("v"))
        before = installation.records_ring
        told = installation.keys("rotate")
        assert "a controller runs; it seals what is older when it starts next" in told
        assert installation.records_ring.keys.keys() > before.keys.keys()
        rotated = installation.records_ring
        assert "Stop the other process" in installation.keys("prune", code=1)
        assert installation.records_ring == rotated
        found = store.get(VolumeRecord, "v")
        assert found is not None
        store.put(found)
    assert "sealed anew" not in installation.keys("rotate", "--ring", "transport")
    assert f"records: key {before.current} removed" in installation.keys("prune")


def test_without_keys_or_store_it_says_where_to_look(tmp_path: Path):
    def run(*arguments: str) -> str:
        command = [COMMAND, "keys", *arguments, "--state-dir", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stdout == ""
        return done.stderr

    for action in ("show", "rotate", "prune"):
        assert "There are no keys" in run(action)
    assert not list(tmp_path.iterdir())
    load_or_create(transport_keys_path(tmp_path))
    assert "Prune in the state directory of the controller" in run("prune")
    assert "There is no key file" in run("rotate", "--ring", "records")
    assert not database_path(tmp_path).exists()


def run(*arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [COMMAND, "keys", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_both_rings_are_made_once(tmp_path: Path):
    rings = tmp_path / "new" / "rings"
    told = run("create", str(rings))
    assert rings.stat().st_mode & 0o777 == 0o700
    made = {path.name: load(path) for path in rings.iterdir()}
    assert made.keys() == {"records.json", "transport.json"}
    for path in rings.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
        ring = load(path)
        assert ring.current in told
        assert ring.keys[ring.current] not in told
    assert made["records.json"].current != made["transport.json"].current
    assert "it was not changed" in run("create", str(rings), code=2)
    (rings / "records.json").unlink()
    run("create", str(rings), code=2)
    assert [path.name for path in rings.iterdir()] == ["transport.json"], "all or nothing"


def test_rings_in_a_directory_of_their_own_are_shown_and_rotated(tmp_path: Path):
    rings = tmp_path / "rings"
    run("create", str(rings))
    place = ("--keys-dir", str(rings))
    before = load(rings / "transport.json").current
    run("rotate", "--ring", "transport", *place)
    shown = [line.split()[:2] for line in run("show", *place).splitlines()]
    assert shown == [
        ["ring", "key"],
        ["records", load(rings / "records.json").current],
        ["transport", load(rings / "transport.json").current],
        ["transport", before],
    ]
    assert "nobody can tell which keys are in use" in run("prune", *place, code=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rings"]


def test_a_damaged_state_of_the_node_stops_the_pruning(installation: Installation):
    installation.keys("rotate")
    before = installation.transport_ring
    damaged = installation.directory / "node" / "volumes" / "v.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    assert "v.json is damaged" in installation.keys("prune", "--ring", "transport", code=1)
    assert installation.transport_ring == before


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-5, "0 s"), (0.9, "0 s"), (59, "59 s"), (61, "1 min"), (7200, "2 h"), (200000, "2 d")],
)
def test_ages_are_told_in_their_largest_unit(seconds: float, told: str):
    assert age(seconds) == told
