"""What the node's tests share: a bench whose mounts and loop devices go away with the test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.leftovers import release
from tests.support.node_bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A node on real devices; whatever a test leaves there is released."""
    node = Bench(tmp_path)
    yield node
    node.service.drain()
    release(tmp_path)
