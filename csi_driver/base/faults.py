"""Fault points: where a test may end, stop or disturb the process.

Operations call :func:`reach` at every record that they write, by way of their tables
of steps.  Nothing happens there unless the environment names a fault, which only the
crash tests do: one for the whole process ::

    CINDER_CSI_TEST_FAULT="create/backend/recorded=kill"

or, while the process runs, a file per point in the directory that
``CINDER_CSI_TEST_FAULT_DIR`` names, with the action as its content ::

    $CINDER_CSI_TEST_FAULT_DIR/create/backend/recorded

A fault happens once.  Its file is gone before it does, which tells the test that the
work came to that point, and keeps the next process from meeting it again.

==========  ====================================================================
action      effect at the point
==========  ====================================================================
``kill``    SIGKILL to the process itself: nothing is flushed, nobody is told
``fail``    the write that follows fails, as the store or the disk would fail it
``pause``   the work makes the file ``paused`` in the directory and waits until
            somebody removes it: the caller can give up meanwhile, as when its
            answer is lost
==========  ====================================================================
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from csi_driver.base.errors import CinderCSIError

WRITE = "write"
"""Fault point before a step's record is written: the effect of the step before is done."""

RECORDED = "recorded"
"""Fault point after a step's record was written: its effect is not."""

_FAULT = "CINDER_CSI_TEST_FAULT"
_DIRECTORY = "CINDER_CSI_TEST_FAULT_DIR"
_PACE_SECONDS = 0.01


class Faults:
    """The faults that an environment asks for."""

    def __init__(self, environment: dict[str, str]) -> None:
        directory = environment.get(_DIRECTORY)
        self._directory = Path(directory) if directory else None
        self._armed: dict[str, str] = {}
        if environment.get(_FAULT):
            point, _, action = environment[_FAULT].partition("=")
            self._armed[point] = action

    def reach(self, point: str, failure: Callable[[str], CinderCSIError] | None = None) -> None:
        """Let happen at ``point`` what is asked for; see :func:`reach`."""
        action = self._take(point)
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "fail" and failure is not None:
            raise failure(f"A test made the write at {point} fail")
        elif action == "pause" and self._directory is not None:
            paused = self._directory / "paused"
            paused.touch()
            while paused.exists():
                time.sleep(_PACE_SECONDS)

    def _take(self, point: str) -> str:
        """The action at a point, for the first thread that comes by; '' for others."""
        action = self._armed.pop(point, "")
        if action or self._directory is None:
            return action
        armed = self._directory / point
        try:
            action = armed.read_text()
            armed.unlink()
        except FileNotFoundError:
            return ""
        return action


_faults = Faults(dict(os.environ)) if {_FAULT, _DIRECTORY} & os.environ.keys() else None


def reach(point: str, failure: Callable[[str], CinderCSIError] | None = None) -> None:
    """Say that the work has reached ``point``.

    :param failure: makes the error with which the write that follows would fail.
    :raises CinderCSIError: that error, when a test asks for it.
    """
    if _faults is not None:
        _faults.reach(point, failure)
