"""All records of one store in another one, whichever two they are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from csi_driver.base.sealing import KeyRing
from csi_driver.cinderlib.persistence.choice import StoreConfig
from csi_driver.cinderlib.persistence.copying import copy_records, differences
from csi_driver.cinderlib.persistence.factory import open_store
from csi_driver.cinderlib.persistence.memory import MemoryStore
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    KeyValueRecord,
    Phase,
    Record,
    SnapshotRecord,
    TombstoneRecord,
    VolumeRecord,
)
from csi_driver.cinderlib.persistence.sealed import SealedStore
from csi_driver.cinderlib.persistence.store import RecordConflict, RecordExists, RecordStore

Volume = Callable[..., VolumeRecord]

KINDS = ["memory", "db", "postgresql"]


@pytest.fixture
def full(volume: Volume) -> Iterator[RecordStore]:
    """A store with secrets, more than a page, and some of every kind that has a life."""
    store = SealedStore(MemoryStore(), ring())
    for number in range(600):
        provider = {"provider_auth": f"CHAP user {number}"}
        store.put(volume(f"v-{number:04}", provider=provider))
    common: dict[str, Any] = {"backend": "b", "cinder_id": "c", "created_at": 0.5}
    store.put(
        SnapshotRecord(
            id="s", name="n", volume_id="v-0001", phase=Phase.ERROR, size_gib=3, **common
        )
    )
    information = {"data": {"auth_password": "of the array"}}
    store.put(
        ConnectionRecord(
            id="c",
            volume_id="v-0001",
            phase=Phase.ATTACHED,
            connection_info=information,
            **common,
        )
    )
    store.put(TombstoneRecord(id="t", incarnation=7))
    store.put(KeyValueRecord(id="k", value=[1, {"a": None}]))
    with closing(store):
        yield store


def ring() -> Callable[[], KeyRing]:
    """Keys of a store's own."""
    made = KeyRing.generate()
    return lambda: made


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_has_every_record_and_the_installation_also_when_it_is_opened_again(
    full: RecordStore, kind: str, config_of: Callable[[str], StoreConfig], tmp_path: Path
) -> None:
    config = config_of(kind)
    target = open_store(config, tmp_path)
    with closing(target):
        assert copy_records(full, target) == {
            "volume": 600,
            "snapshot": 1,
            "connection": 1,
            "tombstone": 1,
            "key_value": 1,
        }
        assert differences(full, target) == []
        assert target.installation_id == full.installation_id
        # Again, as after an interruption: nothing is doubled, nothing is written.
        assert not copy_records(full, target)
    if kind != "memory":
        with closing(open_store(config, tmp_path)) as again:
            assert differences(full, again) == []
            assert again.installation_id == full.installation_id


def test_the_copy_goes_on_with_versions_of_its_own(full: RecordStore, volume: Volume) -> None:
    with closing(MemoryStore()) as target:
        copy_records(full, target)
        copied = target.get(VolumeRecord, "v-0599")
        assert copied is not None
        assert target.put(replace(copied, size_gib=2)).size_gib == 2


def test_a_target_with_other_content_is_left_alone(full: RecordStore, volume: Volume) -> None:
    with closing(MemoryStore()) as target:
        theirs = target.put(volume("v-0300", size_gib=99))
        with pytest.raises(RecordExists, match="volume v-0300"):
            copy_records(full, target)
        assert target.list(VolumeRecord) == [theirs]
        assert target.installation_id != full.installation_id


def test_differences_are_named_from_both_sides(full: RecordStore, volume: Volume) -> None:
    with closing(MemoryStore()) as other:
        copy_records(full, other)
        other.put(volume("only there"))
        full.put(KeyValueRecord(id="only here", value=1))
        changed = other.get(SnapshotRecord, "s")
        assert changed is not None
        other.put(replace(changed, phase=Phase.AVAILABLE))
        expected = ["key_value only here", "snapshot s", "volume only there"]
        assert differences(full, other) == differences(other, full) == expected


def test_a_source_that_changes_meanwhile_is_noticed(full: RecordStore, volume: Volume) -> None:
    class Interfering(MemoryStore):
        """Somebody changes the source as soon as its first record is here, once."""

        one_at_a_time = threading.Lock()

        def put(self, record: Any) -> Any:
            stored = super().put(record)
            with self.one_at_a_time:
                first: Record | None = full.get(VolumeRecord, "v-0000")
                if isinstance(first, VolumeRecord) and first.size_gib == 1:
                    full.put(replace(first, size_gib=5))
            return stored

    with (
        closing(Interfering()) as target,
        pytest.raises(RecordConflict, match=r"Changed while .*: volume v-0000"),
    ):
        copy_records(full, target)
