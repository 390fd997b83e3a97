"""The controller, broken at the points of its table, with the records in Kubernetes."""

from __future__ import annotations

from tests.crash import test_controller_points as of_controller
from tests.crash.test_controller_points import *  # noqa: F403

pytestmark = of_controller.pytestmark
