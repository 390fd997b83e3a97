"""What can be read: pages with published nodes, one volume, room, capabilities."""

from __future__ import annotations

import msgspec
import pytest

from csi_driver.base.values import GIB
from csi_driver.cinderlib.persistence.records import SnapshotRecord, VolumeRecord
from csi_driver.controller import listing
from csi_driver.rpc._generated import csi_pb2 as pb
from tests.doubles.faults import VendorError
from tests.support.controller_bench import (
    TOPOLOGY_KEY,
    WAIT,
    Code,
    ControllerBench,
    Refused,
)
from tests.support.messages import block, mount

SHARED = {"volume_capabilities": [block("MULTI_NODE_READER_ONLY")]}


def pages(bench: ControllerBench, size: int) -> list[list[tuple[str, list[str]]]]:
    """Volume ids with their nodes, by page."""
    found, token = [], ""
    while True:
        answer = bench.stub.ListVolumes(
            pb.ListVolumesRequest(max_entries=size, starting_token=token), timeout=WAIT
        )
        found.append(
            [(e.volume.volume_id, list(e.status.published_node_ids)) for e in answer.entries]
        )
        token = answer.next_token
        if not token:
            return found


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 6, 99])
def test_pages_hold_every_volume_once_with_its_nodes(bench, size):
    expected = {}
    for number in range(5):
        volume = bench.create(f"data-{number}", **SHARED).volume_id
        nodes = ["n1", "n2", "n3"][: number % 4]
        for node in nodes:
            bench.publish(volume, node, volume_capability=block("MULTI_NODE_READER_ONLY"))
        expected[volume] = nodes
    found = pages(bench, size)
    assert [entry for page in found for entry in page] == sorted(expected.items())
    assert all(len(page) == size for page in found[:-1])


def test_many_connections_are_read_in_chunks(bench, monkeypatch):
    monkeypatch.setattr(listing, "_RANGE_CHUNK", 2)
    volumes = sorted(bench.create(f"data-{number}", **SHARED).volume_id for number in range(3))
    for volume in volumes:
        for node in ("n1", "n2", "n3"):
            bench.publish(volume, node, volume_capability=block("MULTI_NODE_READER_ONLY"))
    assert pages(bench, 2) == [
        [(volume, ["n1", "n2", "n3"]) for volume in volumes[:2]],
        [(volumes[2], ["n1", "n2", "n3"])],
    ]


def test_a_list_of_nothing_is_empty(bench):
    assert pages(bench, 0) == [[]]


def test_a_token_stays_good_when_its_volume_is_deleted(bench):
    volumes = sorted(bench.create(f"data-{number}").volume_id for number in range(3))
    answer = bench.stub.ListVolumes(pb.ListVolumesRequest(max_entries=1), timeout=WAIT)
    bench.delete(volumes[0])
    rest = bench.stub.ListVolumes(
        pb.ListVolumesRequest(starting_token=answer.next_token), timeout=WAIT
    )
    assert [entry.volume.volume_id for entry in rest.entries] == volumes[1:]


def test_what_is_half_made_or_half_deleted_is_not_listed(bench):
    bench.faults().fail("create_volume", VendorError("first"), "after")
    bench.faults().fail("delete_volume", VendorError("second"))
    with Refused(Code.ABORTED):
        bench.create("half-made")
    volume = bench.create("half-deleted")
    bench.faults().fail("delete_volume", VendorError("third"))
    with Refused(Code.INTERNAL):
        bench.delete(volume.volume_id)
    assert len(bench.store.list(VolumeRecord)) == 2
    assert list(bench.volumes()) == []


@pytest.mark.parametrize("method", ["ListVolumes", "ListSnapshots"])
def test_a_strange_token_or_size_is_refused(bench, method):
    call, request = getattr(bench.stub, method), getattr(pb, f"{method}Request")
    with Refused(Code.ABORTED, "Start the list again without a token"):
        call(request(starting_token="strange"), timeout=WAIT)
    with Refused(Code.INVALID_ARGUMENT, "negative"):
        call(request(max_entries=-1), timeout=WAIT)


# -- snapshots ------------------------------------------------------------------


def snapshots(bench: ControllerBench, **filters) -> list[str]:
    answer = bench.stub.ListSnapshots(pb.ListSnapshotsRequest(**filters), timeout=WAIT)
    return [entry.snapshot.snapshot_id for entry in answer.entries]


def test_snapshots_are_found_by_volume_and_by_id(bench):
    one, two = (bench.create(name).volume_id for name in ("one", "two"))
    cuts = {bench.snapshot(one, name).snapshot_id for name in ("a", "b")}
    other = bench.snapshot(two, "c").snapshot_id
    assert set(snapshots(bench)) == cuts | {other}
    assert set(snapshots(bench, source_volume_id=one)) == cuts
    assert snapshots(bench, snapshot_id=other) == [other]
    assert snapshots(bench, snapshot_id=other, source_volume_id=two) == [other]


@pytest.mark.parametrize("filters", [{"snapshot_id": "x"}, {"source_volume_id": "x"}])
def test_an_unknown_filter_finds_nothing(bench, filters):
    bench.snapshot(bench.create().volume_id)
    assert snapshots(bench, **filters) == []


def test_a_snapshot_of_another_volume_than_asked_is_not_found(bench):
    cut = bench.snapshot(bench.create("one").volume_id)
    other = bench.create("two").volume_id
    assert snapshots(bench, snapshot_id=cut.snapshot_id, source_volume_id=other) == []


def test_pages_hold_every_snapshot_once(bench):
    volume = bench.create().volume_id
    cuts = sorted(bench.snapshot(volume, f"cut-{number}").snapshot_id for number in range(5))
    found, token = [], ""
    while True:
        answer = bench.stub.ListSnapshots(
            pb.ListSnapshotsRequest(max_entries=2, starting_token=token, source_volume_id=volume),
            timeout=WAIT,
        )
        found += [entry.snapshot.snapshot_id for entry in answer.entries]
        token = answer.next_token
        if not token:
            break
    assert found == cuts
    assert len(bench.store.list(SnapshotRecord)) == 5


# -- one volume -----------------------------------------------------------------


def get(bench: ControllerBench, volume_id: str):
    return bench.stub.ControllerGetVolume(
        pb.ControllerGetVolumeRequest(volume_id=volume_id), timeout=WAIT
    )


def test_a_volume_is_told_with_its_nodes(bench):
    volume = bench.create()
    bench.publish(volume.volume_id, "n2")
    found = get(bench, volume.volume_id)
    assert found.volume == volume
    assert list(found.status.published_node_ids) == ["n2"]


def test_an_unknown_volume_is_not_found(bench):
    with Refused(Code.NOT_FOUND):
        get(bench, "nonsense")


# -- capabilities of a volume ---------------------------------------------------


def validate(bench: ControllerBench, volume_id: str, *capabilities, **fields):
    return bench.stub.ValidateVolumeCapabilities(
        pb.ValidateVolumeCapabilitiesRequest(
            volume_id=volume_id, volume_capabilities=capabilities, **fields
        ),
        timeout=WAIT,
    )


def test_what_can_be_had_is_confirmed_as_it_was_asked(bench):
    volume = bench.create(parameters={"pool": "one"}).volume_id
    asked = [mount(), mount(fs_type="xfs")]
    context = {"backend": bench.backend}
    answer = validate(bench, volume, *asked, parameters={"pool": "one"}, volume_context=context)
    assert list(answer.confirmed.volume_capabilities) == asked
    assert dict(answer.confirmed.parameters) == {"pool": "one"}
    assert dict(answer.confirmed.volume_context) == context
    assert answer.message == ""


@pytest.mark.parametrize(
    ("capability", "parameters", "reason"),
    [
        (mount(fs_type="ntfs"), {}, "'ntfs' is not supported"),
        (mount("MULTI_NODE_MULTI_WRITER"), {}, "volumeMode Block"),
        (mount(), {"pool": "one"}, "other parameters"),
    ],
)
def test_what_cannot_be_had_is_not_confirmed_and_told_why(bench, capability, parameters, reason):
    volume = bench.create().volume_id
    answer = validate(bench, volume, mount(), capability, parameters=parameters)
    assert not answer.HasField("confirmed")
    assert reason in answer.message


def test_a_question_must_be_complete(bench):
    volume = bench.create().volume_id
    with Refused(Code.INVALID_ARGUMENT, "volume_capabilities"):
        validate(bench, volume)
    with Refused(Code.INVALID_ARGUMENT, "volume_id"):
        validate(bench, "", mount())
    with Refused(Code.NOT_FOUND):
        validate(bench, "nonsense", mount())


# -- room -----------------------------------------------------------------------


def room(bench: ControllerBench, **fields):
    return bench.stub.GetCapacity(pb.GetCapacityRequest(**fields), timeout=WAIT)


def test_room_shrinks_as_volumes_are_made(bench):
    before = room(bench)
    assert before.available_capacity == 1000 * GIB
    assert before.maximum_volume_size.value == 1000 * GIB
    assert before.minimum_volume_size.value == GIB
    volume = bench.create(gib=10)
    assert room(bench).available_capacity == 990 * GIB
    bench.delete(volume.volume_id)
    assert room(bench).available_capacity == 1000 * GIB


def test_there_is_no_room_for_what_cannot_be_had(bench):
    assert room(bench, volume_capabilities=[mount(fs_type="ntfs")]).available_capacity == 0


def test_a_network_backend_has_its_room_from_everywhere(bench):
    topology = pb.Topology(segments={TOPOLOGY_KEY: "anywhere"})
    assert room(bench, accessible_topology=topology).available_capacity == 1000 * GIB


@pytest.mark.parametrize(
    ("parameters", "told"),
    [({"backend": "x"}, "no backend 'x'"), ({"pool": "x"}, "no pool 'x'"), ({"pol": "x"}, "pool")],
)
def test_room_of_what_does_not_exist_is_refused(bench, parameters, told):
    with Refused(Code.INVALID_ARGUMENT, told):
        room(bench, parameters=parameters)


def test_a_backend_that_does_not_answer_says_so(bench):
    room(bench)
    next(iter(bench.context.backends)).forget_stats()
    bench.faults().fail("get_volume_stats", ConnectionError("no route"))
    with Refused(Code.UNAVAILABLE, "no route"):
        room(bench)
    assert room(bench).available_capacity


def test_a_volume_whose_backend_is_not_configured_any_more_is_told_as_such(bench):
    record = bench.record(bench.create().volume_id)
    bench.store.put(msgspec.structs.replace(record, backend="retired"))
    with Refused(Code.UNAVAILABLE, "'retired' is not configured"):
        bench.delete(record.id)
