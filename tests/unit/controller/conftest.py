"""A controller for each test, on every kind of store that the package has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.controller_bench import (
    ControllerBench,
)


@pytest.fixture(params=["memory", "db"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ControllerBench]:
    with ControllerBench(tmp_path, store=request.param) as bench:
        bench.register("n1", "n2", "n3")
        yield bench
