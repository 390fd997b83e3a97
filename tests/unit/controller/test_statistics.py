"""When a backend is asked for its statistics: some take seconds to answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_driver.rpc._generated import csi_pb2 as pb
from tests.support.controller_bench import ControllerBench


@pytest.fixture(params=[["one"], ["small", "large"]], ids=["one pool", "two pools"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ControllerBench]:
    with ControllerBench(tmp_path, options={"double_pools": request.param}) as made:
        made.create("first")
        yield made


def counted(bench: ControllerBench) -> list[bool]:
    """Grows by one entry whenever the driver is asked."""
    asked: list[bool] = []
    driver = bench.managers[0].driver
    answer = driver.get_volume_stats
    driver.get_volume_stats = lambda refresh=False: asked.append(refresh) or answer(refresh)
    return asked


def test_no_create_waits_for_statistics_unless_there_is_a_choice_of_pools(bench):
    asked = counted(bench)
    bench.create("second")
    bench.create("third")
    pools = len(bench.managers[0].stats().pools)
    assert len(asked) == (0 if pools == 1 else 2)


def test_capacity_is_told_anew_after_a_create(bench):
    asked = counted(bench)
    bench.create("second")
    before = len(asked)
    bench.stub.GetCapacity(pb.GetCapacityRequest())
    assert len(asked) == before + 1
    bench.stub.GetCapacity(pb.GetCapacityRequest())
    assert len(asked) == before + 1
