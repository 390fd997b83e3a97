"""Groups of volumes: by drivers that know them, and volume by volume for the others."""

from __future__ import annotations

import pytest

import csi_driver.cinderlib as cinderlib
from csi_driver.cinderlib.persistence.memory import MemoryStore
from csi_driver.cinderlib.persistence.records import (
    GroupRecord,
    GroupSnapshotRecord,
    Phase,
    SnapshotRecord,
    VolumeRecord,
)
from tests.doubles import faults
from tests.doubles.faults import VendorError

CONSISTENT = {"consistent_group_snapshot_enabled": "<is> True"}


@pytest.fixture
def knows(backend: cinderlib.Backend) -> cinderlib.Backend:
    """A backend whose driver knows groups."""
    backend.driver.groups = True
    return backend


def operations(backend: cinderlib.Backend) -> list[str]:
    return faults.of_backend(backend.id).operations()


def grouped(backend: cinderlib.Backend, count: int = 2, **fields: object) -> cinderlib.Group:
    group = backend.create_group("pair", **fields)  # type: ignore[arg-type]
    group.update(add=[backend.create_volume(1, name=f"v{n}") for n in range(count)])
    return group


def names(backend: cinderlib.Backend) -> set[str]:
    return set(backend.driver.shelf.names())


# -- either kind of driver --------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["volume by volume", "by the driver"])
def either(backend: cinderlib.Backend, request: pytest.FixtureRequest) -> cinderlib.Backend:
    backend.driver.groups = request.param
    return backend


def test_the_life_of_a_group(either: cinderlib.Backend, store: MemoryStore) -> None:
    group = grouped(either)
    first, second = group.volumes

    cut = group.create_snapshot("cut")

    assert [s.volume_id for s in cut.snapshots] != []
    assert {s.volume_id for s in cut.snapshots} == {first.id, second.id}
    assert {s.status for s in cut.snapshots} == {"available"}
    assert [c.id for c in group.snapshots] == [cut.id]

    restored = cut.create_group("restored")
    cloned = group.clone("cloned")

    assert [g.name for g in (restored, cloned)] == ["restored", "cloned"]
    for made in (restored, cloned):
        assert made.status == "available"
        assert [(v.status, v.size) for v in made.volumes] == [("available", 1)] * 2
    assert {v._record.source.id for v in cloned.volumes} == {first.id, second.id}  # type: ignore[union-attr]
    assert {g.id for g in either.groups} == {group.id, restored.id, cloned.id}

    with pytest.raises(cinderlib.InvalidVolume, match="has snapshots"):
        group.delete(delete_volumes=True)
    cut.delete()
    for each in (restored, cloned, group):
        each.delete(delete_volumes=True)

    assert names(either) == set()
    for kind in (GroupRecord, GroupSnapshotRecord, VolumeRecord, SnapshotRecord):
        assert store.list(kind) == []


def test_volumes_come_and_go(either: cinderlib.Backend) -> None:
    group, other = grouped(either), either.create_group("other")
    first, second = group.volumes

    assert first.group == group
    with pytest.raises(cinderlib.InvalidVolume, match="is in the group"):
        other.update(add=[first])
    with pytest.raises(cinderlib.InvalidVolume, match="is in the group"):
        first.delete()
    with pytest.raises(cinderlib.InvalidVolume, match="in a group"):
        first.retype(extra_specs={"a": "b"})
    with pytest.raises(cinderlib.InvalidVolume, match="in a group"):
        first.unmanage()
    with pytest.raises(cinderlib.InvalidVolume, match="has volumes"):
        group.delete()
    group.update(remove=[first])

    assert [v.id for v in group.volumes] == [second.id]
    first.refresh()
    assert first.group is None
    first.delete()
    group.update(remove=[second])
    group.delete()
    assert names(either) == {second.name_in_storage}


def test_a_part_of_a_group_snapshot_is_not_deleted_alone(either: cinderlib.Backend) -> None:
    group = grouped(either, 1)
    (snapshot,) = group.create_snapshot().snapshots

    with pytest.raises(cinderlib.InvalidVolume, match="part of the group snapshot"):
        snapshot.delete()
    with pytest.raises(cinderlib.InvalidVolume, match="part of a group snapshot"):
        snapshot.unmanage()
    assert snapshot.create_volume().status == "available"


def test_an_empty_group_has_no_snapshot_and_connected_volumes_stay(
    either: cinderlib.Backend,
) -> None:
    with pytest.raises(cinderlib.InvalidVolume, match="no volumes"):
        either.create_group("empty").create_snapshot()
    group = grouped(either, 1)
    group.volumes[0].connect({"host": "node1"})

    with pytest.raises(cinderlib.InvalidVolume, match="has connections"):
        group.delete(delete_volumes=True)

    assert group.create_snapshot().status == "available"


def test_a_group_is_json_and_back(either: cinderlib.Backend) -> None:
    group = either.create_group("pair", specs={"a": "b"})

    again = cinderlib.load(group.dumps)

    assert again == group
    assert again.specs == {"a": "b"}


# -- what drivers are asked ---------------------------------------------------------


def test_a_driver_that_knows_groups_does_all_in_one_call(knows: cinderlib.Backend) -> None:
    group = grouped(knows)
    volumes = group.volumes
    assert set(knows.driver.regrouped[0]) == {v._record.cinder_id for v in volumes}
    assert {v.provider_location for v in volumes} == {"moved"}

    cut = group.create_snapshot()
    cut.create_group("made")

    assert knows.driver.cut_of == ("pair", ["pair", "pair"])
    assert operations(knows)[-2:] == ["create_group_snapshot", "create_group_from_src"]
    cut.delete()
    group.delete(delete_volumes=True)
    assert operations(knows)[-2:] == ["delete_group_snapshot", "delete_group"]


def test_for_the_others_each_volume_is_a_call_and_exports_go_first(
    backend: cinderlib.Backend,
) -> None:
    group = grouped(backend)
    cut = group.create_snapshot()
    assert operations(backend)[-2:] == ["create_snapshot"] * 2
    cut.delete()
    assert operations(backend)[-2:] == ["delete_snapshot"] * 2
    group.delete(delete_volumes=True)
    assert operations(backend)[-4:] == ["remove_export", "delete_volume"] * 2


def test_cinder_finds_the_group_and_its_volumes(knows: cinderlib.Backend) -> None:
    from cinder.volume import volume_utils

    group = grouped(knows)
    seen = []

    def look(context: object, called: object, volumes: list[object]) -> object:
        from cinder import objects

        found = objects.Group.get_by_id(context, called.id)  # type: ignore[attr-defined]
        seen.extend(
            [
                found.name,
                {v.id for v in found.volumes},
                volume_utils.is_group_a_cg_snapshot_type(found),
                [v.group.id == found.id for v in volumes],  # type: ignore[attr-defined]
                [s.name for s in found.group_snapshots],
            ]
        )
        raise NotImplementedError

    knows.driver.delete_group = look
    ids = {v._record.cinder_id for v in group.volumes}
    group.delete(delete_volumes=True)

    assert seen == ["pair", ids, False, [True, True], []]


# -- one moment ----------------------------------------------------------------------


def test_a_backend_that_makes_no_consistent_snapshots_refuses_the_group(
    backend: cinderlib.Backend, store: MemoryStore
) -> None:
    with pytest.raises(cinderlib.OperationNotSupported, match="one moment"):
        backend.create_group("pair", specs=CONSISTENT)

    assert store.list(GroupRecord) == []


def test_what_would_be_done_volume_by_volume_is_refused_for_a_consistent_group(
    knows: cinderlib.Backend, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("csi_driver.cinderlib.grouping.can_be_consistent", lambda _: True)
    group = grouped(knows, specs=CONSISTENT)
    assert group.create_snapshot().status == "available"
    knows.driver.groups = False

    with pytest.raises(cinderlib.OperationNotSupported, match="one moment"):
        group.create_snapshot()
    with pytest.raises(cinderlib.OperationNotSupported, match="one moment"):
        group.clone()

    # The volumes of a snapshot that is consistent may well be copied one by one.
    (cut,) = [one for one in group.snapshots if one.status == "available"]
    assert cut.create_group("restored").status == "available"
    assert len(store.list(SnapshotRecord)) == 2


# -- failures --------------------------------------------------------------------------


def test_a_snapshot_that_failed_in_the_middle_says_which(backend: cinderlib.Backend) -> None:
    group = grouped(backend)
    faults.of_backend(backend.id).fail("create_snapshot", VendorError("full"))

    with pytest.raises(VendorError):
        group.create_snapshot()

    (cut,) = group.snapshots
    assert cut.status == "error"
    assert sorted(s.status for s in cut.snapshots) == ["available", "error"]
    cut.delete()
    assert group.snapshots == []
    assert names(backend) == {v.name_in_storage for v in group.volumes}


def test_what_a_driver_reports_of_one_member_is_recorded(knows: cinderlib.Backend) -> None:
    group = grouped(knows)
    knows.driver.group_answers = {"create_group_snapshot": "error"}

    with pytest.raises(cinderlib.GroupFailed):
        group.create_snapshot()

    (cut,) = group.snapshots
    assert (cut.status, sorted(s.status for s in cut.snapshots)) == (
        "error",
        ["available", "error"],
    )
    cut.delete()
    assert names(knows) == {v.name_in_storage for v in group.volumes}


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_driver_that_fails_leaves_the_members_in_doubt_until_it_is_repeated(
    knows: cinderlib.Backend, when: faults.When
) -> None:
    group = grouped(knows)
    cut = group.create_snapshot()
    faults.of_backend(knows.id).fail("delete_group_snapshot", VendorError("half"), when)
    faults.of_backend(knows.id).fail("delete_group", VendorError("half"), when)

    with pytest.raises(VendorError):
        cut.delete()
    assert {s.status for s in cut.snapshots} == {"error"}
    cut.delete()
    with pytest.raises(VendorError):
        group.delete(delete_volumes=True)
    found = cinderlib.Group.get_by_id(group.id)
    assert found.status == "error"
    assert {v.status for v in found.volumes} == {"error"}
    assert found._record.operation is not None
    assert found._record.operation.last_error == "half"
    found.delete(delete_volumes=True)

    assert names(knows) == set()


def test_a_volume_that_is_busy_stays_and_the_group_with_it(backend: cinderlib.Backend) -> None:
    from cinder import exception

    group = grouped(backend)
    faults.of_backend(backend.id).fail("delete_volume", exception.VolumeIsBusy(volume_name="v"))

    with pytest.raises(exception.VolumeIsBusy):
        group.delete(delete_volumes=True)

    found = cinderlib.Group.get_by_id(group.id)
    assert found.status == "error"
    assert [v.status for v in found.volumes] == ["available"]
    found.delete(delete_volumes=True)
    assert names(backend) == set()


def test_an_update_that_failed_leaves_the_members_and_may_be_repeated(
    knows: cinderlib.Backend,
) -> None:
    group = grouped(knows, 1)
    (old,) = group.volumes
    new = knows.create_volume(1)
    faults.of_backend(knows.id).fail("update_group", VendorError("half"), "after")

    with pytest.raises(VendorError):
        group.update(add=[new], remove=[old])

    found = cinderlib.Group.get_by_id(group.id)
    assert found.status == "error"
    assert found._record.operation is not None
    assert found._record.operation.wanted == {"add": [new.id], "remove": [old.id]}
    assert [v.id for v in found.volumes] == [old.id]
    found.update(add=[new], remove=[old])
    assert [v.id for v in found.volumes] == [new.id]
    assert found.status == "available"


@pytest.mark.parametrize("groups", [False, True])
def test_a_group_from_a_source_that_failed_is_deleted_whole(
    backend: cinderlib.Backend, groups: bool
) -> None:
    backend.driver.groups = groups
    group = grouped(backend)
    operation = "create_group_from_src" if groups else "create_cloned_volume"
    faults.of_backend(backend.id).fail(operation, VendorError("full"), "after")

    with pytest.raises(VendorError) as raised:
        group.clone("copy")

    made = raised.value.resource  # type: ignore[attr-defined]
    (copy,) = cinderlib.Group.get_by_name("copy")
    assert copy.status == "error"
    assert "error" in {v.status for v in copy.volumes}
    assert made is not None
    copy.delete(delete_volumes=True)
    assert names(backend) == {v.name_in_storage for v in group.volumes}


def test_the_members_are_recorded_before_the_driver_is_called(
    knows: cinderlib.Backend, store: MemoryStore
) -> None:
    group = grouped(knows)
    seen = []
    take = knows.driver.create_group_snapshot

    def look(*arguments: object) -> object:
        seen.extend(record.phase for record in store.list(SnapshotRecord))
        return take(*arguments)

    knows.driver.create_group_snapshot = look
    group.create_snapshot()

    assert seen == [Phase.CREATING, Phase.CREATING]
