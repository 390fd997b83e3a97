"""A controller for each test, on every kind of store that the package has."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.controller_bench import ControllerBench
from tests.support.takeover_bench import Clock, Cluster


@pytest.fixture(params=["memory", "db"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ControllerBench]:
    with ControllerBench(tmp_path, store=request.param) as bench:
        bench.register("n1", "n2", "n3")
        yield bench


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A controller that others may replace; ``first`` at the beginning."""
    bench = Cluster(tmp_path)
    bench.clock = Clock()
    with bench:
        bench.register("n1", "n2")
        bench.take_over("first")
        yield bench


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    """Threads for calls that are held."""
    with ThreadPoolExecutor(2) as pool:
        yield pool
