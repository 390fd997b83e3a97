"""A controller that may have been replaced calls no driver until it knows that it was not."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from csi_driver.kube.errors import NotLeading
from csi_driver.rpc._generated import csi_pb2 as pb
from tests.doubles.faults import VendorError
from tests.support.controller_bench import WAIT, ControllerBench


class Leadership:
    """What ``permit`` of the manager asks: leading, uncertain, or gone."""

    def __init__(self) -> None:
        self.certain = threading.Event()
        self.certain.set()
        self.asked = threading.Event()
        self.deposed = False

    def permit(self) -> None:
        if not self.certain.is_set():
            self.asked.set()
        self.certain.wait(WAIT)
        if self.deposed:
            raise NotLeading("another leads")


@pytest.fixture
def leadership() -> Leadership:
    return Leadership()


@pytest.fixture
def bench(tmp_path: Path, leadership: Leadership):
    with ControllerBench(tmp_path, permit=leadership.permit) as made:
        made.register("n1")
        yield made


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("create_export", "initialize_connection"),
        ("terminate_connection", "remove_export"),
        ("create_cloned_volume", "extend_volume"),
    ],
)
@pytest.mark.parametrize("deposed", [False, True])
def test_an_operation_of_two_driver_calls_makes_no_second_while_another_may_lead(
    tmp_path, leadership, first, second, deposed
):
    """The first may have taken long, or the whole machine stood still meanwhile."""
    options = {"double_grows_copies": False}
    with ControllerBench(tmp_path, permit=leadership.permit, options=options) as bench:
        bench.register("n1")
        source = bench.create().volume_id
        if first == "terminate_connection":
            bench.publish(source)
        copied = pb.VolumeContentSource()
        copied.volume.volume_id = source
        calls = {
            "create_export": lambda: bench.publish(source),
            "terminate_connection": lambda: bench.unpublish(source),
            "create_cloned_volume": lambda: bench.create(
                "larger", gib=2, volume_content_source=copied
            ),
        }
        gate = bench.hold(first, "after")
        with ThreadPoolExecutor(1) as callers:
            call = callers.submit(calls[first])
            gate.wait_until_entered()
            leadership.certain.clear()
            gate.release()
            assert leadership.asked.wait(WAIT)
            assert second not in bench.faults().operations()
            leadership.deposed = deposed
            leadership.certain.set()
            assert (call.exception(WAIT) is None) is not deposed
        assert (second in bench.faults().operations()) is not deposed


@pytest.mark.parametrize("deposed", [False, True])
def test_a_failed_connection_is_not_taken_back_while_another_may_lead(bench, leadership, deposed):
    volume_id = bench.create().volume_id
    gate = bench.hold("initialize_connection")
    bench.faults().fail("initialize_connection", VendorError("late failure"))
    with ThreadPoolExecutor(1) as callers:
        call = callers.submit(bench.publish, volume_id)
        gate.wait_until_entered()
        leadership.certain.clear()
        gate.release()
        assert leadership.asked.wait(WAIT)
        assert "remove_export" not in bench.faults().operations()
        leadership.deposed = deposed
        leadership.certain.set()
        assert isinstance(call.exception(WAIT), grpc.RpcError)
    assert ("remove_export" in bench.faults().operations()) is not deposed
