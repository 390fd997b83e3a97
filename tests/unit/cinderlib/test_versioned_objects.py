"""Volume objects made by copying are what Cinder's own code would have made."""

from __future__ import annotations

import datetime
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from oslo_context import context as oslo_context
from oslo_utils import timeutils

from csi_driver.cinderlib.persistence.records import Phase
from csi_driver.cinderlib.runtime import bootstrap, ovo, rows
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


PLAIN = (str, bool, datetime.datetime, type(None))


class TestARequestContext:
    def test_has_the_attributes_that_cinder_would_set(self, loaded: Loaded) -> None:
        made = ovo.request_context()
        expected = context_by_cinder()
        own = {"request_id", "timestamp"}
        assert type(made) is type(expected)
        assert {name: vars(made)[name] for name in vars(made).keys() - own} == {
            name: vars(expected)[name] for name in vars(expected).keys() - own
        }
        assert vars(made).keys() == vars(expected).keys()
        assert made.to_dict().keys() == expected.to_dict().keys()

    def test_has_its_own_id_and_time(self, loaded: Loaded) -> None:
        before = timeutils.utcnow()
        one, other = ovo.request_context(), ovo.request_context()
        assert one.request_id.startswith("req-")
        assert one.request_id != other.request_id
        assert before <= one.timestamp <= other.timestamp <= timeutils.utcnow()

    def test_shares_nothing_that_a_driver_could_change(self, loaded: Loaded) -> None:
        made = ovo.request_context()
        changeable = {k: v for k, v in vars(made).items() if not isinstance(v, PLAIN)}
        assert all(type(value) is list for value in changeable.values())
        for value in changeable.values():
            value.append("spoiled")
        made.user_id = made.request_id = "spoiled"
        assert "spoiled" not in str(vars(ovo.request_context()))

    def test_can_be_elevated_and_copied(self, loaded: Loaded) -> None:
        made = ovo.request_context()
        raised = made.elevated(read_deleted="yes")
        assert raised.request_id == made.request_id
        assert (raised.is_admin, raised.read_deleted, made.read_deleted) == (True, "yes", "no")
        assert type(made).from_dict(made.to_dict()).request_id == made.request_id

    @pytest.mark.parametrize("current", [True, False])
    def test_becomes_the_threads_own_only_where_there_is_none(
        self, loaded: Loaded, current: bool
    ) -> None:
        def work() -> tuple[Any, Any, Any]:
            there = context_by_cinder() if current else None
            return there, ovo.request_context(), oslo_context.get_current()

        with ThreadPoolExecutor(1) as pool:  # a thread that has no context yet
            there, made, now = pool.submit(work).result()
        assert now is (there or made)


def context_by_cinder() -> Any:
    from cinder import context

    settings = bootstrap.active()
    return context.RequestContext(
        user_id=settings.user_id, project_id=settings.project_id, is_admin=True, overwrite=False
    )
