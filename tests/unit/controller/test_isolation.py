"""Who is slow makes only its own callers wait: backends, and attaches and detaches, are apart.

No clock decides here.  Gates keep calls inside the driver, more of them than the pools have
threads, and what must not wait for them has to be answered while they are closed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_driver.base.values import GIB
from csi_driver.controller.backends import ATTACH_THREADS, DETACH_THREADS, WORK_THREADS
from csi_driver.rpc._generated import csi_pb2 as pb
from tests.support.controller_bench import WAIT, ControllerBench
from tests.support.messages import from_snapshot, from_volume
from tests.support.waiting import wait_until

MORE = 5
"""So many calls wait in a queue, behind as many as a pool has threads."""


@pytest.fixture
def two(tmp_path: Path) -> Iterator[ControllerBench]:
    """Two backends; the first one is slow as soon as one of its calls is held."""
    with ControllerBench(tmp_path, store="db", backends=2) as bench:
        bench.register("n1", "n2")
        yield bench


def on_fast(bench: ControllerBench) -> dict[str, dict[str, str]]:
    return {"parameters": {"backend": bench.managers[1].name}}


def whole_life_on_fast(bench: ControllerBench) -> None:
    """Every call that a backend gets, on the second one."""
    volume = bench.create("fast", **on_fast(bench))
    cut = bench.snapshot(volume.volume_id, "fast-cut")
    copy = bench.create("fast-copy", volume_content_source=from_snapshot(cut.snapshot_id))
    clone = bench.create("fast-clone", volume_content_source=from_volume(volume.volume_id))
    assert bench.publish(copy.volume_id)
    assert bench.expand(copy.volume_id, 2 * GIB) == 2 * GIB
    bench.unpublish(copy.volume_id)
    bench.delete_snapshot(cut.snapshot_id)
    for volume_id in (volume.volume_id, copy.volume_id, clone.volume_id):
        bench.delete(volume_id)
    asked = pb.GetCapacityRequest(parameters=on_fast(bench)["parameters"])
    assert bench.stub.GetCapacity(asked, timeout=WAIT).available_capacity > 0


def creations(bench: ControllerBench, number: int) -> list:
    return [
        bench.stub.CreateVolume.future(bench.create_request(f"slow-{index}"), timeout=WAIT)
        for index in range(number)
    ]


def publications(bench: ControllerBench, volume_ids: list[str]) -> list:
    return [
        bench.stub.ControllerPublishVolume.future(bench.publish_request(volume_id), timeout=WAIT)
        for volume_id in volume_ids
    ]


def unpublications(bench: ControllerBench, volume_ids: list[str]) -> list:
    return [
        bench.stub.ControllerUnpublishVolume.future(
            pb.ControllerUnpublishVolumeRequest(volume_id=volume_id, node_id="n1"), timeout=WAIT
        )
        for volume_id in volume_ids
    ]


def made(bench: ControllerBench, number: int, prefix: str) -> list[str]:
    """Volumes on the first backend."""
    return [bench.create(f"{prefix}-{index}").volume_id for index in range(number)]


def published(bench: ControllerBench, number: int) -> list[str]:
    volume_ids = made(bench, number, "published")
    for volume_id in volume_ids:
        bench.publish(volume_id)
    return volume_ids


def answered(calls: list) -> bool:
    """Whether all calls end well, now that nothing keeps them."""
    return all(call.result() is not None for call in calls)


def test_a_backend_whose_every_queue_is_full_delays_no_other(two):
    attached = published(two, DETACH_THREADS + MORE)
    free = made(two, ATTACH_THREADS + MORE, "free")
    operations = ("create_volume", "initialize_connection", "terminate_connection")
    gates = {operation: two.hold(operation) for operation in operations}
    slow = creations(two, WORK_THREADS + MORE)
    slow += publications(two, free)
    slow += unpublications(two, attached)
    for gate in gates.values():
        gate.wait_until_entered()
    whole_life_on_fast(two)
    assert not any(call.done() for call in slow)
    for gate in gates.values():
        gate.release()
    assert answered(slow)


def test_a_backend_that_does_not_tell_its_statistics_delays_no_other(two):
    gate = two.hold("get_volume_stats")
    slow = two.context.backends.named(two.backend)
    slow.forget_stats()
    asked = [
        two.stub.GetCapacity.future(
            pb.GetCapacityRequest(parameters={"backend": two.backend}), timeout=WAIT
        )
        for _ in range(WORK_THREADS + MORE)
    ]
    gate.wait_until_entered()
    whole_life_on_fast(two)
    assert two.identity.Probe(pb.ProbeRequest(), timeout=WAIT).ready.value
    assert not any(call.done() for call in asked)
    gate.release()
    assert answered(asked)


def test_a_burst_of_detaches_delays_no_attach(two):
    leaving = published(two, DETACH_THREADS + MORE)
    coming = made(two, 3, "coming")
    gate = two.hold("terminate_connection")
    detaches = unpublications(two, leaving)
    gate.wait_until_entered()
    for volume_id in coming:
        assert two.publish(volume_id)
    assert not any(call.done() for call in detaches)
    gate.release()
    assert answered(detaches)


def test_a_burst_of_attaches_delays_no_detach_and_no_creation(two):
    leaving = published(two, 3)
    coming = made(two, ATTACH_THREADS + MORE, "coming")
    gate = two.hold("initialize_connection")
    attaches = publications(two, coming)
    gate.wait_until_entered()
    for volume_id in leaving:
        two.unpublish(volume_id)
        two.delete(volume_id)
    two.create("another")
    assert not any(call.done() for call in attaches)
    gate.release()
    assert answered(attaches)


def test_creations_that_fill_their_queue_delay_no_attach_and_no_detach(two):
    (volume_id,) = made(two, 1, "ready")
    gate = two.hold("create_volume")
    slow = creations(two, WORK_THREADS + MORE)
    gate.wait_until_entered()
    assert two.publish(volume_id)
    two.unpublish(volume_id)
    gate.release()
    assert answered(slow)


def test_a_backend_never_gets_more_calls_at_once_than_its_pool_has_threads(two):
    gate = two.hold("create_volume")
    slow = creations(two, WORK_THREADS + MORE)
    gate.wait_until_entered()
    gate.release()
    assert answered(slow)
    assert two.faults().most_running <= WORK_THREADS


def test_capacity_is_told_while_operations_fill_their_queue(two):
    gate = two.hold("create_volume")
    slow = creations(two, WORK_THREADS + MORE)
    wait_until("all turns are taken", lambda: two.faults().most_running == WORK_THREADS)
    asked = pb.GetCapacityRequest(parameters={"backend": two.backend})
    assert two.stub.GetCapacity(asked, timeout=WAIT).available_capacity > 0
    assert not any(call.done() for call in slow)
    gate.release()
    assert answered(slow)


def test_what_is_listed_is_told_while_every_queue_is_full(two):
    (volume_id,) = made(two, 1, "ready")
    gate = two.hold("create_volume")
    slow = creations(two, WORK_THREADS + MORE)
    gate.wait_until_entered()
    listed = [entry.volume.volume_id for entry in two.volumes()]
    assert volume_id in listed
    gate.release()
    assert answered(slow)
