"""The stand-in of Cinder's database: what it answers, and that it answers all that is asked."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from csi_driver.cinderlib.exceptions import NotProvided
from csi_driver.cinderlib.persistence.records import Phase, SnapshotRecord, VolumeRecord
from csi_driver.cinderlib.runtime import refusals
from csi_driver.cinderlib.runtime.database import PROVIDED
from tests.unit.cinderlib.conftest import Loaded

ASKING = (
    "volume/drivers",
    "volume/targets",
    "volume/driver.py",
    "volume/driver_utils.py",
    "volume/volume_utils.py",
    "volume/volume_types.py",
    "volume/qos_specs.py",
    "volume/group_types.py",
    "objects",
)
"""What of Cinder runs in this process; its services, API and scheduler do not."""

ALIASES = {"db", "_db", "db_api"}


def sources() -> Iterator[Path]:
    import cinder

    root = Path(cinder.__file__).parent
    for place in ASKING:
        path = root / place
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def names_asked() -> dict[str, str]:
    """Every ``db.NAME`` in those sources, with one file that asks for it."""
    asked: dict[str, str] = {}
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Attribute):
                continue
            holder = node.value
            name = holder.id if isinstance(holder, ast.Name) else getattr(holder, "attr", "")
            if name in ALIASES:
                asked.setdefault(node.attr, str(path))
    return asked


NO_FUNCTION = {
    "models": "a module, named in type annotations only",
    "base": "objects.base, by another name",
    "api": "the module itself",
    "utils": "a module",
}


def test_every_function_that_cinder_asks_for_is_provided_or_refused_with_a_reason(
    runtime: object,
) -> None:
    asked = names_asked()
    unknown = {
        name: where
        for name, where in asked.items()
        if name not in PROVIDED and name not in NO_FUNCTION and not refusals.reason(name)
    }

    assert len(asked) > 100
    assert unknown == {}


def test_nothing_is_provided_that_is_refused_too(runtime: object) -> None:
    assert [name for name in PROVIDED if refusals.reason(name)] == []


def test_what_is_not_provided_names_the_function_the_driver_and_the_reason(
    loaded: Loaded,
) -> None:
    loaded.driver.create_volume = lambda volume: ask(loaded.driver)

    def ask(self: Any) -> None:
        self.db.quota_reserve(None)

    with pytest.raises(NotProvided) as raised:
        loaded.manager.create_volume(loaded.volume())

    message = str(raised.value)
    assert "cinder.db.api.quota_reserve" in message
    assert "tests.doubles.driver.DoubleDriver" in message
    assert "quotas" in message


def test_a_name_that_nobody_knows_is_refused_when_it_is_called(runtime: object) -> None:
    from cinder.db import api

    function = api.invented_in_the_next_release
    with pytest.raises(NotProvided, match="unknown to this version"):
        function(None)


def during_create(loaded: Loaded, work: Callable[[Any], Any]) -> tuple[VolumeRecord, Any]:
    """Run ``work`` on the volume inside the driver's create_volume."""
    answers: list[Any] = []
    loaded.driver.create_volume = lambda volume: answers.append(work(volume))
    made = loaded.manager.create_volume(loaded.volume())
    return made, answers[0]


def test_a_save_in_the_middle_of_a_call_lands_in_the_returned_record(loaded: Loaded) -> None:
    def work(volume: Any) -> None:
        volume.provider_location = "first"
        volume.save()
        volume.admin_metadata["format"] = "raw"
        volume.metadata["seen"] = "yes"
        volume.save()

    made, _ = during_create(loaded, work)

    assert made.provider == {"provider_location": "first"}
    assert made.admin_metadata == {"format": "raw"}
    assert made.metadata == {"seen": "yes"}


def test_get_by_id_and_refresh_see_what_was_saved(loaded: Loaded) -> None:
    def work(volume: Any) -> tuple[str, str, str]:
        from cinder import context, objects

        volume.provider_id = "saved"
        volume.save()
        again = objects.Volume.get_by_id(context.get_admin_context(), volume.id)
        volume.provider_id = "not saved"
        volume.refresh()
        return again.provider_id, again.name, volume.provider_id

    made, answer = during_create(loaded, work)

    assert answer == ("saved", f"volume-{made.cinder_id}", "saved")


def test_every_field_of_a_volume_can_be_read(loaded: Loaded) -> None:
    loaded.made_snapshot(volume := loaded.made_volume())
    unread: list[str] = []

    def read(volume: Any, size: int) -> None:
        for name in (*volume.fields, *volume.obj_extra_fields):
            try:
                getattr(volume, name)
            except Exception as error:
                unread.append(f"{name}: {error}")

    loaded.driver.extend_volume = read
    loaded.manager.extend_volume(volume, 2)

    assert unread == []


def test_every_field_of_a_snapshot_can_be_read(loaded: Loaded) -> None:
    volume = loaded.made_volume()
    unread: list[str] = []

    def read(snapshot: Any) -> None:
        for name in (*snapshot.fields, *snapshot.obj_extra_fields):
            try:
                getattr(snapshot, name)
            except Exception as error:
                unread.append(f"{name}: {error}")
        assert snapshot.volume.id == volume.cinder_id

    loaded.driver.create_snapshot = read
    loaded.manager.create_snapshot(loaded.snapshot(volume), volume)

    assert unread == []


def test_a_volume_carries_its_type_and_its_quality_of_service(loaded: Loaded) -> None:
    def work(volume: Any) -> Any:
        from cinder.volume import qos_specs, volume_types

        specs = volume_types.get_volume_type_extra_specs(volume.volume_type_id)
        qos = volume_types.get_volume_type_qos_specs(volume.volume_type_id)["qos_specs"]
        by_id = qos_specs.get_qos_specs(volume._context, volume.volume_type.qos_specs_id)
        return specs, qos["specs"], by_id.specs, volume.volume_type.qos_specs.specs

    answers: list[Any] = []
    loaded.driver.create_volume = lambda volume: answers.append(work(volume))
    loaded.manager.create_volume(
        loaded.volume(
            extra_specs={"tier": "gold"},
            qos_specs={"consumer": "back-end", "maxIOPS": "10"},
            multiattach=True,
        )
    )

    iops = {"maxIOPS": "10"}
    assert answers == [({"tier": "gold", "multiattach": "<is> True"}, iops, iops, iops)]


def test_equal_specs_are_one_type_and_none_are_the_default_type(loaded: Loaded) -> None:
    seen: list[tuple[str, str]] = []
    loaded.driver.create_volume = lambda volume: seen.append(
        (volume.volume_type.name, volume.volume_type_id)
    )
    for specs in ({"a": "1"}, {"a": "1"}, {"a": "2"}, {}):
        loaded.manager.create_volume(loaded.volume(extra_specs=specs))

    assert seen[0] == seen[1] != seen[2]
    assert seen[3][0] == "__DEFAULT__"


def test_a_driver_finds_the_volumes_of_its_host(loaded: Loaded, load: Any) -> None:
    other = load()
    other.made_volume()
    mine = {loaded.made_volume().cinder_id for _ in range(3)}

    def work(volume: Any) -> set[str]:
        from cinder import context, objects

        listed = objects.VolumeList.get_all_by_host(context.get_admin_context(), loaded.driver.host)
        return {found.id for found in listed} - {volume.id}

    _, answer = during_create(loaded, work)

    assert answer == mine


def test_a_driver_finds_the_snapshots_of_a_volume(loaded: Loaded) -> None:
    volume = loaded.made_volume()
    snapshot = loaded.store.put(
        msgspec.structs.replace(loaded.made_snapshot(volume), phase=Phase.AVAILABLE)
    )
    seen: list[list[str]] = []
    loaded.driver.extend_volume = lambda volume, size: seen.append(
        [found.id for found in volume.snapshots]
    )

    loaded.manager.extend_volume(volume, 2)

    assert seen == [[snapshot.cinder_id]]


def test_rows_answer_by_key_and_by_attribute_like_cinder_s(loaded: Loaded) -> None:
    volume = loaded.made_volume()

    row = PROVIDED["volume_get"](None, volume.cinder_id)

    assert row["name"] == row.name == f"volume-{volume.cinder_id}"
    assert row.provider_id == f"array-{volume.cinder_id}"


def test_a_missing_object_raises_what_cinder_raises(runtime: object) -> None:
    from cinder import context, exception, objects

    nobody = "00000000-0000-4000-8000-000000000000"
    with pytest.raises(exception.VolumeNotFound):
        objects.Volume.get_by_id(context.get_admin_context(), nobody)
    with pytest.raises(exception.SnapshotNotFound):
        PROVIDED["snapshot_get"](None, nobody)
    assert not objects.Volume.exists(context.get_admin_context(), nobody)


def test_what_a_driver_saves_of_another_object_of_the_call_is_stored(loaded: Loaded) -> None:
    source = loaded.made_volume()

    def clone(volume: Any, src: Any) -> None:
        src.provider_location = "has a clone"
        src.save()

    loaded.driver.create_cloned_volume = clone
    loaded.manager.create_volume(loaded.volume(), source)

    stored = loaded.store.get(VolumeRecord, source.id)
    assert stored is not None
    assert stored.provider["provider_location"] == "has a clone"


def test_what_a_driver_saves_of_an_object_outside_the_call_is_stored(loaded: Loaded) -> None:
    bystander = loaded.made_volume()

    def work(volume: Any) -> None:
        from cinder import context, objects

        other = objects.Volume.get_by_id(context.get_admin_context(), bystander.cinder_id)
        other.admin_metadata["touched"] = "yes"
        other.save()

    during_create(loaded, work)

    stored = loaded.store.get(VolumeRecord, bystander.id)
    assert stored is not None
    assert stored.admin_metadata["touched"] == "yes"
    assert (stored.name, stored.phase) == (bystander.name, bystander.phase)


def test_a_snapshot_s_volume_saved_during_the_snapshot_is_stored(loaded: Loaded) -> None:
    volume = loaded.made_volume()

    def create(snapshot: Any) -> None:
        snapshot.volume.provider_location = "active file"
        snapshot.volume.save()

    loaded.driver.create_snapshot = create
    loaded.manager.create_snapshot(loaded.snapshot(volume), volume)

    stored = loaded.store.get(VolumeRecord, volume.id)
    assert stored is not None
    assert stored.provider["provider_location"] == "active file"


def test_a_driver_may_make_a_snapshot_for_itself_during_a_call(loaded: Loaded) -> None:
    volume = loaded.made_volume()

    def clone(new: Any, src: Any) -> None:
        from cinder import context, objects

        ctx = context.get_admin_context()
        snapshot = objects.Snapshot(
            context=ctx,
            volume_id=src.id,
            volume_size=src.size,
            volume_type_id=src.volume_type_id,
            status="creating",
        )
        snapshot.create()
        assert snapshot.name == f"snapshot-{snapshot.id}"
        assert snapshot.volume.id == src.id
        snapshot.status = "deleting"
        snapshot.save()
        assert objects.Snapshot.get_by_id(ctx, snapshot.id).status == "deleting"
        snapshot.destroy()
        assert not objects.Snapshot.exists(ctx, snapshot.id)

    loaded.driver.create_cloned_volume = clone
    loaded.manager.create_volume(loaded.volume(), volume)

    assert loaded.store.list(SnapshotRecord) == []


def test_a_driver_may_make_a_volume_for_itself_during_a_call(loaded: Loaded) -> None:
    volume = loaded.made_volume()
    snapshot = loaded.snapshot(volume)

    def create(cut: Any) -> None:
        temporary = loaded.driver._create_temp_volume(
            cut._context, cut.volume, {"name_id": cut.id, "metadata": {"for": "a snapshot"}}
        )
        assert temporary.name == f"volume-{cut.id}"
        assert temporary.metadata == {"for": "a snapshot"}
        temporary.destroy()

    loaded.driver.create_snapshot = create
    loaded.manager.create_snapshot(snapshot, volume)

    assert [record.id for record in loaded.store.list(VolumeRecord)] == [volume.id]


def test_what_a_driver_keeps_for_an_initiator_stays_and_is_not_overwritten(
    loaded: Loaded,
) -> None:
    utils = loaded.driver.driver_utils

    assert utils.insert_driver_initiator_data("iqn.host", "CHAP", "secret")
    assert not utils.insert_driver_initiator_data("iqn.host", "CHAP", "another")
    assert utils.insert_driver_initiator_data("iqn.host", "user", "me")

    kept = utils.get_driver_initiator_data("iqn.host")
    assert {entry["key"]: entry.value for entry in kept} == {"CHAP": "secret", "user": "me"}
    assert utils.get_driver_initiator_data("iqn.other") == []


def test_admin_metadata_follows_add_and_update(loaded: Loaded) -> None:
    volume = loaded.made_volume()
    update = PROVIDED["volume_admin_metadata_update"]

    assert update(None, volume.cinder_id, {"internal": "2", "x": "1"}, False, add=False) == {
        "internal": "2"
    }
    assert update(None, volume.cinder_id, {"internal": "3", "x": "1"}, False, update=False) == {
        "internal": "2",
        "x": "1",
    }
    PROVIDED["volume_admin_metadata_delete"](None, volume.cinder_id, "x")
    assert PROVIDED["volume_admin_metadata_get"](None, volume.cinder_id) == {"internal": "2"}


def test_a_backend_s_objects_are_not_found_after_it_was_closed(loaded: Loaded) -> None:
    from cinder import exception

    volume = loaded.made_volume()
    loaded.manager.close()

    with pytest.raises(exception.VolumeNotFound):
        PROVIDED["volume_get"](None, volume.cinder_id)
