"""The record of an orphan, broken, with the records in Kubernetes."""

from __future__ import annotations

from tests.crash import test_orphan_points as of_orphans
from tests.crash.test_orphan_points import *  # noqa: F403

pytestmark = of_orphans.pytestmark
