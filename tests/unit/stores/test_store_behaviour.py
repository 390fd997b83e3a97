"""What every record store promises; each test runs on all of them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from msgspec.structs import replace

from csi_driver.base.errors import InvalidRequest
from csi_driver.base.values import Formatting, FormattingState
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    KeyValueRecord,
    Operation,
    Phase,
    SnapshotRecord,
    Source,
    TombstoneRecord,
    VolumeRecord,
)
from csi_driver.cinderlib.persistence.store import (
    RecordConflict,
    RecordExists,
    RecordStore,
    StoreCorrupt,
    StoreUnavailable,
)


def ids(records: list[Any]) -> list[str]:
    return [record.id for record in records]


def test_a_stored_record_is_read_back_as_it_was(store, volume):
    asked = volume(
        source=Source(kind="snapshot", id="s-1"),
        request={"size": [1, 2], "nested": {"ünïcode": None}},
        formatting=Formatting(state=FormattingState.FORMATTED, fs_type="xfs", fs_uuid="u"),
        operation=Operation(kind="create", step="asked", since=12.25, owner="host/1"),
        suspects=("a", "b"),
        multiattach=True,
    )
    stored = store.put(asked)
    assert replace(stored, version=0) == asked
    assert stored.version != 0
    assert store.get(VolumeRecord, "v-1") == stored


@pytest.mark.parametrize(
    "record",
    [
        SnapshotRecord(
            id="x",
            name="n",
            volume_id="v",
            backend="b",
            phase=Phase.AVAILABLE,
            size_gib=3,
            cinder_id="c",
            created_at=0.5,
        ),
        ConnectionRecord(
            id="x",
            volume_id="v",
            backend="b",
            phase=Phase.ATTACHED,
            cinder_id="c",
            created_at=0.5,
            connection_info={"data": {"luns": [1, 2]}},
        ),
        TombstoneRecord(id="x", incarnation=7),
        KeyValueRecord(id="x", value=["anything", {"at": 1.5}, None]),
    ],
    ids=lambda record: record.KIND,
)
def test_every_kind_of_record_has_a_place(store, record):
    stored = store.put(record)
    assert store.get(type(record), "x") == stored == replace(record, version=stored.version)


def test_what_was_never_stored_is_none(store):
    assert store.get(VolumeRecord, "v-1") is None


def test_kinds_do_not_share_their_ids(store, volume):
    store.put(volume("same"))
    store.put(KeyValueRecord(id="same", value=1))
    assert store.get(VolumeRecord, "same").size_gib == 1
    assert store.get(KeyValueRecord, "same").value == 1


def test_a_second_insert_is_refused_and_changes_nothing(store, volume):
    first = store.put(volume())
    with pytest.raises(RecordExists, match="v-1"):
        store.put(volume(size_gib=9))
    assert store.get(VolumeRecord, "v-1") == first


def test_an_update_gives_a_new_version(store, volume):
    first = store.put(volume())
    second = store.put(replace(first, size_gib=2))
    assert second.version != first.version
    assert store.get(VolumeRecord, "v-1") == second


def test_an_update_of_an_older_version_is_refused(store, volume):
    first = store.put(volume())
    second = store.put(replace(first, size_gib=2))
    with pytest.raises(RecordConflict, match="changed meanwhile"):
        store.put(replace(first, size_gib=3))
    assert store.get(VolumeRecord, "v-1") == second


def test_an_update_of_a_deleted_record_is_refused(store, volume):
    first = store.put(volume())
    store.delete(first)
    with pytest.raises(RecordConflict, match="gone"):
        store.put(replace(first, size_gib=3))
    assert store.get(VolumeRecord, "v-1") is None


def test_a_copy_from_before_a_deletion_never_matches_the_record_made_anew(store, volume):
    old = store.put(volume())
    store.delete(old)
    new = store.put(volume())
    with pytest.raises(RecordConflict):
        store.put(replace(old, size_gib=3))
    with pytest.raises(RecordConflict):
        store.delete(old)
    assert store.get(VolumeRecord, "v-1") == new


def test_a_deleted_record_is_gone_and_may_be_deleted_again(store, volume):
    stored = store.put(volume())
    store.delete(stored)
    store.delete(stored)
    assert store.get(VolumeRecord, "v-1") is None
    assert store.list(VolumeRecord) == []


def test_deleting_an_older_version_is_refused(store, volume):
    first = store.put(volume())
    second = store.put(replace(first, size_gib=2))
    with pytest.raises(RecordConflict):
        store.delete(first)
    assert store.get(VolumeRecord, "v-1") == second


def test_a_record_is_replaced_by_one_of_another_kind(store, volume):
    old = store.put(volume())
    new = store.replace(old, KeyValueRecord(id="k", value=["in", "its", "place"]))
    assert store.get(VolumeRecord, "v-1") is None
    assert store.get(KeyValueRecord, "k") == new
    assert new.value == ["in", "its", "place"]
    newer = store.replace(old, replace(new, value="what is gone may go again"))
    assert store.get(KeyValueRecord, "k") == newer


def test_nothing_is_removed_where_the_replacement_is_refused(store, volume):
    old = store.put(volume())
    there = store.put(KeyValueRecord(id="k", value=1))
    with pytest.raises(RecordExists):
        store.replace(old, KeyValueRecord(id="k", value=2))
    with pytest.raises(RecordConflict):
        store.replace(old, replace(there, version=there.version + 1))
    with pytest.raises(InvalidRequest):
        store.replace(old, KeyValueRecord(id="x" * 1001, value=2))
    assert store.get(VolumeRecord, "v-1") == old
    assert store.get(KeyValueRecord, "k") == there


def test_lists_are_ordered_by_id(store, volume):
    for name in ("b", "a", "Z", "é", "a-1"):
        store.put(volume(name))
    assert ids(store.list(VolumeRecord)) == ["Z", "a", "a-1", "b", "é"]


def test_pages_follow_each_other_without_gap_or_repetition(store, volume):
    names = [f"v-{number:03}" for number in range(25)]
    for name in names:
        store.put(volume(name))
    seen: list[str] = []
    while page := store.list(VolumeRecord, after=seen[-1] if seen else "", limit=10):
        assert len(page) <= 10
        seen += ids(page)
    assert seen == names


def test_a_page_goes_on_behind_a_record_that_was_deleted_meanwhile(store, volume):
    stored = [store.put(volume(name)) for name in ("a", "b", "c")]
    store.delete(stored[1])
    assert ids(store.list(VolumeRecord, after="b")) == ["c"]


def test_records_are_selected_by_every_indexed_field(store, volume):
    store.put(volume("a", name="web"))
    store.put(volume("b", backend="other"))
    store.put(volume("c", backend="other", phase=Phase.AVAILABLE))
    assert ids(store.list(VolumeRecord, where={"name": "web"})) == ["a"]
    assert ids(store.list(VolumeRecord, where={"backend": "other"})) == ["b", "c"]
    assert ids(store.list(VolumeRecord, where={"cinder_id": "cinder-b"})) == ["b"]
    both = {"backend": "other", "phase": Phase.AVAILABLE}
    assert ids(store.list(VolumeRecord, where=both)) == ["c"]
    assert store.list(VolumeRecord, where={"name": "nobody"}) == []


def test_a_selection_is_paged_too(store, volume):
    for number in range(6):
        store.put(volume(f"v-{number}", backend="even" if number % 2 == 0 else "odd"))
    where = {"backend": "even"}
    assert ids(store.list(VolumeRecord, where=where, limit=2)) == ["v-0", "v-2"]
    assert ids(store.list(VolumeRecord, where=where, after="v-2", limit=2)) == ["v-4"]


def test_a_changed_value_is_found_under_its_new_value_only(store, volume):
    store.put(replace(store.put(volume()), phase=Phase.AVAILABLE))
    assert store.list(VolumeRecord, where={"phase": "creating"}) == []
    assert ids(store.list(VolumeRecord, where={"phase": "available"})) == ["v-1"]


def test_selecting_by_a_field_without_index_is_a_mistake(store):
    with pytest.raises(ValueError, match="size_gib"):
        store.list(VolumeRecord, where={"size_gib": "1"})


def test_callers_cannot_reach_into_the_store(store, volume):
    mine = volume(metadata={"a": "1"})
    stored = store.put(mine)
    for copy in (mine, stored, store.get(VolumeRecord, "v-1"), store.list(VolumeRecord)[0]):
        copy.metadata["a"] = "changed"
        copy.provider["b"] = "added"
    kept = store.get(VolumeRecord, "v-1")
    assert kept.metadata == {"a": "1"}
    assert kept.provider == {}


def test_what_no_store_can_keep_is_refused_by_all(store):
    with pytest.raises(TypeError):
        store.put(KeyValueRecord(id="k", value=object()))
    assert store.get(KeyValueRecord, "k") is None


@pytest.mark.parametrize(
    "fields",
    [{"record_id": "x" * 1001}, {"name": "é" * 501}, {"backend": "a\0b"}, {"record_id": "a\0b"}],
    ids=["id too long", "name too long", "null in a field", "null in the id"],
)
def test_what_some_database_cannot_index_is_refused_by_all(store, volume, fields):
    with pytest.raises(InvalidRequest):
        store.put(volume(**fields))
    assert store.list(VolumeRecord) == []


def test_a_refused_change_leaves_the_record_as_it_was(store, volume):
    stored = store.put(volume())
    with pytest.raises(InvalidRequest):
        store.put(replace(stored, name="x" * 1001))
    assert store.get(VolumeRecord, "v-1") == stored


def test_the_longest_names_are_kept_and_found(store, volume):
    fields = {"name": "é" * 500, "backend": "x" * 1000, "cinder_id": "y" * 1000}
    stored = store.put(volume("z" * 1000, **fields))
    assert store.list(VolumeRecord, where=fields) == [stored]


class NewerVolume(VolumeRecord, frozen=True, kw_only=True):
    """As a newer version of the program writes it."""

    tier: str = ""
    labels: dict[str, Any] = {}


def test_fields_of_a_newer_version_survive_a_change_by_this_one(store, volume):
    newer = {f: getattr(volume(), f) for f in VolumeRecord.__struct_fields__}
    labels = {"nested": [1, 2.5, None, 12345678901234567890123]}
    store.put(NewerVolume(**newer, tier="gold", labels=labels))
    known = store.get(VolumeRecord, "v-1")
    changed = store.put(replace(known, size_gib=7))
    assert changed == store.list(VolumeRecord)[0] == store.get(VolumeRecord, "v-1")
    found = store.get(NewerVolume, "v-1")
    assert (found.size_gib, found.tier, found.labels) == (7, "gold", labels)


def test_a_field_of_the_wrong_type_is_not_taken_for_a_newer_one(store, volume):
    class Other(VolumeRecord, frozen=True, kw_only=True):
        size_gib: str  # type: ignore[assignment]

    fields = {f: getattr(volume(), f) for f in VolumeRecord.__struct_fields__}
    store.put(Other(**{**fields, "size_gib": "many"}))
    with pytest.raises(StoreCorrupt, match="size_gib"):
        store.get(VolumeRecord, "v-1")


def test_of_many_threads_that_insert_one_id_one_succeeds(store, volume):
    barrier = threading.Barrier(8)

    def insert(size: int) -> int | None:
        barrier.wait()
        try:
            return store.put(volume(size_gib=size)).size_gib
        except RecordExists:
            return None

    with ThreadPoolExecutor(8) as pool:
        winners = [size for size in pool.map(insert, range(1, 9)) if size]
    assert winners == [store.get(VolumeRecord, "v-1").size_gib]


def test_no_update_is_lost_between_threads(store):
    store.put(KeyValueRecord(id="counter", value=0))
    barrier = threading.Barrier(8)

    def count(_: int) -> None:
        barrier.wait()
        for _step in range(10):
            add_one(store)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(8)))
    assert store.get(KeyValueRecord, "counter").value == 80


def add_one(store: RecordStore) -> None:
    while True:
        counter = store.get(KeyValueRecord, "counter")
        assert counter is not None
        try:
            store.put(replace(counter, value=counter.value + 1))
        except RecordConflict:
            continue
        return


def test_threads_that_create_list_and_delete_leave_what_they_say(store, volume):
    def work(worker: int) -> list[str]:
        kept = []
        for number in range(20):
            record = store.put(volume(f"v-{worker}-{number:02}"))
            page = store.list(VolumeRecord, after=f"v-{worker}-", limit=5)
            assert ids(page) == sorted(ids(page))
            if number % 2:
                store.delete(record)
            else:
                kept.append(record.id)
        return kept

    with ThreadPoolExecutor(8) as pool:
        kept = [name for names in pool.map(work, range(8)) for name in names]
    assert ids(store.list(VolumeRecord)) == sorted(kept)


def test_a_closed_store_answers_nothing(store, volume):
    stored = store.put(volume())
    store.close()
    store.close()
    with pytest.raises(StoreUnavailable):
        store.get(VolumeRecord, "v-1")
    with pytest.raises(StoreUnavailable):
        store.list(VolumeRecord)
    with pytest.raises(StoreUnavailable):
        store.put(replace(stored, size_gib=2))
    with pytest.raises(StoreUnavailable):
        store.delete(stored)
    with pytest.raises(StoreUnavailable):
        store.replace(stored, KeyValueRecord(id="k", value=1))


def test_a_store_can_take_over_an_installation(store):
    store.adopt("0a0b0c0d-0000-4000-8000-000000000000")
    assert store.installation_id == "0a0b0c0d-0000-4000-8000-000000000000"


def test_a_new_store_says_that_it_is_fresh_and_whose_it_is(store):
    assert store.fresh
    assert len(store.installation_id) == 36
