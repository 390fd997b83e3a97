"""Marks everything below as ``lab``: real storage, run by `make lab` and not by `make test`."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this directory; the hook is given those of others too."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.lab)
