"""Waiting for what another process or thread does, without a fixed time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

WAIT = 60.0
"""Seconds after which something that never comes fails its test."""

_PACE = 0.02
_never = threading.Event()


def look_again() -> None:
    """Let a moment pass between two looks."""
    _never.wait(_PACE)


def wait_until(what: str, true: Callable[[], bool]) -> None:
    """Look again and again until it is true."""
    deadline = time.monotonic() + WAIT
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {WAIT:g} s")
        look_again()
