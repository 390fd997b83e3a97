"""Sends the tests of this directory into a lab kernel, and gives them what they need there."""

import os
from pathlib import Path

import pytest

from tests.lab.host import relay

HERE = Path(__file__).parent
INSIDE = relay.INSIDE in os.environ


def pytest_configure(config: pytest.Config) -> None:
    """Relay, on the host."""
    if not INSIDE:
        config.pluginmanager.register(relay.Relay(), "lab-relay")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is to run inside; its time is limited there."""
    for item in items:
        if HERE in item.path.parents and not INSIDE:
            item.add_marker(pytest.mark.in_lab_kernel)
            item.add_marker(pytest.mark.timeout(0))
