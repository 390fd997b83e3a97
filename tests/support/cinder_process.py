"""Sets the test process up for Cinder, once, whichever test comes first."""

from __future__ import annotations

import tempfile
from pathlib import Path

from csi_driver.cinderlib.exceptions import NotSetUp
from csi_driver.cinderlib.runtime import bootstrap


def set_up() -> bootstrap.RuntimeSettings:
    """The settings of the process, which is set up if it was not."""
    try:
        return bootstrap.active()
    except NotSetUp:
        state = Path(tempfile.mkdtemp(prefix="cinderlib-tests-"))
        bootstrap.setup(bootstrap.RuntimeSettings(state_path=state))
        return bootstrap.active()
