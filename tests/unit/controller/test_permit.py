"""A controller that may have been replaced calls no driver until it knows that it was not."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from csi_driver.kube.errors import NotLeading
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
