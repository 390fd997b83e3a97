"""Driver processes for tests, and calls on them; every process ends with its test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.driver_process import DriverProcess


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Callable[..., DriverProcess]]:
    """Makes a driver process in a directory of its own; the test starts it."""
    made: list[DriverProcess] = []

    def make(name: str = "one", **settings: Any) -> DriverProcess:
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        made.append(DriverProcess(directory, **settings))
        return made[-1]

    yield make
    for process in made:
        with contextlib.suppress(RuntimeError):  # it does not run any more
            process.kill()
