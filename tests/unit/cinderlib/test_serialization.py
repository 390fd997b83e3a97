"""Objects as JSON and back."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import csi_driver.cinderlib as cinderlib
from csi_driver.base.values import Formatting, FormattingState
from csi_driver.cinderlib import session
from csi_driver.cinderlib.persistence.memory import MemoryStore
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    Operation,
    Phase,
    SnapshotRecord,
    Source,
    VolumeRecord,
)
from csi_driver.cinderlib.runtime import bootstrap
from tests.unit.cinderlib.conftest import DOUBLE, Make

NODE1 = {"host": "node1", "ip": "192.0.2.1"}

OPTIONS = {"fail_on_missing_backend": False}


@pytest.fixture
def elsewhere(runtime: bootstrap.RuntimeSettings, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Goes to another host's process, with an empty store and the options given."""

    def go(**options: bool) -> MemoryStore:
        store = MemoryStore()
        made = session.Session(runtime, store, session.LibraryOptions(**options))
        monkeypatch.setattr(session, "_session", made)
        return store

    return go


# -- what is written -----------------------------------------------------------


def test_a_document_tells_class_format_backend_and_record(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(2, name="data")

    document = volume.to_json()

    assert document == json.loads(volume.to_jsons())
    assert (document["class"], document["format"]) == ("Volume", 1)
    assert document["backend"] == {"volume_backend_name": backend.id}
    assert document["record"]["name"] == "data"
    assert "version" not in document["record"]


def test_children_are_in_json_when_they_were_read_and_in_a_dump_always(
    backend: cinderlib.Backend,
) -> None:
    volume = backend.create_volume(1)
    volume.create_snapshot("cut")
    volume.connect(NODE1)
    volume = cinderlib.Volume.get_by_id(volume.id)

    assert "snapshots" not in volume.json
    assert len(volume.snapshots) == 1
    assert [cut["record"]["name"] for cut in volume.json["snapshots"]] == ["cut"]
    assert "snapshots" not in volume.to_json()
    dump = volume.dump
    assert (len(dump["snapshots"]), len(dump["connections"])) == (1, 1)
    assert json.loads(volume.dumps) == dump
    assert json.loads(cinderlib.dumps()) == cinderlib.dump() == [backend.dump]
    assert json.loads(cinderlib.jsons()) == cinderlib.json() == [backend.json]


def test_options_of_a_backend_are_hidden_unless_setup_shows_them(
    make: Make, elsewhere: Any, free_name: str
) -> None:
    volume = make(double_password="hush").create_volume(1)
    assert "hush" not in volume.dumps + cinderlib.dumps()

    elsewhere(output_all_backend_info=True)
    assert volume.json["backend"] == {
        "volume_backend_name": free_name,
        "volume_driver": DOUBLE,
        "double_password": "hush",
    }


def test_fields_are_told_by_cinder_s_names(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(
        1, display_name="data", extra_specs={"tier": "gold"}, qos_specs={"iops": "9"}
    )
    snapshot = volume.create_snapshot("cut")
    connection = volume.connect(NODE1, mountpoint="/data")

    fields = volume.to_dict()
    assert json.loads(json.dumps(fields)) == fields
    assert (fields["display_name"], fields["status"], fields["attach_status"]) == (
        "data",
        "in-use",
        "attached",
    )
    assert fields["volume_type"]["extra_specs"] == {"tier": "gold"}
    assert volume.volume_type.qos_specs.specs == {"iops": "9"}
    assert fields["host"].endswith(f"@{backend.id}#one")
    assert snapshot.to_dict()["volume_id"] == volume.id
    assert connection.to_dict()["connection_info"]["connector"] == NODE1


# -- and back ------------------------------------------------------------------

TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs"], exclude_characters="\0"), max_size=8
)
PAIRS = st.dictionaries(TEXT, TEXT, max_size=3)
ANYTHING = st.dictionaries(
    TEXT,
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
        max_leaves=4,
    ),
    max_size=3,
)
TIMES = st.floats(0, 4e9)
OPERATION = st.none() | st.builds(
    Operation, kind=TEXT, step=TEXT, since=TIMES, owner=TEXT, wanted=ANYTHING
)
FORMATTING = st.builds(Formatting, state=st.sampled_from(FormattingState), fs_type=TEXT)
COMMON: dict[str, Any] = {
    "id": st.uuids().map(str),
    "backend": st.just("away"),
    "phase": st.sampled_from(Phase),
    "cinder_id": TEXT,
    "created_at": TIMES,
    "version": st.integers(0, 9),
    "operation": OPERATION,
    "unknown_fields": st.just(msgspec.UNSET),
}
NAMED = {
    **COMMON,
    "name": TEXT,
    "description": TEXT,
    "size_gib": st.integers(1, 10**6),
    "provider": ANYTHING,
    "metadata": PAIRS,
    "formatting": FORMATTING,
    "suspects": st.lists(TEXT, max_size=2).map(tuple),
    "encryption": st.none(),
}
RECORDS = st.one_of(
    st.builds(
        VolumeRecord,
        **NAMED,
        pool=TEXT,
        source=st.none() | st.builds(Source, kind=TEXT, id=TEXT),
        admin_metadata=PAIRS,
        extra_specs=PAIRS,
        qos_specs=PAIRS,
        multiattach=st.booleans(),
    ).map(lambda record: (cinderlib.Volume, record)),
    st.builds(SnapshotRecord, **NAMED, volume_id=TEXT).map(
        lambda record: (cinderlib.Snapshot, record)
    ),
    st.builds(
        ConnectionRecord,
        **COMMON,
        volume_id=TEXT,
        connector=ANYTHING,
        connection_info=ANYTHING,
        attach_info=ANYTHING,
        attach_mode=st.sampled_from(["rw", "ro"]),
    ).map(lambda record: (cinderlib.Connection, record)),
)


def test_whatever_a_record_holds_comes_back(elsewhere: Any) -> None:
    store = elsewhere(**OPTIONS)

    @given(RECORDS)
    def round_trip(found: tuple[Any, Any]) -> None:
        kind, record = found
        text = kind._of_record(record).to_jsons()

        loaded = cinderlib.load(text)
        assert type(loaded) is kind
        assert msgspec.structs.replace(loaded._record, version=record.version) == record
        assert loaded.to_jsons() == text == kind.load(json.loads(text)).to_jsons()

        saved = cinderlib.load(text, save=True)
        assert store.get(type(record), record.id) == saved._record
        assert saved.to_jsons() == text

    round_trip()


def test_a_dump_moves_everything_to_another_store(make: Make, elsewhere: Any) -> None:
    backend = make()
    volume = backend.create_volume(1, name="data")
    snapshot, connection = volume.create_snapshot("cut"), volume.connect(NODE1)
    dump = cinderlib.dumps()

    elsewhere()
    backend.refresh()
    assert backend.volumes == []
    (loaded,) = cinderlib.load(dump, save=True)

    assert loaded is backend
    assert backend.volumes == [volume]
    assert cinderlib.Volume.get_by_id(volume.id).snapshots == [snapshot]
    again = cinderlib.Connection.get_by_id(connection.id)
    again.disconnect()
    cinderlib.Snapshot.get_by_id(snapshot.id).delete()
    backend.volumes[0].delete()
    assert backend.driver.shelf.names() == {}
    assert backend.driver.exported == set()


def test_a_dump_has_the_groups_of_a_backend(make: Make, elsewhere: Any) -> None:
    backend = make()
    group = cinderlib.Group(backend, name="shop")
    group.create()
    volume = backend.create_volume(1)
    group.update(add=[volume])
    cut = group.create_snapshot("cut")
    dump = cinderlib.dumps()

    elsewhere()
    cinderlib.load(dump, save=True)

    assert cinderlib.Group.get_by_name("shop") == [group]
    assert cinderlib.Group.get_by_id(group.id).volumes == [volume]
    assert cinderlib.GroupSnapshot.get_by_id(cut.id).name == "cut"


def test_what_was_only_loaded_is_stored_when_something_is_done_with_it(
    make: Make, elsewhere: Any
) -> None:
    backend = make()
    volume = backend.create_volume(1)
    snapshot = volume.create_snapshot()
    texts = volume.jsons, snapshot.dumps

    store = elsewhere()
    loaded = cinderlib.load(texts[0])
    assert (loaded.stored, loaded.only_loaded) == (False, True)
    loaded.refresh()
    assert loaded.size == 1
    assert store.list(VolumeRecord) == []

    assert loaded.extend(2) == 2 << 30
    assert (loaded.stored, loaded.only_loaded) == (True, False)
    assert cinderlib.Volume.get_by_id(volume.id).size == 2

    elsewhere()
    cinderlib.load(texts[1]).delete()
    assert list(backend.driver.shelf.names()) == [volume.name_in_storage]


def test_what_was_loaded_is_not_made_again(make: Make, elsewhere: Any) -> None:
    backend = make()
    volume = backend.create_volume(1)
    texts = volume.jsons, volume.create_snapshot().dumps
    made = backend.driver.shelf.names()

    for text in texts:
        elsewhere()
        loaded = cinderlib.load(text)
        with pytest.raises(cinderlib.InvalidVolume, match="exists"):
            loaded.create()
        assert loaded.status == "available"
    assert backend.driver.shelf.names() == made


def test_the_store_wins_over_json_that_is_only_loaded_and_loses_to_what_is_saved(
    backend: cinderlib.Backend,
) -> None:
    volume = backend.create_volume(1, name="old")
    text = volume.jsons
    volume.name = "new"
    volume.save()

    loaded = cinderlib.load(text)
    assert loaded.name == "old"
    loaded.refresh()
    assert loaded.name == "new"

    cinderlib.load(text, save=True)
    volume.refresh()
    assert volume.name == "old"


def test_a_loaded_backend_has_the_volumes_of_its_document(make: Make, elsewhere: Any) -> None:
    backend = make()
    volume = backend.create_volume(1)
    document = backend.dump

    elsewhere()
    backend.refresh()
    assert type(backend).load(json.dumps(document)) is backend
    assert backend.volumes == [volume]
    other = backend.create_volume(1)
    assert backend.volumes == [volume, other]


def test_a_deleted_object_is_loaded_as_such_and_never_stored(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(1)
    volume.delete()
    text = volume.jsons

    assert cinderlib.load(text).status == "deleted"
    with pytest.raises(cinderlib.InvalidJSON, match="deleted when the JSON was written"):
        cinderlib.load(text, save=True)
    assert backend.volumes == []


# -- backends ------------------------------------------------------------------


def test_a_backend_is_made_from_its_options_when_they_are_there(
    make: Make, elsewhere: Any, free_name: str
) -> None:
    elsewhere(output_all_backend_info=True)
    text = make(double_total_gib=7).create_volume(1).jsons
    cinderlib.Backend.named(free_name).close()

    volume = cinderlib.load(text)

    assert volume.backend.stats()["pools"][0]["total_capacity_gb"] == 7
    assert cinderlib.Backend.load_backend(volume.to_json()) is volume.backend


def test_a_backend_that_is_not_loaded_is_an_error_or_its_name(
    make: Make, elsewhere: Any, free_name: str
) -> None:
    backend = make()
    text = backend.create_volume(1).jsons
    backend.close()

    with pytest.raises(cinderlib.BackendNotFound, match=free_name):
        cinderlib.load(text)

    elsewhere(**OPTIONS)
    volume = cinderlib.Volume.load(text)
    assert volume.backend == free_name
    assert cinderlib.Backend.load_backend({"volume_backend_name": free_name}) == free_name


# -- what is refused -----------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"class": "volume"}, "Did you mean Volume"),
        ({"class": None}, "There are Backend, Volume"),
        ({"format": 2}, "reads up to 1. Load it with the version that wrote it"),
        ({"format": None}, "has no format"),
        ({"format": True}, "has no format"),
        ({"ovo": {}}, "was written by cinderlib"),
        ({"record": None}, "has no record"),
        ({"record": {"id": "v"}}, "missing required field"),
        ({"backend": {}}, "names no volume_backend_name"),
        ({"backend": []}, "names no volume_backend_name"),
        ({"snapshots": {}}, "snapshots is a list, not dict"),
        ({"connections": [3]}, "is a JSON object, not int"),
        ({"deleted_at": "now"}, "deleted_at is a number"),
    ],
)
def test_a_document_that_is_none_is_refused_with_advice(
    backend: cinderlib.Backend, change: dict[str, Any], says: str
) -> None:
    document = {**backend.create_volume(1).to_json(), **change}

    with pytest.raises(cinderlib.InvalidJSON, match=says) as raised:
        cinderlib.load(document, save=True)
    assert raised.value.advice


@pytest.mark.parametrize("source", ["{", b"\xff", 7, None, "3", ["x"], [[]]])
def test_what_is_no_json_of_objects_is_refused(elsewhere: Any, source: Any) -> None:
    elsewhere()
    with pytest.raises(ValueError, match="JSON"):
        cinderlib.load(source)


def test_a_wrong_type_inside_a_record_is_named(backend: cinderlib.Backend) -> None:
    document = backend.create_volume(1).to_json()
    document["record"]["size_gib"] = "big"

    with pytest.raises(cinderlib.InvalidJSON, match=r"got `str` - at `\$.size_gib`"):
        cinderlib.load(document)


def test_a_class_takes_its_own_json_only(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(1)
    snapshot = volume.create_snapshot()

    with pytest.raises(cinderlib.InvalidJSON, match="of a Snapshot, not of a Volume"):
        cinderlib.Volume.load(snapshot.jsons)
    with pytest.raises(cinderlib.InvalidJSON, match="of a Volume, not of a Backend"):
        cinderlib.Backend.load(volume.jsons)


def test_secrets_of_a_document_are_masked_from_then_on(backend: cinderlib.Backend) -> None:
    from csi_driver.base.masking import SECRETS

    document = backend.create_volume(1).connect(NODE1).to_json()
    document["record"]["connection_info"]["data"]["auth_password"] = "whispered-word"
    assert SECRETS.mask("whispered-word") == "whispered-word"

    cinderlib.load(document)

    assert "whispered-word" not in SECRETS.mask("no: whispered-word")


def test_a_subclass_of_a_program_is_written_as_its_base(backend: cinderlib.Backend) -> None:
    class Disk(cinderlib.Volume):
        """A volume of a program."""

    volume = backend.create_volume(1)
    disk = Disk.load(volume.jsons)

    assert (type(disk), disk) == (Disk, volume)
    assert disk.to_json()["class"] == "Volume"
    assert Disk.objects is cinderlib.Volume.objects


def test_fields_of_a_newer_version_survive(backend: cinderlib.Backend) -> None:
    document = backend.create_volume(1).to_json()
    document["record"]["of_tomorrow"] = {"a": 1}

    saved = cinderlib.load(document, save=True)

    assert cinderlib.Volume.get_by_id(saved.id).to_json()["record"]["of_tomorrow"] == {"a": 1}
