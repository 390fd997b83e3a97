"""Fault points: where a test may end, stop or disturb the process.

Operations call :func:`reach` at every record that they write.  Nothing happens there
unless the environment variable ``CINDER_CSI_TEST_FAULT`` names the point, which only
the crash tests do::

    CINDER_CSI_TEST_FAULT="create/backend/recorded=kill"

==========  ====================================================================
action      effect at the point, the first time it is reached
==========  ====================================================================
``kill``    SIGKILL to the process itself: nothing is flushed, nobody is told
``fail``    the write that follows fails, as the store or the disk would fail it
``pause``   a file ``reached`` is made in ``CINDER_CSI_TEST_FAULT_DIR``, and the
            work waits until somebody writes into the FIFO ``resume`` there: the
            caller can give up meanwhile, as when its answer is lost
==========  ====================================================================
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from csi_driver.base.errors import CinderCSIError

_VARIABLE = "CINDER_CSI_TEST_FAULT"

_point, _, _action = os.environ.get(_VARIABLE, "").partition("=")
# Protects _point: a fault happens once, also when several threads reach it.
_lock = threading.Lock()


def reach(point: str, failure: Callable[[str], CinderCSIError] | None = None) -> None:
    """Say that the work has reached ``point``.

    :param failure: makes the error with which the write that follows would fail.
    :raises CinderCSIError: that error, when a test asks for it.
    """
    if _point == point:
        _happen(point, failure)


def _happen(point: str, failure: Callable[[str], CinderCSIError] | None) -> None:
    global _point  # noqa: PLW0603 - armed by the environment, disarmed once
    with _lock:
        if _point != point:
            return
        _point = ""
    if _action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif _action == "fail" and failure is not None:
        raise failure(f"A test made the write at {point} fail")
    elif _action == "pause":
        directory = Path(os.environ[f"{_VARIABLE}_DIR"])
        (directory / "reached").touch()
        (directory / "resume").read_bytes()
