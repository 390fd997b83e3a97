"""A gRPC server of unary calls, on grpcio's own completion queue.

Used by ``rpc.server`` in the place of ``grpc.server``, whose part in Python it is: transport,
protocol, deadlines and cancellation are gRPC's core as before.  All calls of CSI are unary,
and what ``grpc.server`` does for any kind of call is an eighth of the CPU of a CreateVolume
with its DeleteVolume: it wakes a thread, which then waits for the request until the serving
thread hands it over, and makes futures and conditions on the way.  Here the serving thread
reads the request and only then wakes a thread, with all that the call needs.

``cygrpc`` is no public module of grpcio, so ``pyproject.toml`` names the releases with
which this was tested.  What is used of it, ``grpc/_server.py`` uses in the same way: look
there when a release changes it.  With ``grpc.server`` and a pool of Python's in the place of
this server and its threads everything works too, only slower.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeVar

import grpc
from grpc._cython import cygrpc

LOG = logging.getLogger("csi_driver.rpc")

Metadata = tuple[tuple[str, str], ...]
F = TypeVar("F", bound=Callable[..., Any])

_NO_FLAGS = 0
_AT_ONCE = "answered_at_once"


class Threads(Protocol):
    """Where calls run."""

    def run(self, call: Callable[[], None]) -> None:
        """Run a call on a thread, as soon as there is one.

        :raises RuntimeError: there is none, and will be none.
        """


def at_once(method: F) -> F:
    """Let the serving thread answer a method, before the request has come.

    For methods that wait for nothing, and need nothing of their request: it is None.
    """
    setattr(method, _AT_ONCE, True)
    return method


@dataclass(frozen=True)
class _Method:
    """What is served: a function of request and context, and what reads and writes messages."""

    answer: Callable[[Any, Any], Any]
    read: Callable[[bytes], Any]
    write: Callable[[Any], bytes]
    at_once: bool


class UnaryServer:
    """Serves the methods that are added to it.  It is not started twice.

    The serving thread handles events one after another: a call that comes, its request, its
    end.  ``_lock`` protects everything below it and is not held while anything waits.

    :param threads: run the calls.
    :param options: channel arguments, as of :func:`grpc.server`.
    """

    def __init__(self, threads: Threads, options: Sequence[tuple[str, Any]] = ()) -> None:
        self._threads = threads
        self._methods: dict[str, _Method] = {}
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(tuple(options), False)
        self._server.register_completion_queue(self._queue)
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._started = self._stopping = self._destroyed = False
        # What gRPC still owes an event: the calls that are asked for, the end of the server.
        self._owed = 0
        self._calls: set[_Call] = set()

    # The next two are what the generated add_...Servicer_to_server() call.

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler]
    ) -> None:
        """Serve the methods of a service.

        :raises ValueError: one is not unary.
        :raises RuntimeError: the server was started, and gRPC's core would end the process.
        """
        if self._started:
            raise RuntimeError(f"{service} comes too late: the server was started")
        for name, handler in handlers.items():
            path = f"/{service}/{name}"
            if handler.request_streaming or handler.response_streaming:
                raise ValueError(f"{path} is a stream, which is not served here")
            self._methods[path] = _Method(
                answer=handler.unary_unary,
                read=handler.request_deserializer or bytes,
                write=handler.response_serializer or bytes,
                at_once=hasattr(handler.unary_unary, _AT_ONCE),
            )
            self._server.register_method(path)

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Nothing: the same methods are registered."""

    def add_insecure_port(self, address: str) -> None:
        """Listen on an address of gRPC's.

        :raises RuntimeError: that is not possible.
        """
        if not self._server.add_http2_port(address.encode()):
            raise RuntimeError(f"gRPC cannot listen on {address}")

    def start(self) -> None:
        """Serve, on a thread of its own, until :meth:`stop`.

        :raises RuntimeError: it was stopped before.
        """
        with self._lock:
            if self._stopping:
                raise RuntimeError("A server that was stopped does not start")
            self._server.start()
            self._started = True
            for path in self._methods:
                self._ask_for_call(path)
            self._ask_for_call(None)
        threading.Thread(target=self._serve, name="rpc-serving", daemon=True).start()

    def stop(self, seconds: float) -> bool:
        """Take no more calls, and cancel those that run after ``seconds``.

        :returns: whether all have ended, at the latest ``seconds`` later.
        """
        with self._lock:
            stopped, self._stopping = self._stopping, True
            if not self._started:
                return True
            if not stopped:
                self._owed += 1
                self._server.shutdown(self._queue, self._take_end)
        if self._ended.wait(seconds):
            return True
        with self._lock:
            if not self._destroyed:
                self._server.cancel_all_calls()
        return self._ended.wait(seconds)

    def run(self, call: _Call) -> None:
        """Run a call whose request has come; for calls."""
        try:
            self._threads.run(call.run)
        except RuntimeError as error:
            call.refuse(grpc.StatusCode.UNAVAILABLE, str(error))

    def forget(self, call: _Call) -> None:
        """A call is over, all its events have come; for calls."""
        with self._lock:
            self._calls.discard(call)

    def _ask_for_call(self, path: str | None) -> None:
        """Let gRPC give the next call of a method, or of any that is not served.

        The lock is held: gRPC must not be asked any more when it stops.
        """
        if path is None:
            self._server.request_call(self._queue, self._queue, self._take_unknown)
        else:
            self._server.request_registered_call(self._queue, self._queue, path, path)
        self._owed += 1

    def _serve(self) -> None:
        while not self._destroyed:
            event = self._queue.poll()
            try:
                if isinstance(event.tag, str):
                    self._take_call(event)
                else:
                    event.tag(event)
            except BaseException:  # one call must not end the others
                LOG.exception("gRPC's serving thread failed at one event and goes on")
            if self._stopping:
                self._end_if_over()
            # An event may hold the last reference to a call, which then goes before the next.
            event = None

    def _take_call(self, event: Any) -> None:
        path = event.tag
        call = _Call(self, event.call, self._methods[path]) if event.success else None
        with self._lock:
            self._owed -= 1
            if call is not None:
                self._calls.add(call)
            if not self._stopping:
                self._ask_for_call(path)
        if call is not None:
            call.begin()

    def _take_unknown(self, event: Any) -> None:
        with self._lock:
            if not event.success:
                self._owed -= 1  # else it is owed the end of the refusal now
            if not self._stopping:
                self._ask_for_call(None)
        if event.success:
            operations = (
                cygrpc.SendInitialMetadataOperation((), _NO_FLAGS),
                cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),
                _status(grpc.StatusCode.UNIMPLEMENTED, "There is no such method here"),
            )
            event.call.start_server_batch(operations, self._take_end)

    def _take_end(self, event: Any) -> None:
        """What was owed has come, and nothing is to be done about it."""
        with self._lock:
            self._owed -= 1

    def _end_if_over(self) -> None:
        with self._lock:
            if self._owed or self._calls:
                return
            self._server.destroy()
            self._destroyed = True
        self._ended.set()


class _Aborted(Exception):
    """Ends a handler that has said how its call ends."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self.code = code
        self.details = details


class _Call:
    """One call; its handler gets it as the context, of which it has what is used here.

    ``_lock`` protects everything below it, and gRPC's sending, which must not begin once the
    call is over.
    """

    def __init__(self, server: UnaryServer, call: Any, method: _Method) -> None:
        self._server = server
        self._call = call
        self._method = method
        self._request: bytes | None = None
        self._trailing: Metadata = ()
        # How the call ends if its handler raises.
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._lock = threading.Lock()
        # Events that gRPC owes: the end of the call, the request, that the answer was sent.
        self._owed = 1
        self._cancelled = False
        self._answered = False
        self._callbacks: list[Callable[[], None]] | None = []

    # -- for the handler: as grpc.ServicerContext has it ------------------------

    def is_active(self) -> bool:
        """Whether somebody waits for the answer."""
        return not self._cancelled and not self._answered

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call something when the call is over, however it ends; False when it is already."""
        with self._lock:
            if self._callbacks is None:
                return False
            self._callbacks.append(callback)
            return True

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Send this with the status."""
        self._trailing = metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        """End the call so if the handler raises, as generated methods without body do."""
        self._code = code

    def set_details(self, details: str) -> None:
        """Say this if the handler raises."""
        self._details = details

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """End the call with an error.

        :raises ValueError: OK is none.
        """
        if code is grpc.StatusCode.OK:
            raise ValueError("A call is not aborted with OK")
        raise _Aborted(code, details)

    # -- for the server ----------------------------------------------------------

    def begin(self) -> None:
        """Ask for the end and for the request of the call; on the serving thread."""
        self._call.start_server_batch(
            (cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), self._take_end
        )
        if self._method.at_once:
            self.run()
            return
        with self._lock:
            self._owed += 1
        self._call.start_server_batch(
            (cygrpc.ReceiveMessageOperation(_NO_FLAGS),), self._take_request
        )

    def run(self) -> None:
        """Answer the call, unless its caller has gone: nothing is begun for him."""
        if self.is_active():
            # What a driver sets for its thread is nothing to the thread's next call.
            contextvars.Context().run(self._run)

    def _run(self) -> None:
        method = self._method
        raw, self._request = self._request, None
        try:
            request = None if raw is None else method.read(raw)
            del raw  # as large as the request, and with the same secrets
            answer = method.write(method.answer(request, self))
            self._answer(
                cygrpc.SendInitialMetadataOperation((), _NO_FLAGS),
                cygrpc.SendMessageOperation(answer, _NO_FLAGS),
                _status(grpc.StatusCode.OK, "", self._trailing),
            )
        except _Aborted as aborted:
            self.refuse(aborted.code, aborted.details)
        except BaseException as error:  # whatever it is, the caller must not wait for ever
            if self._code is not None:
                self.refuse(self._code, self._details)
                return
            LOG.exception("A call failed outside of its handler")
            self.refuse(grpc.StatusCode.INTERNAL, f"{type(error).__name__}; see the plugin's log")

    def refuse(self, code: grpc.StatusCode, details: str) -> None:
        """Answer the call with an error."""
        begin = cygrpc.SendInitialMetadataOperation((), _NO_FLAGS)
        try:
            self._answer(begin, _status(code, details, self._trailing))
        except Exception:  # what the handler said is no text
            LOG.exception("A call ended with what cannot be sent")
            self._answer(begin, _status(grpc.StatusCode.INTERNAL, "See the plugin's log"))

    def _answer(self, *operations: Any) -> None:
        with self._lock:
            if not self._cancelled:
                self._call.start_server_batch(operations, self._take_sent)
                self._answered = True
                self._owed += 1

    # -- events; on the serving thread ------------------------------------------

    def _take_request(self, event: Any) -> None:
        self._request = event.batch_operations[0].message()
        self._came()
        if self._request is not None:
            self._server.run(self)
        elif self.is_active():
            self.refuse(grpc.StatusCode.UNIMPLEMENTED, "The call has no request")

    def _take_sent(self, event: Any) -> None:
        self._came()

    def _take_end(self, event: Any) -> None:
        self._came(cancelled=event.batch_operations[0].cancelled())

    def _came(self, *, cancelled: bool = False) -> None:
        """An event has come; it may have been the last."""
        callbacks: list[Callable[[], None]] = []
        with self._lock:
            self._owed -= 1
            self._cancelled = self._cancelled or cancelled
            over = not self._owed and (self._cancelled or self._answered)
            if over:
                callbacks, self._callbacks = self._callbacks or [], None
        if over:
            self._server.forget(self)
        for callback in callbacks:
            try:
                callback()
            except BaseException:  # it is nothing to the other calls
                LOG.exception("What was to be done at the end of a call failed")


def _status(code: grpc.StatusCode, details: str, trailing: Metadata = ()) -> Any:
    number, _ = code.value
    text = details.encode("utf-8", "replace")
    return cygrpc.SendStatusFromServerOperation(trailing, number, text, _NO_FLAGS)
