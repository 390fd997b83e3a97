"""Logging of the command: one line per event on standard error, times in UTC, no secrets.

Called by ``serve``.  What the libraries log goes the same way, and what nobody caught
too, because the formatter is where secrets are masked: by the values that are known
(:mod:`csi_driver.base.masking`) and by the patterns that OpenStack masks.
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from csi_driver.base.masking import SECRETS
from csi_driver.config import LogLevel

LOG = logging.getLogger("csi_driver")

OPENSTACK = (
    "cinder",
    "os_brick",
    "oslo_concurrency",
    "oslo_privsep",
    "oslo_service",
    "tooz",
)
"""Libraries that say at DEBUG what they do to backends and devices."""


class Lines(logging.StreamHandler[TextIO]):
    """Writes each record to standard error, which flushes every line by itself."""

    def flush(self) -> None:
        """Nothing is left to flush."""


class MaskingFormatter(logging.Formatter):
    """Formats a record, traceback included, and masks the secrets in it."""

    def __init__(self) -> None:
        super().__init__(
            "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
        )
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        """The text of the record without secrets."""
        try:
            text = super().format(record)
        except Exception as error:
            # A library's mistake; logging itself would print the arguments as they are.
            text = f"{record.name} logged {record.msg!r} with wrong arguments: {error}"
        masked: str = _masking_of_patterns()(SECRETS.mask(text))
        return masked


_WORDS = (
    "pass",
    "pswd",
    "secret",
    "token",
    "key",
    "kek",
    "credential",
    "cookie",
    "fsid",
    "suffix",
    "configdrive",
)
"""Of these some stands in every name that OpenStack masks what follows, in lower case."""


@functools.cache
def _masking_of_patterns() -> Callable[[str], str]:
    # Late: the first line of the log shall not wait for it.
    from oslo_utils import strutils

    mask: Callable[[str], str] = strutils.mask_password
    # A version that has other names is asked about every line.
    names = getattr(strutils, "_SANITIZE_KEYS", ("",))
    if not all(any(word in name for word in _WORDS) for name in names):
        return mask

    def mask_if_named(text: str) -> str:
        lower = text.lower()
        for word in _WORDS:
            if word in lower:
                return mask(text)
        return text

    return mask_if_named


def configure(level: LogLevel) -> None:
    """Send the project's log to standard error, and others' warnings.

    At DEBUG Cinder and os-brick log as much; other libraries never do.
    """
    # What no line shows need not be found out for each (Python's logging HOWTO, Optimization).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = Lines()
    handler.setFormatter(MaskingFormatter())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    LOG.setLevel(level.value)
    if level is LogLevel.DEBUG:
        for name in OPENSTACK:
            logging.getLogger(name).setLevel(logging.DEBUG)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    LOG.critical("Nobody caught this", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None and not isinstance(arguments.exc_value, SystemExit):
        name = arguments.thread.name if arguments.thread is not None else "unknown"
        LOG.critical("Nobody caught this in thread %s", name, exc_info=arguments.exc_value)
