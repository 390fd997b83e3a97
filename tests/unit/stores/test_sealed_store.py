"""No secret of a record reaches a store, and what was sealed opens in its place only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from csi_driver.base.errors import SealError
from csi_driver.base.masking import SECRETS
from csi_driver.base.sealing import KeyRing
from csi_driver.cinderlib.persistence.factory import open_store, records_key_path
from csi_driver.cinderlib.persistence.memory import MemoryStore
from csi_driver.cinderlib.persistence.records import (
    RECORD_TYPES,
    ConnectionRecord,
    KeyValueRecord,
    Phase,
    Record,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.cinderlib.persistence.sealed import NAMED, WHOLE, SealedStore, keys_in_use

SECRET = "hunter2-hunter2"


def volume(record_id: str = "v", **fields: Any) -> VolumeRecord:
    return VolumeRecord(
        id=record_id,
        name="n",
        backend="b",
        phase=Phase.AVAILABLE,
        size_gib=1,
        cinder_id="c",
        created_at=0.5,
        **fields,
    )


def snapshot(**fields: Any) -> SnapshotRecord:
    return SnapshotRecord(
        id="s",
        name="n",
        volume_id="v",
        backend="b",
        phase=Phase.AVAILABLE,
        size_gib=1,
        cinder_id="c",
        created_at=0.5,
        **fields,
    )


def connection(**fields: Any) -> ConnectionRecord:
    return ConnectionRecord(
        id="c",
        volume_id="v",
        backend="b",
        phase=Phase.ATTACHED,
        cinder_id="c",
        created_at=0.5,
        **fields,
    )


class Bench:
    """A sealed store, the store in it, and keys that can be exchanged."""

    def __init__(self) -> None:
        self.ring = KeyRing.generate()
        self.inner = MemoryStore()
        self.store = SealedStore(self.inner, lambda: self.ring)

    def kept(self) -> bytes:
        """Everything that the inner store has."""
        return b"".join(
            msgspec.json.encode(record) for kind in RECORD_TYPES for record in self.inner.list(kind)
        )


@pytest.fixture
def bench() -> Bench:
    return Bench()


WITH_SECRETS: list[Callable[[], Record]] = [
    lambda: volume(provider={"provider_auth": f"CHAP user {SECRET}", "provider_id": "p"}),
    lambda: volume(provider={"replication_driver_data": {"peer": [SECRET]}}),
    lambda: volume(metadata={"chap-secret": SECRET}, admin_metadata={"target_password": SECRET}),
    lambda: snapshot(provider={"provider_auth": SECRET}, metadata={"auth_token": SECRET}),
    lambda: connection(connection_info={"data": {"any_name": SECRET}}),
    lambda: connection(attach_info={"path": "/dev/sdz", "multipath_id": SECRET}),
    lambda: connection(connector={"host": "h", "nvme_dhchap_key": SECRET}),
    lambda: KeyValueRecord(id="initiator-data/ns/iqn", value={"any_name": SECRET}),
    lambda: KeyValueRecord(id="k", value=SECRET),
]


@pytest.mark.parametrize("make", WITH_SECRETS)
def test_a_secret_is_read_back_and_is_not_in_the_store(bench: Bench, make: Callable[[], Record]):
    stored = bench.store.put(make())
    assert replace(stored, version=0) == make()
    assert bench.store.get(type(stored), stored.id) == stored
    assert bench.store.list(type(stored)) == [stored]
    assert SECRET.encode() not in bench.kept()
    assert bench.store.keys_in_use().keys() == {bench.ring.current}


def test_what_is_no_secret_stays_readable_in_the_store(bench: Bench):
    bench.store.put(
        volume(provider={"provider_location": "10.0.0.1:3260,1 iqn.x", "provider_auth": SECRET})
    )
    bench.store.put(connection(connector={"host": "node-1", "initiator": "iqn.y"}))
    for text in (b"10.0.0.1:3260,1 iqn.x", b"node-1", b"iqn.y"):
        assert text in bench.kept()


def test_the_publish_context_keeps_the_seal_that_it_has(bench: Bench):
    sealed = {"sealed": "transport text"}
    bench.store.put(connection(publish_context=sealed))
    found = bench.inner.get(ConnectionRecord, "c")
    assert found is not None
    assert found.publish_context == sealed


@pytest.mark.parametrize("make", WITH_SECRETS)
def test_records_from_before_sealing_are_read_and_sealed_when_written(
    bench: Bench, make: Callable[[], Record]
):
    old = bench.inner.put(make())
    assert bench.store.get(type(old), old.id) == old
    bench.store.put(old)
    assert SECRET.encode() not in bench.kept()


@pytest.mark.parametrize("make", WITH_SECRETS)
def test_without_the_key_a_record_is_refused_with_advice(bench: Bench, make: Callable[[], Record]):
    lost = bench.ring.current
    stored = bench.store.put(make())
    bench.ring = KeyRing.generate()
    for read in (
        lambda: bench.store.get(type(stored), stored.id),
        lambda: bench.store.list(type(stored)),
        bench.store.reseal,
    ):
        with pytest.raises(SealError) as refused:
            read()
        assert lost in str(refused.value)
        assert stored.id in str(refused.value)
        assert "Restore keys/records.json" in str(refused.value)


def test_sealed_text_does_not_open_in_another_place(bench: Bench):
    bench.store.put(volume("a", provider={"provider_auth": SECRET}))
    found = bench.inner.get(VolumeRecord, "a")
    assert found is not None
    text = found.provider["provider_auth"]
    for stolen in (
        volume("b", provider={"provider_auth": text}),
        volume("c", provider={"replication_driver_data": text}),
        volume("d", metadata={"provider_auth": text}),
        replace(snapshot(provider={"provider_auth": text}), id="a"),
    ):
        bench.inner.put(stolen)
        with pytest.raises(SealError, match="not sealed for"):
            bench.store.get(type(stolen), stolen.id)


def test_what_looks_sealed_comes_back_as_it_was_written(bench: Bench):
    odd = volume(provider={"provider_id": "sealed:AAAA"}, metadata={"note": "sealed:"})
    assert replace(bench.store.put(odd), version=0) == odd
    value = KeyValueRecord(id="k", value={"sealed:": "AAAA"})
    assert replace(bench.store.put(value), version=0) == value


def test_nothing_is_no_secret(bench: Bench):
    bench.store.put(volume(provider={"provider_auth": None, "replication_driver_data": ""}))
    bench.store.put(KeyValueRecord(id="k", value={}))
    assert bench.store.keys_in_use() == {}


def test_after_a_rotation_the_reseal_leaves_nothing_of_the_old_key(bench: Bench):
    for make in WITH_SECRETS:
        record = make()
        bench.store.put(replace(record, id=f"{record.KIND}-{len(bench.kept())}"))
    old, before = bench.ring.current, {k: bench.store.list(k) for k in RECORD_TYPES}
    bench.ring = bench.ring.rotated()
    assert bench.store.reseal() == len(WITH_SECRETS)
    assert old not in keys_in_use(bench.inner)
    bench.ring = bench.ring.pruned(())
    for kind, records in before.items():
        after = bench.store.list(kind)
        assert [replace(r, version=0) for r in after] == [replace(r, version=0) for r in records]


def test_the_reseal_seals_what_is_in_clear_and_touches_nothing_else(bench: Bench):
    bench.inner.put(volume("old", provider={"provider_auth": SECRET}))
    bench.store.put(volume("new", provider={"provider_auth": SECRET}))
    plain = bench.store.put(volume("plain"))
    assert bench.store.reseal() == 1
    assert SECRET.encode() not in bench.kept()
    assert bench.store.get(VolumeRecord, "plain") == plain
    assert bench.store.reseal() == 0


def test_the_reseal_goes_through_any_number_of_records(bench: Bench):
    for number in range(1203):
        bench.inner.put(KeyValueRecord(id=f"{number:05}", value=SECRET))
    assert bench.store.reseal() == 1203
    assert bench.store.keys_in_use() == {bench.ring.current: 1203}


def test_a_record_that_is_written_meanwhile_is_left_to_its_writer():
    bench = Bench()
    stale = bench.inner.put(volume(provider={"provider_auth": SECRET}))

    class Overtaken(MemoryStore):
        """Another writer is always faster by one step."""

        def list(self, kind: Any, **where: Any) -> Any:
            found = bench.inner.list(kind, **where)
            current = bench.inner.get(VolumeRecord, stale.id)
            if found and kind is VolumeRecord and current == stale:
                bench.store.put(replace(stale, size_gib=2))
            return found

        def put(self, record: Any) -> Any:
            return bench.inner.put(record)

    assert SealedStore(Overtaken(), lambda: bench.ring).reseal() == 0
    current = bench.store.get(VolumeRecord, stale.id)
    assert current is not None
    assert current.size_gib == 2
    assert SECRET.encode() not in bench.kept()


def test_no_field_that_records_are_found_by_is_sealed():
    for table in (WHOLE, NAMED):
        for kind, fields in table.items():
            assert not set(fields) & {*kind.INDEXED, "id", "version"}


def test_what_is_sealed_shows_in_no_log(bench: Bench):
    bench.store.put(volume(provider={"provider_auth": "CHAP user sealed-and-masked"}))
    assert "sealed-and-masked" not in SECRETS.mask("login with sealed-and-masked failed")


def test_a_lasting_store_is_sealed_with_the_keys_of_its_state_directory(tmp_path):
    store = open_store("db", tmp_path)
    store.put(volume(provider={"provider_auth": SECRET}))
    files = list((tmp_path / "records").iterdir())
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    store.close()
    store = open_store("db", tmp_path)
    assert store.list(VolumeRecord)[0].provider == {"provider_auth": SECRET}
    store.close()


def test_a_lost_key_file_is_not_replaced_while_something_is_sealed_with_it(tmp_path):
    store = open_store("db", tmp_path)
    store.put(volume(provider={"provider_auth": SECRET}))
    store.close()
    path = records_key_path(tmp_path)
    text = path.read_bytes()
    path.unlink()
    with pytest.raises(SealError, match=r"records\.json is gone.*Restore it from a backup"):
        open_store("db", tmp_path)
    assert not path.exists()
    path.write_bytes(text)
    store = open_store("db", tmp_path)
    store.delete(store.list(VolumeRecord)[0])
    store.close()
    path.unlink()
    open_store("db", tmp_path).close()
    assert path.exists()
