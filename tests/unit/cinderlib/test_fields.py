"""Cinder's fields on volumes and snapshots: read, given, assigned, saved."""

from __future__ import annotations

from typing import Any

import pytest

import csi_driver.cinderlib as cinderlib
from csi_driver.cinderlib import session
from csi_driver.cinderlib.persistence.memory import MemoryStore
from csi_driver.cinderlib.runtime import bootstrap
from tests.doubles import faults
from tests.doubles.faults import VendorError


def test_a_volume_has_cinder_s_fields(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(
        1,
        name="data",
        description="text",
        bootable=True,
        multiattach=True,
        availability_zone="az",
        metadata={"a": "b"},
    )

    told = {name: getattr(volume, name) for name in volume.FIELDS}
    assert {name: told[name] for name in ("display_name", "display_description", "size")} == {
        "display_name": "data",
        "display_description": "text",
        "size": 1,
    }
    assert (told["user_id"], told["project_id"]) == ("cinderlib", "cinderlib")
    assert (told["bootable"], told["multiattach"], told["availability_zone"]) == (True, True, "az")
    assert (told["status"], told["previous_status"], told["attach_status"]) == (
        "available",
        "creating",
        "detached",
    )
    assert (told["deleted"], told["deleted_at"]) == (False, None)
    assert told["launched_at"] == told["created_at"]
    assert told["admin_metadata"] == {"internal": "1"}
    assert told["provider_location"] == f"double:{volume.name_in_storage}"
    assert volume.volume_type.extra_specs == {"multiattach": "<is> True"}
    assert volume.volume_type.qos_specs is None
    assert volume.provider_auth is None
    assert (told["snapshot_id"], told["source_volid"]) == (None, None)
    with pytest.raises(AttributeError, match="A volume has no field 'nothing'"):
        _ = volume.nothing


def test_sources_are_told_by_our_ids(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(1)
    snapshot = volume.create_snapshot()

    assert volume.clone().source_volid == volume.id
    assert snapshot.create_volume().snapshot_id == snapshot.id


def test_a_snapshot_has_cinder_s_fields(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(2, extra_specs={"tier": "gold"})
    snapshot = volume.create_snapshot("cut", "text")

    assert (snapshot.display_name, snapshot.display_description) == ("cut", "text")
    assert (snapshot.volume_size, snapshot.volume_id) == (2, volume.id)
    assert snapshot.volume_type == volume.volume_type
    assert snapshot.provider_location == f"double:{snapshot.name_in_storage}"
    assert snapshot.backend is backend


def test_fields_are_given_by_cinder_s_names_too(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(1, display_name="data", host=f"h@{backend.id}#one")

    assert (volume.name, volume.pool_name) == ("data", "one")
    assert cinderlib.Snapshot(volume, display_name="cut").name == "cut"
    with pytest.raises(cinderlib.InvalidVolume, match="not one of backend"):
        backend.create_volume(1, host="h@another#one")
    with pytest.raises(cinderlib.InvalidVolume, match="no pool 'two'"):
        backend.create_volume(1, host=f"h@{backend.id}#two")


@pytest.mark.parametrize(
    "fields",
    [{"metadata": {"a": 1}}, {"extra_specs": ["a"]}, {"qos_specs": "a=b"}, {"id": "7"}, {"id": 7}],
)
def test_values_that_do_not_fit_are_refused_before_anything_is_done(
    backend: cinderlib.Backend, fields: dict[str, Any]
) -> None:
    with pytest.raises(cinderlib.InvalidVolume):
        backend.create_volume(1, **fields)
    assert backend.volumes == []


def test_ids_of_other_kinds_need_the_option(
    backend: cinderlib.Backend,
    runtime: bootstrap.RuntimeSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = session.LibraryOptions(non_uuid_ids=True)
    monkeypatch.setattr(session, "_session", session.Session(runtime, MemoryStore(), options))

    assert backend.create_volume(1, id="seven").id == "seven"
    assert len(cinderlib.Volume.new_uuid()) == 36


def test_assigned_fields_are_stored_by_save_and_dropped_by_refresh(
    backend: cinderlib.Backend,
) -> None:
    volume = backend.create_volume(1, name="old")
    volume.name, volume.metadata = "new", {"a": "b"}
    assert volume.name == "new"
    assert cinderlib.Volume.get_by_id(volume.id).name == "old"

    volume.save()
    again = cinderlib.Volume.get_by_id(volume.id)
    assert (again.name, again.metadata) == ("new", {"a": "b"})
    assert [found.id for found in cinderlib.Volume.get_by_name("new")] == [volume.id]

    volume.display_description = "unsaved"
    volume.refresh()
    assert volume.description == ""
    snapshot = volume.create_snapshot()
    snapshot.name = "cut"
    snapshot.save()
    assert cinderlib.Snapshot.get_by_name("cut") == [snapshot]


def test_an_operation_keeps_what_is_assigned_and_not_saved(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(1, name="old")
    volume.name = "new"

    volume.extend(2)

    assert volume.name == "new"
    volume.save()
    assert (cinderlib.Volume.get_by_id(volume.id).name, volume.size) == ("new", 2)


def test_saving_does_not_undo_what_another_changed(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(1)
    cinderlib.Volume.get_by_id(volume.id).extend(3)

    volume.name = "new"
    volume.save()

    assert (volume.size, volume.name) == (3, "new")


def test_a_field_of_a_volume_that_is_not_made_yet_may_be_assigned(
    backend: cinderlib.Backend,
) -> None:
    volume = cinderlib.Volume(backend, size=1)
    volume.name = "data"
    volume.create()

    assert cinderlib.Volume.get_by_id(volume.id).name == "data"


def test_a_change_inside_a_dictionary_is_refused_and_not_lost(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(1)

    with pytest.raises(TypeError, match="assign a new dictionary"):
        volume.metadata["a"] = "b"
    with pytest.raises(TypeError):
        volume.metadata.update(a="b")
    with pytest.raises(cinderlib.InvalidVolume):
        volume.metadata = {"a": 1}  # type: ignore[dict-item]
    with pytest.raises(cinderlib.InvalidVolume):
        volume.name = None  # type: ignore[assignment]


def test_a_deleted_volume_is_not_saved(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(1)
    volume.delete()
    volume.name = "again"

    with pytest.raises(cinderlib.VolumeNotFound):
        volume.save()
    assert backend.volumes == []


def test_a_backend_finds_its_own_objects_only(backend: cinderlib.Backend, make: Any) -> None:
    other = make(f"{backend.id}-other")
    volume = backend.create_volume(1, name="data")
    snapshot = volume.create_snapshot("cut")

    assert backend.Volume.get_by_id(volume.id) == volume
    assert backend.Volume.get_by_name("data") == [volume]
    assert backend.Snapshot.get_by_id(snapshot.id) == snapshot
    assert backend.Snapshot.get_by_name("cut") == [snapshot]
    assert backend.Connection.get_by_id(volume.connect({"host": "n"}).id).backend is backend
    assert other.Volume.get_by_name("data") == []
    with pytest.raises(cinderlib.VolumeNotFound, match="but in"):
        other.Volume.get_by_id(volume.id)


def test_every_error_tells_its_object(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(1)
    snapshot = volume.create_snapshot()
    faults.of_backend(backend.id).fail("delete_snapshot", VendorError("no"))

    for refused, resource in ((volume.delete, volume), (snapshot.delete, snapshot)):
        with pytest.raises(Exception, match=r".") as raised:
            refused()
        assert raised.value.resource is resource  # type: ignore[attr-defined]


def test_cleanup_deletes_a_volume_with_all_that_hangs_on_it(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(1)
    volume.create_snapshot()
    volume.connect({"host": "node1"})

    cinderlib.Volume.get_by_id(volume.id).cleanup()

    assert backend.driver.shelf.names() == {}
    assert (backend.driver.connected, backend.driver.exported) == ([], set())
    assert backend.volumes == []
