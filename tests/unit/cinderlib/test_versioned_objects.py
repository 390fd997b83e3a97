"""Volume objects made by copying are what Cinder's own code would have made."""

from __future__ import annotations

import weakref
from typing import Any

import pytest

from csi_driver.cinderlib.persistence.records import Phase
from csi_driver.cinderlib.runtime import ovo, rows
from tests.unit.cinderlib.conftest import Loaded

VOLUMES: dict[str, dict[str, Any]] = {
    "plain": {},
    "another size, name and pool": {"size_gib": 7, "name": "other", "pool": "fast"},
    "with metadata": {"metadata": {"team": "blue"}},
    "with a type": {"extra_specs": {"thin": "yes"}, "multiattach": True},
    "with a type that has qos": {"qos_specs": {"consumer": "back-end", "iops": "100"}},
    "with what a driver returned": {"provider": {"provider_id": "p", "provider_location": "l"}},
    "available": {"phase": Phase.AVAILABLE, "availability_zone": "z", "bootable": True},
    "with internal metadata": {"admin_metadata": {"readonly": "True"}},
}


@pytest.fixture(params=VOLUMES, ids=str)
def row(request: pytest.FixtureRequest, loaded: Loaded) -> rows.Row:
    fields = dict(VOLUMES[request.param])
    record = loaded.volume(fields.pop("size_gib", 1), **fields)
    owner = {"user_id": "user", "project_id": "project"}
    return rows.volume_row(record, host="here@main", pool="one", owner=owner, source_ids={})


def test_a_copy_has_the_fields_that_cinder_would_set(loaded: Loaded, row: rows.Row) -> None:
    context = ovo.request_context()
    expected = ovo._volume_by_cinder(context, row)

    made = ovo.volume(context, row)

    assert made.obj_to_primitive() == expected.obj_to_primitive()
    assert vars(made).keys() == vars(expected).keys()
    assert made.obj_what_changed() == set()


def test_a_copy_refuses_what_cinder_would_refuse(loaded: Loaded, row: rows.Row) -> None:
    made = ovo.volume(ovo.request_context(), row)
    for refused in (
        lambda: made.metadata.update(key=["no text"]),
        lambda: made.admin_metadata.update(key=["no text"]),
        lambda: made.volume_type.extra_specs.update(key=["no text"]),
        lambda: made.volume_attachment.objects.append("no attachment"),
        lambda: setattr(made, "size", "no number"),
    ):
        with pytest.raises(ValueError, match=r"is required|no number"):
            refused()


def test_an_object_goes_with_its_call(loaded: Loaded) -> None:
    """Not when the garbage collector comes by: a circle of 24 objects a call costs much."""
    context = ovo.request_context()
    record = loaded.volume(1)
    owner = {"user_id": "user", "project_id": "project"}
    row = rows.volume_row(record, host="here@main", pool="one", owner=owner, source_ids={})
    made = weakref.ref(ovo.volume(context, row))
    assert made() is None


def test_what_a_driver_does_to_one_volume_reaches_no_other(loaded: Loaded, row: rows.Row) -> None:
    from cinder import objects

    context = ovo.request_context()
    before = ovo.volume(context, row).obj_to_primitive()
    spoiled = ovo.volume(context, row)

    spoiled.size = 99
    spoiled.metadata["spoiled"] = "yes"
    spoiled.admin_metadata["spoiled"] = "yes"
    spoiled.glance_metadata["spoiled"] = "yes"
    spoiled.volume_type.extra_specs["spoiled"] = "yes"
    spoiled.volume_attachment.objects.append(objects.VolumeAttachment())

    assert spoiled.obj_what_changed() >= {"size", "metadata", "admin_metadata"}
    assert ovo.volume(context, row).obj_to_primitive() == before
