"""What every RPC goes through: readiness, one log line, and the one error table.

The servicers' methods are wrapped by :func:`rpc`.  No exception reaches gRPC
unmapped, no traceback reaches a caller, and no request is logged but for the
fields that identify the object: secrets have no way into a log.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, Protocol

import grpc
import grpc.aio

from csi_driver.base.errors import CinderCSIError, ShuttingDown
from csi_driver.base.masking import SECRETS
from csi_driver.rpc.errors import status_of

LOG = logging.getLogger("csi_driver.rpc")

_REQUEST_NUMBERS = itertools.count(1)

_IDENTIFYING = (
    "name",
    "volume_id",
    "source_volume_id",
    "snapshot_id",
    "node_id",
    "staging_target_path",
    "target_path",
    "volume_path",
)
"""Fields that a log line may show; everything else stays out of logs."""


class NotReady(CinderCSIError):
    """The process is starting and cannot serve this call yet."""

    advice = "Retry; Probe answers ready when it can"


class Readiness(Enum):
    """What the process can serve now."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Gate:
    """Whether calls may start, and how many run.  Used on the event loop's thread only."""

    def __init__(self) -> None:
        self.state = Readiness.STARTING
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def enter(self, method: str) -> None:
        """Count a call in.

        :raises NotReady: the process is starting.
        :raises ShuttingDown: the process is draining.
        """
        if self.state is Readiness.STARTING:
            raise NotReady(f"{method} is not served yet: the process is starting")
        if self.state is Readiness.DRAINING:
            raise ShuttingDown(f"{method} was not started: the process is draining")
        self._running += 1
        self._idle.clear()

    def leave(self) -> None:
        """Count a call out."""
        self._running -= 1
        if not self._running:
            self._idle.set()

    async def idle(self) -> None:
        """Wait until no call runs."""
        await self._idle.wait()


class Servicer(Protocol):
    """What :func:`rpc` needs of a servicer."""

    gate: Gate


Method = Callable[[Any, Any], Awaitable[Any]]
Handler = Callable[[Any, Any, "grpc.aio.ServicerContext[Any, Any]"], Awaitable[Any]]


def rpc(*, effect: bool, always: bool = False) -> Callable[[Method], Handler]:
    """Make a gRPC handler of ``async def Method(self, request) -> response``.

    :param effect: whether the call changes something; then an unforeseen exception
        answers with a code that callers retry, since something may have been done.
    :param always: serve the call while starting and draining too.
    """

    def wrap(method: Method) -> Handler:
        @functools.wraps(method)
        async def handler(
            self: Servicer, request: Any, context: grpc.aio.ServicerContext[Any, Any]
        ) -> Any:
            number = next(_REQUEST_NUMBERS)
            started = time.perf_counter()
            entered = False
            if "secrets" in request.DESCRIPTOR.fields_by_name:
                SECRETS.learn(*request.secrets.values())
            try:
                if not always:
                    self.gate.enter(method.__name__)
                    entered = True
                response = await method(self, request)
            except asyncio.CancelledError:
                _log(number, method.__name__, request, started, "caller gave up; work goes on")
                raise
            except Exception as error:  # the one place where exceptions become codes
                status = status_of(error, effect=effect, reference=f"request {number}")
                if status.unexpected:
                    LOG.exception("#%d %s failed unexpectedly", number, method.__name__)
                _log(
                    number,
                    method.__name__,
                    request,
                    started,
                    f"{status.code.name}: {status.message}",
                )
                await context.abort(status.code, status.message)
            else:
                _log(number, method.__name__, request, started, "OK")
                return response
            finally:
                if entered:
                    self.gate.leave()

        return handler

    return wrap


def _log(number: int, method: str, request: Any, started: float, outcome: str) -> None:
    if not LOG.isEnabledFor(logging.INFO):
        return
    known = request.DESCRIPTOR.fields_by_name
    named = [
        f"{field}={getattr(request, field)!r}"
        for field in _IDENTIFYING
        if field in known and getattr(request, field)
    ]
    took = (time.perf_counter() - started) * 1000
    LOG.info("#%d %s %s %.1f ms %s", number, method, " ".join(named), took, outcome)
