"""Several backends, and backends that only one host reaches."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_driver.base.values import GIB, NodeRegistration
from csi_driver.rpc._generated import csi_pb2 as pb
from tests.support.controller_bench import (
    TOPOLOGY_KEY,
    WAIT,
    Code,
    ControllerBench,
    Refused,
)
from tests.support.messages import from_volume


@pytest.fixture
def two(tmp_path: Path) -> Iterator[ControllerBench]:
    with ControllerBench(tmp_path, backends=2) as bench:
        yield bench


@pytest.fixture
def local(tmp_path: Path) -> Iterator[ControllerBench]:
    with ControllerBench(tmp_path, options={"double_host_local": True}) as bench:
        yield bench


def test_a_class_chooses_its_backend_and_the_first_is_the_default(two):
    first, second = (manager.name for manager in two.managers)
    assert two.create("a").volume_context == {"backend": first}
    chosen = two.create("b", parameters={"backend": second})
    assert chosen.volume_context == {"backend": second}
    assert two.record(chosen.volume_id).backend == second
    assert len(two.managers[1].driver.shelf.names()) == 1


def test_a_stuck_backend_delays_no_other(two):
    gate = two.hold("create_volume")
    stuck = [
        two.stub.CreateVolume.future(two.create_request(f"a-{number}"), timeout=WAIT)
        for number in range(30)
    ]
    gate.wait_until_entered()
    volume = two.create("b", parameters={"backend": two.managers[1].name})
    two.delete(volume.volume_id)
    assert not any(call.done() for call in stuck)
    gate.release()
    assert all(call.result() for call in stuck)


def test_a_copy_is_made_where_its_source_is(two):
    source = two.create("source", parameters={"backend": two.managers[1].name})
    copy = two.create("copy", volume_content_source=from_volume(source.volume_id))
    assert copy.volume_context == source.volume_context


def test_a_backend_of_every_node_names_no_topology(two):
    assert list(two.create().accessible_topology) == []


# -- one host -------------------------------------------------------------------


def segments(volume) -> list[dict[str, str]]:
    return [dict(topology.segments) for topology in volume.accessible_topology]


def asks_for(*nodes: str) -> dict:
    return {
        "accessibility_requirements": pb.TopologyRequirement(
            requisite=[pb.Topology(segments={TOPOLOGY_KEY: node}) for node in nodes]
        )
    }


def register_here(bench: ControllerBench, node_id: str) -> None:
    bench.nodes.register(
        NodeRegistration(
            node_id=node_id,
            connector={"host": socket.gethostname()},
            topology={TOPOLOGY_KEY: node_id},
        )
    )


def test_before_its_node_registered_a_local_backend_is_reached_from_the_host(local):
    assert segments(local.create()) == [{TOPOLOGY_KEY: socket.gethostname()}]


def test_a_local_backend_is_reached_from_the_nodes_of_its_host(local):
    local.register("elsewhere")
    register_here(local, "here")
    assert segments(local.create()) == [{TOPOLOGY_KEY: "here"}]
    assert local.create("second", **asks_for("elsewhere", "here")).volume_id


def test_a_volume_that_no_wanted_node_would_reach_is_refused(local):
    register_here(local, "here")
    with Refused(Code.RESOURCE_EXHAUSTED, "WaitForFirstConsumer"):
        local.create(**asks_for("elsewhere"))
    assert local.on_backend() == set()


def test_room_is_where_the_backend_is(local):
    register_here(local, "here")
    for node, expected in (("here", 1000 * GIB), ("elsewhere", 0)):
        request = pb.GetCapacityRequest(
            accessible_topology=pb.Topology(segments={TOPOLOGY_KEY: node})
        )
        assert local.stub.GetCapacity(request, timeout=WAIT).available_capacity == expected
