"""The server of unary calls: every way in which a call can come and end.

Real calls over a real socket; what is served takes and answers bytes, so that nothing of
CSI is between.
"""

from __future__ import annotations

import decimal
import logging
import random
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from csi_driver.rpc.threads import Threads
from csi_driver.rpc.unary import UnaryServer, at_once

Code = grpc.StatusCode
Answer = Callable[[bytes, Any], bytes]

WAIT = 30.0
"""Seconds after which a hang is a failure; never waited for when all is well."""

OPTIONS = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


def read(message: bytes) -> bytes:
    if message == b"unreadable":
        raise ValueError("hunter2")
    return message


def write(message: Any) -> bytes:
    if not isinstance(message, bytes):
        raise TypeError("hunter2")
    return message


class Serving:
    """A server whose method Do is ``answer``, and a client of it."""

    def __init__(self, path: Path, answer: Answer, threads: Threads | None = None) -> None:
        self.threads = threads or Threads(64, "rpc")
        self.server = UnaryServer(self.threads, OPTIONS[:1])
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(function, read, write)
            for name, function in {"Do": answer, "Now": at_once(now)}.items()
        }
        self.server.add_registered_method_handlers("test.Service", handlers)
        self.server.add_insecure_port(f"unix:{path}")
        self.server.start()
        self.channel = grpc.insecure_channel(f"unix:{path}", options=OPTIONS)
        self.do = self.channel.unary_unary("/test.Service/Do")

    def status(self, request: bytes = b"", **options: Any) -> tuple[Code, str]:
        try:
            self.do(request, **{"timeout": WAIT, **options})
        except grpc.RpcError as error:
            return error.code(), error.details() or ""
        return Code.OK, ""

    def without_request(self, method: str) -> tuple[Code, bytes]:
        """A call that ends before it has sent anything."""
        call = self.channel.stream_unary(f"/test.Service/{method}")
        try:
            return Code.OK, call(iter(()), timeout=WAIT)
        except grpc.RpcError as error:
            return error.code(), b""

    def at_rest(self) -> bool:
        """Whether nothing is left of calls, but that gRPC is asked for the next of each."""
        with self.server._lock:
            return not self.server._calls and self.server._owed == 3


def now(request: None, context: Any) -> bytes:
    assert request is None
    return threading.current_thread().name.encode()


def echo(request: bytes, context: Any) -> bytes:
    return request


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    made: list[Serving] = []

    def make(answer: Answer, threads: Threads | None = None) -> Serving:
        made.append(Serving(tmp_path / "test.sock", answer, threads))
        return made[-1]

    yield make
    for serving in made:
        serving.channel.close()
        assert serving.server.stop(WAIT)
        serving.threads.shutdown()


class Held:
    """An answer that says when it is asked for, and comes when it is let."""

    def __init__(self) -> None:
        self.context: Any = None
        self.began = threading.Event()
        self.go_on = threading.Event()
        self.over = threading.Event()

    def __call__(self, request: bytes, context: Any) -> bytes:
        self.context = context
        context.add_callback(self.over.set)
        self.began.set()
        assert self.go_on.wait(WAIT)
        return b"late"


# -- calls that are answered -----------------------------------------------------


@pytest.mark.parametrize("request_bytes", [b"", b"x", b"x" * (3 << 20)], ids=["none", "one", "3M"])
def test_a_call_is_answered_on_a_thread_of_the_calls(serve, request_bytes):
    names: list[str] = []

    def answer(request: bytes, context: Any) -> bytes:
        names.append(threading.current_thread().name)
        return request + b"!"

    assert serve(answer).do(request_bytes, timeout=WAIT) == request_bytes + b"!"
    assert names == ["rpc_0"]


def test_an_answer_may_be_larger_than_grpc_has_it_by_default(serve):
    assert len(serve(lambda request, context: b"x" * (6 << 20)).do(b"", timeout=WAIT)) == 6 << 20


def test_a_request_that_is_too_large_is_refused_and_the_next_served(serve):
    serving = serve(echo)
    assert serving.status(b"x" * (5 << 20))[0] is Code.RESOURCE_EXHAUSTED
    assert serving.status(b"x")[0] is Code.OK


def test_a_compressed_request_is_read(serve):
    request = b"x" * 100_000
    assert serve(echo).do(request, compression=grpc.Compression.Gzip, timeout=WAIT) == request


def test_what_is_answered_at_once_is_by_the_serving_thread_and_needs_no_request(serve):
    assert serve(echo).without_request("Now") == (Code.OK, b"rpc-serving")


def test_many_calls_at_once_get_each_its_own_answer(serve):
    serving = serve(echo)
    with ThreadPoolExecutor(32) as pool:
        requests = [str(number).encode() for number in range(1000)]
        answers = pool.map(lambda request: serving.do(request, timeout=WAIT), requests)
        assert list(answers) == requests


def test_nothing_is_kept_of_a_call_nor_of_what_it_set_for_its_thread(serve):
    calls: list[weakref.ref[Any]] = []

    def answer(request: bytes, context: Any) -> bytes:
        calls.append(weakref.ref(context))
        before = decimal.getcontext().prec
        decimal.getcontext().prec = 3
        return str(before).encode()

    serving = serve(answer)
    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(lambda _: serving.do(b"", timeout=WAIT), range(64)))
    assert answers == {str(decimal.DefaultContext.prec).encode()}
    serving.channel.close()
    assert serving.server.stop(WAIT)
    while len(serving.threads._idle) < len(serving.threads._threads):
        assert all(thread.is_alive() for thread in serving.threads._threads)
    assert len(calls) == 64
    assert [call() for call in calls if call() is not None] == []


# -- calls that end with an error ------------------------------------------------


@pytest.mark.parametrize("path", ["/test.Service/Other", "/other.Service/Do", "/", "/test.Service"])
def test_a_method_that_is_not_served_is_unimplemented(serve, path):
    serving = serve(echo)
    for _ in range(2):
        with pytest.raises(grpc.RpcError) as error:
            serving.channel.unary_unary(path)(b"", timeout=WAIT)
        assert error.value.code() is Code.UNIMPLEMENTED
    assert serving.status()[0] is Code.OK


def test_a_handler_that_aborts_says_how_the_call_ends_and_what_comes_with_it(serve):
    def answer(request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("told", "besides"),))
        context.abort(Code.NOT_FOUND, "no café\n100 %")
        raise AssertionError

    with pytest.raises(grpc.RpcError) as error:
        serve(answer).do(b"", timeout=WAIT)
    assert error.value.code() is Code.NOT_FOUND
    assert error.value.details() == "no café\n100 %"
    assert dict(error.value.trailing_metadata())["told"] == "besides"


@pytest.mark.parametrize(
    ("code", "details", "trailing"),
    [
        (Code.OK, "", ()),
        (Code.NOT_FOUND, None, ()),
        (Code.NOT_FOUND, b"bytes", ()),
        (5, "a number", ()),
        (Code.NOT_FOUND, "details", (("Upper", "case"),)),
    ],
)
def test_an_error_that_cannot_be_sent_ends_the_call_too(serve, code, details, trailing):
    def answer(request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata(trailing)
        context.abort(code, details)
        raise AssertionError

    serving = serve(answer)
    assert serving.status()[0] is Code.INTERNAL
    assert serving.status()[0] is Code.INTERNAL


@pytest.mark.parametrize("error", [RuntimeError("hunter2"), SystemExit("hunter2")])
def test_a_handler_that_raises_ends_its_call_and_shows_nothing_inside(serve, caplog, error):
    def answer(request: bytes, context: Any) -> bytes:
        if request:
            raise error
        return b""

    serving = serve(answer)
    code, details = serving.status(b"fail")
    assert (code, details) == (Code.INTERNAL, f"{type(error).__name__}; see the plugin's log")
    assert "Traceback" in caplog.text
    assert serving.status()[0] is Code.OK


def test_a_handler_may_say_before_it_raises_how_the_call_ends(serve, caplog):
    def answer(request: bytes, context: Any) -> bytes:
        context.set_code(Code.UNIMPLEMENTED)
        context.set_details("not here")
        raise NotImplementedError

    assert serve(answer).status() == (Code.UNIMPLEMENTED, "not here")
    assert not caplog.records


@pytest.mark.parametrize(
    ("request_bytes", "answer"),
    [(b"unreadable", echo), (b"", lambda request, context: "no bytes")],
    ids=["request", "answer"],
)
def test_a_message_that_cannot_be_read_or_written_is_internal(serve, request_bytes, answer):
    serving = serve(answer)
    code, details = serving.status(request_bytes)
    assert code is Code.INTERNAL
    assert "hunter2" not in details
    assert serving.status(b"unreadable")[0] is Code.INTERNAL


def test_a_call_without_a_request_is_refused(serve):
    asked: list[bytes] = []
    serving = serve(lambda request, context: asked.append(request) or b"")
    assert serving.without_request("Do") == (Code.UNIMPLEMENTED, b"")
    assert not asked
    assert serving.status()[0] is Code.OK


def test_a_call_for_which_there_is_no_thread_is_unavailable(serve):
    threads = Threads(1, "rpc")
    serving = serve(echo, threads)
    threads.shutdown()
    code, details = serving.status()
    assert code is Code.UNAVAILABLE
    assert "shut down" in details


# -- callers that go --------------------------------------------------------------


@pytest.mark.parametrize("how", ["cancelled", "deadline", "gone"])
def test_a_caller_that_goes_ends_the_call_at_once_and_the_work_runs_on(serve, how):
    held = Held()
    serving = serve(held)
    call = serving.do.future(b"", timeout=1.0 if how == "deadline" else None)
    assert held.began.wait(WAIT)
    assert how == "deadline" or held.context.is_active()
    if how == "cancelled":
        call.cancel()
    elif how == "gone":
        serving.channel.close()
    assert held.over.wait(WAIT)
    assert not held.context.is_active()
    assert not held.context.add_callback(lambda: None)
    assert serving.at_rest()
    held.go_on.set()


def test_a_caller_that_goes_before_it_sent_its_request_is_forgotten(serve):
    serving = serve(echo)
    came, unsent = threading.Event(), threading.Event()
    begin = serving.server._take_call

    def tell(event: Any) -> None:
        begin(event)
        came.set()

    serving.server._take_call = tell

    def request() -> Iterator[bytes]:
        unsent.wait()
        yield from ()

    call = serving.channel.stream_unary("/test.Service/Do").future(request())
    assert came.wait(WAIT)
    assert not serving.at_rest()
    call.cancel()
    unsent.set()
    assert serving.server.stop(WAIT)  # which waits for what is left of calls


def test_nothing_is_begun_for_a_caller_that_went_while_it_waited_for_a_thread(serve):
    held = Held()
    begun: list[bytes] = []

    def answer(request: bytes, context: Any) -> bytes:
        begun.append(request)
        return held(request, context) if request == b"first" else b""

    serving = serve(answer, Threads(1, "rpc"))
    first = serving.do.future(b"first", timeout=WAIT)
    assert held.began.wait(WAIT)
    gone = serving.do.future(b"gone")
    while not serving.threads._waiting:
        assert not gone.done()
    gone.cancel()
    while len(serving.server._calls) > 1:
        assert gone.cancelled()
    held.go_on.set()
    assert first.result() == b"late"
    assert serving.status(b"next")[0] is Code.OK
    assert begun == [b"first", b"next"]


def test_what_is_to_be_done_at_the_end_of_a_call_is_done_after_an_answer_too(serve, caplog):
    over: list[threading.Event] = []

    def answer(request: bytes, context: Any) -> bytes:
        over.append(threading.Event())
        assert context.add_callback(lambda: 1 // 0)
        assert context.add_callback(sys.exit)
        assert context.add_callback(over[-1].set)
        return b""

    serving = serve(answer)
    for _ in range(2):
        assert serving.status()[0] is Code.OK
        assert over[-1].wait(WAIT)
    assert "ZeroDivisionError" in caplog.text


# -- the end ----------------------------------------------------------------------


def test_stopping_lets_calls_end_and_takes_no_more(serve):
    held = Held()
    serving = serve(held)
    call = serving.do.future(b"", timeout=WAIT)
    assert held.began.wait(WAIT)
    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(serving.server.stop, WAIT)
        while (ended := serving.without_request("Now")[0]) is Code.OK:
            assert not stopped.done()
        assert ended in {Code.UNAVAILABLE, Code.CANCELLED}  # gRPC's core chooses
        held.go_on.set()
        assert call.result() == b"late"
        assert stopped.result(WAIT)


def test_stopping_cancels_what_takes_longer(serve):
    held = Held()
    serving = serve(held)
    call = serving.do.future(b"", timeout=WAIT)
    assert held.began.wait(WAIT)
    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(serving.server.stop, 0.01)
        assert call.exception(WAIT).code() in {Code.CANCELLED, Code.UNAVAILABLE}
        assert held.over.wait(WAIT)
        stopped.result(WAIT)
    assert serving.server.stop(WAIT)
    held.go_on.set()  # its answer goes nowhere


def test_a_server_that_was_not_started_is_stopped_and_does_not_start_then():
    server = UnaryServer(Threads(1, "rpc"))
    assert server.stop(WAIT)
    with pytest.raises(RuntimeError, match="stopped"):
        server.start()


def test_a_service_that_comes_after_the_start_is_refused(serve):
    with pytest.raises(RuntimeError, match="comes too late"):
        serve(echo).server.add_registered_method_handlers("late.Service", {})


def test_a_method_that_streams_is_not_taken():
    stream = grpc.unary_stream_rpc_method_handler(echo)
    with pytest.raises(ValueError, match="Watch is a stream"):
        UnaryServer(Threads(1, "rpc")).add_registered_method_handlers(
            "test.Service", {"Watch": stream}
        )


def test_an_address_that_cannot_be_is_refused(tmp_path: Path):
    server = UnaryServer(Threads(1, "rpc"))
    with pytest.raises(RuntimeError, match="nowhere"):
        server.add_insecure_port(f"unix:{tmp_path}/nowhere/test.sock")


@pytest.mark.parametrize("seed", range(5))
def test_however_calls_end_at_random_nothing_is_left_of_them(serve, seed, caplog):
    caplog.set_level(logging.CRITICAL)
    chance = random.Random(seed)
    ways = ("answer", "abort", "raise", "cancel", "deadline", "unreadable", "unknown", "none")
    calls = [(chance.choice(ways), chance.random() / 200) for _ in range(400)]

    def answer(request: bytes, context: Any) -> bytes:
        context.add_callback(lambda: None)
        if request == b"abort":
            context.abort(Code.ABORTED, "so")
        if request == b"raise":
            raise RuntimeError
        return request

    serving = serve(answer)

    def call(way: str, seconds: float) -> tuple[str, Code]:
        if way == "none":
            return way, serving.without_request("Do")[0]
        method = "Other" if way == "unknown" else "Do"
        timeout = seconds if way == "deadline" else WAIT
        made = serving.channel.unary_unary(f"/test.Service/{method}").future(
            way.encode(), timeout=timeout
        )
        if way == "cancel":
            made.cancel()
        return way, made.code()

    with ThreadPoolExecutor(16) as pool:
        ended = list(pool.map(lambda one: call(*one), calls))
    expected = {
        "answer": {Code.OK},
        "abort": {Code.ABORTED},
        "raise": {Code.INTERNAL},
        "cancel": {Code.OK, Code.CANCELLED},
        "deadline": {Code.OK, Code.DEADLINE_EXCEEDED},
        "unreadable": {Code.INTERNAL},
        "unknown": {Code.UNIMPLEMENTED},
        "none": {Code.UNIMPLEMENTED},
    }
    assert [one for one in ended if one[1] not in expected[one[0]]] == []
    assert serving.status(b"answer")[0] is Code.OK
    serving.channel.close()
    assert serving.server.stop(WAIT)
    assert not serving.server._calls
    assert not serving.server._owed
