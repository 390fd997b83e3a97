"""Cinder's helper for the LIO target, without passwords on command lines.

Called by :mod:`csi_driver.cinderlib.runtime.quirks` for backends with
``target_helper=lioadm``.  The helper starts ``cinder-rtstool create ... PASSWORD`` and
``add-initiator ... PASSWORD``, whose arguments everybody on the host can read.  The
tool takes its arguments from a list as well, so it is started without any and reads the
list from its standard input.  The package ``cinder`` imports eventlet, for nothing here; an
empty module in its place saves more than half of each of the ten calls of an attachment.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_TOOL = "cinder-rtstool"
_START = """
import json, runpy, sys, types
sys.modules["eventlet"] = types.ModuleType("eventlet")
sys.exit(runpy.run_path(sys.argv[1])["main"](json.load(sys.stdin)))
"""


def keep_secrets_off_command_lines() -> None:
    """Change the helper's way to start the tool, for the whole process.  Idempotent."""
    import cinder
    from cinder import utils
    from cinder.volume.targets import lio

    helper = lio.LioAdm
    tool = str(Path(cinder.__file__).parent / "cmd" / "rtstool.py")

    @utils.synchronized("lioadm", external=True)  # type: ignore[untyped-decorator]
    def execute(*args: Any, **kwargs: Any) -> Any:
        """Locked as the original: RTSLib has races between processes."""
        if args[0] != _TOOL:
            return utils.execute(*args, **kwargs)
        told = json.dumps([str(argument) for argument in args])
        return utils.execute(sys.executable, "-c", _START, tool, process_input=told, **kwargs)

    def verify(_self: Any) -> None:
        execute(_TOOL, "verify")

    helper._execute = staticmethod(execute)
    helper._verify_rtstool = verify
