"""What every RPC goes through: readiness, one log line, and the one error table.

The servicers' methods are wrapped by :func:`rpc`.  No exception reaches gRPC
unmapped, no traceback reaches a caller, and no request is logged but for the
fields that identify the object: secrets have no way into a log.
"""

from __future__ import annotations

import functools
import itertools
import logging
import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import Any, NoReturn, Protocol

import grpc

from csi_driver.base.errors import CinderCSIError, ShuttingDown
from csi_driver.base.masking import SECRETS
from csi_driver.base.turns import CallerGone, on_behalf_of
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


@functools.cache
def _shown(kind: Any) -> tuple[str, ...]:
    """Those of the fields above that messages of a kind have."""
    return tuple(name for name in _IDENTIFYING if name in kind.fields_by_name)


@functools.cache
def _has_secrets(kind: Any) -> bool:
    return "secrets" in kind.fields_by_name


class NotReady(CinderCSIError):
    """The process is starting and cannot serve this call yet."""

    advice = "Retry; Probe answers ready when it can"


class TooManyCalls(CinderCSIError):
    """As many calls wait as the process has threads for."""

    advice = "Retry; see in the log which backend does not answer"


MOST_CALLS = 480
"""Calls that may run or wait at a time.

All sidecars of Kubernetes together make some 150 at most.  Identity and the questions for
capabilities are not counted: there are more threads than this.
"""


CAVEAT = "cinder-csi-caveat"
"""The trailing metadata of an answer that may be old, with the reason.

No message of CSI has a field for it, and gRPC lets callers ignore what they do not know.
"""


class Readiness(Enum):
    """What the process can serve now."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Gate:
    """Whether calls may start, and how many run.

    :param admit: called with the method's name, and whether the call changes something,
        before a call is let in; raises to keep it out, answers what its caller should know
        of the answer ('' for nothing).  For what changes while the process is ready, as who
        leads.

    ``_lock`` protects ``_running``; a drain waits on ``_none_runs``.
    """

    def __init__(self, admit: Callable[[str, bool], str] = lambda method, effect: "") -> None:
        self.state = Readiness.STARTING
        self._admit = admit
        self._lock = threading.Lock()
        self._none_runs = threading.Condition(self._lock)
        self._running = 0

    def enter(self, method: str, *, effect: bool) -> str:
        """Count a call in; what its caller should know of the answer, '' for nothing.

        :param effect: whether the call changes something.
        :raises NotReady: the process is starting.
        :raises ShuttingDown: the process is draining.
        :raises TooManyCalls: :data:`MOST_CALLS` run.
        """
        caveat = self._admit(method, effect)
        with self._lock:
            self._refuse(method)
            self._running += 1
        return caveat

    def _refuse(self, method: str) -> None:
        if self.state is Readiness.STARTING:
            raise NotReady(f"{method} is not served yet: the process is starting")
        if self.state is Readiness.DRAINING:
            raise ShuttingDown(f"{method} was not started: the process is draining")
        if self._running >= MOST_CALLS:
            raise TooManyCalls(f"{method} was not started: {MOST_CALLS} calls run or wait")

    def leave(self) -> None:
        """Count a call out."""
        with self._lock:
            self._running -= 1
            if not self._running and self.state is Readiness.DRAINING:
                self._none_runs.notify_all()

    def drain(self, seconds: float) -> bool:
        """Let no call in any more and wait for those inside; False when some still run."""
        with self._lock:
            self.state = Readiness.DRAINING
            return self._none_runs.wait_for(lambda: not self._running, seconds)


class Servicer(Protocol):
    """What :func:`rpc` needs of a servicer."""

    gate: Gate


Method = Callable[[Any, Any], Any]
Handler = Callable[[Any, Any, grpc.ServicerContext], Any]


def rpc(*, effect: bool, always: bool = False) -> Callable[[Method], Handler]:
    """Make a gRPC handler of ``def Method(self, request) -> response``.

    :param effect: whether the call changes something; then an unforeseen exception
        answers with a code that callers retry, since something may have been done.
    :param always: serve the call while starting and draining too.
    """

    def wrap(method: Method) -> Handler:
        @functools.wraps(method)
        def handler(self: Servicer, request: Any, context: grpc.ServicerContext) -> Any:
            call = _Call(method.__name__, request)
            if _has_secrets(request.DESCRIPTOR):
                SECRETS.learn(*request.secrets.values())
            entered, caveat = False, ""
            try:
                if not always:
                    caveat = self.gate.enter(call.method, effect=effect)
                    entered = True
                with on_behalf_of(context.add_callback):
                    response = method(self, request)
            except CallerGone:
                call.log("caller gave up; work goes on")
                context.abort(grpc.StatusCode.CANCELLED, "The caller gave up")
            except Exception as error:  # the one place where exceptions become codes
                call.fail(error, context, effect=effect)
            else:
                done = "OK" if context.is_active() else "OK, after the caller gave up"
                if caveat:
                    context.set_trailing_metadata(((CAVEAT, _header(caveat)),))
                call.log(f"{done}, {caveat}" if caveat else done)
                return response
            finally:
                if entered:
                    self.gate.leave()

        return handler

    return wrap


def _header(text: str) -> str:
    """A text as gRPC's metadata may carry it: printable ASCII, one line."""
    return "".join(each if " " <= each <= "~" else "?" for each in text)


class _Call:
    """One call as the log tells of it."""

    def __init__(self, method: str, request: Any) -> None:
        self.method = method
        self._request = request
        self._number = next(_REQUEST_NUMBERS)
        self._started = time.perf_counter()

    def fail(self, error: Exception, context: grpc.ServicerContext, *, effect: bool) -> NoReturn:
        """Log the error and answer with its code."""
        status = status_of(error, effect=effect, reference=f"request {self._number}")
        if status.unexpected:
            LOG.exception("#%d %s failed unexpectedly", self._number, self.method)
        self.log(f"{status.code.name}: {status.message}")
        context.abort(status.code, status.message)
        raise AssertionError("abort() does not return")

    def log(self, outcome: str) -> None:
        """One line with the fields that name the object."""
        if not LOG.isEnabledFor(logging.INFO):
            return
        request = self._request
        named = [
            f"{field}={value!r}"
            for field in _shown(request.DESCRIPTOR)
            if (value := getattr(request, field))
        ]
        took = (time.perf_counter() - self._started) * 1000
        LOG.info("#%d %s %s %.1f ms %s", self._number, self.method, " ".join(named), took, outcome)
