"""An API whose requests are repeated while that is harmless, for commands that run once.

Used by ``cinder-csi records``.  A server that starts, or has much to do, asks to come back
later: a backup at night should not fail for it.  What runs for long decides for itself what
to repeat, and when to tell (:mod:`csi_driver.kube.api`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from csi_driver.kube.api import Api
from csi_driver.kube.connection import Connection
from csi_driver.kube.errors import AWAY, ApiBusy, ApiOutcomeUnknown

PATIENCE_SECONDS = 30.0
"""How long a request is repeated."""

_LONGEST_PAUSE = 5.0


class PatientApi(Api):
    """Repeats what had no effect, and reads whatever became of them.

    :param wait: waits so many seconds; injected by tests, as ``clock`` is.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        wait: Callable[[float], Any] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(connection)
        self._wait = wait
        self._clock = clock

    def _answer(self, verb: str, path: str, *arguments: Any, **options: Any) -> Any:
        until = self._clock() + PATIENCE_SECONDS
        pause = 0.2
        while True:
            try:
                return super()._answer(verb, path, *arguments, **options)
            except AWAY as error:
                if isinstance(error, ApiOutcomeUnknown) and verb != "GET":
                    raise
                asked = error.retry_after if isinstance(error, ApiBusy) else 0.0
                if self._clock() + max(pause, asked) > until:
                    raise
                self._wait(max(pause, asked))
                pause = min(2 * pause, _LONGEST_PAUSE)
