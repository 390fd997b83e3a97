"""Logging of the command: one line per event on standard error, times in UTC."""

from __future__ import annotations

import logging
import time


def configure(level: str) -> None:
    """Send the project's log to standard error, and others' warnings.

    :param level: a name of :mod:`logging`: DEBUG, INFO, WARNING or ERROR.
    """
    handler = logging.StreamHandler()
    formatter = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("csi_driver").setLevel(level)
