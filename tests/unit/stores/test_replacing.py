"""Stores of ours that replace a record by one change: all of it, or nothing."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from csi_driver.cinderlib.persistence.records import KeyValueRecord, VolumeRecord
from csi_driver.cinderlib.persistence.store import RecordConflict

KINDS = ("memory", "memory_db", "db", "postgresql", "sealed memory", "sealed postgresql")


@pytest.mark.parametrize("store", KINDS, indirect=True)
def test_a_replacement_of_an_older_version_changes_nothing(store, volume):
    old = store.put(volume())
    current = store.put(replace(old, size_gib=2))
    with pytest.raises(RecordConflict, match="changed meanwhile"):
        store.replace(old, KeyValueRecord(id="k", value=1))
    assert store.get(VolumeRecord, "v-1") == current
    assert store.get(KeyValueRecord, "k") is None
