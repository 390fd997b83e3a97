"""Logging of the command: one line per event on standard error, times in UTC."""

from __future__ import annotations

import logging
import time

from csi_driver.config import LogLevel


def configure(level: LogLevel) -> None:
    """Send the project's log to standard error, and others' warnings."""
    handler = logging.StreamHandler()
    formatter = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("csi_driver").setLevel(level.value)
