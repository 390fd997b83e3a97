"""The node, broken at the points of its table, with a ledger in Kubernetes."""

from __future__ import annotations

from tests.crash import test_node_points as of_node
from tests.crash.test_node_points import *  # noqa: F403

pytestmark = of_node.pytestmark
