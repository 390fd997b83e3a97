"""What every RPC goes through: the gate, the error table, the log."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from csi_driver.base.errors import CinderCSIError, InvalidRequest
from csi_driver.base.turns import outcome as outcome_of
from csi_driver.kube.errors import NotLeading
from csi_driver.rpc import handlers
from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc._generated import csi_pb2_grpc
from csi_driver.rpc.handlers import CAVEAT, Gate, Readiness, rpc
from csi_driver.rpc.threads import Threads
from csi_driver.rpc.unary import UnaryServer

Code = grpc.StatusCode

WAIT = 30.0
"""Seconds after which a hang is a failure; never waited for when all is well."""

Work = Callable[[], Any]


class Servicer(csi_pb2_grpc.ControllerServicer):
    """Real handlers whose work is what the test gives."""

    def __init__(self, work: Work) -> None:
        self.gate = Gate()
        self.gate.state = Readiness.READY
        self._work = work

    @rpc(effect=True)
    def DeleteVolume(self, request: Any) -> Any:
        self._work()
        return pb.DeleteVolumeResponse()

    @rpc(effect=False)
    def ListVolumes(self, request: Any) -> Any:
        self._work()
        return pb.ListVolumesResponse()

    @rpc(effect=False, always=True)
    def ControllerGetCapabilities(self, request: Any) -> Any:
        return pb.ControllerGetCapabilitiesResponse()


class Held:
    """Work that says when it began and goes on when it is let."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.go_on = threading.Event()

    def __call__(self) -> None:
        self.began.set()
        assert self.go_on.wait(WAIT)


@contextlib.contextmanager
def serving(servicer: Servicer, path: Path) -> Iterator[csi_pb2_grpc.ControllerStub]:
    threads = Threads(32, "rpc")
    server = UnaryServer(threads)
    csi_pb2_grpc.add_ControllerServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{path}")
    server.start()
    try:
        with grpc.insecure_channel(f"unix:{path}") as channel:
            yield csi_pb2_grpc.ControllerStub(channel)
    finally:
        assert server.stop(WAIT)
        threads.shutdown()


def raising(error: BaseException) -> Work:
    def work() -> None:
        raise error

    return work


def nothing() -> None:
    """Work that succeeds."""


def status(call: Callable[[], Any]) -> tuple[Code, str]:
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return Code.OK, ""


def deleted(stub: csi_pb2_grpc.ControllerStub) -> tuple[Code, str]:
    return status(lambda: stub.DeleteVolume(pb.DeleteVolumeRequest(volume_id="v")))


def listed(stub: csi_pb2_grpc.ControllerStub) -> tuple[Code, str]:
    return status(lambda: stub.ListVolumes(pb.ListVolumesRequest()))


def outcome(path: Path, work: Work, *, effect: bool) -> tuple[Code, str]:
    with serving(Servicer(work), path / "csi.sock") as stub:
        return deleted(stub) if effect else listed(stub)


def test_an_error_reaches_the_caller_with_its_code_and_message(tmp_path):
    error = InvalidRequest("pool is unknown", advice="Pools: a, b")
    expected = (Code.INVALID_ARGUMENT, "pool is unknown. Pools: a, b")
    assert outcome(tmp_path, raising(error), effect=True) == expected


@pytest.mark.parametrize(
    "error", [RuntimeError("hunter2"), KeyError("hunter2"), NotImplementedError("hunter2")]
)
def test_an_unforeseen_error_is_never_unknown_and_shows_nothing_inside(tmp_path, error):
    code, text = outcome(tmp_path, raising(error), effect=True)
    assert code is Code.ABORTED
    assert text.startswith(f"Unexpected {type(error).__name__}; the plugin's log")
    assert outcome(tmp_path, raising(error), effect=False)[0] is Code.INTERNAL


def test_the_longest_message_keeps_its_code(tmp_path):
    error = InvalidRequest("漢\n" * 5000, advice="Use another name")
    code, text = outcome(tmp_path, raising(error), effect=True)
    assert code is Code.INVALID_ARGUMENT
    assert text.endswith("Use another name")


@pytest.mark.parametrize("state", [Readiness.STARTING, Readiness.DRAINING])
def test_a_closed_gate_answers_unavailable_but_for_capabilities(tmp_path, state):
    servicer = Servicer(nothing)
    servicer.gate.state = state
    with serving(servicer, tmp_path / "csi.sock") as stub:
        assert deleted(stub)[0] is Code.UNAVAILABLE
        assert listed(stub)[0] is Code.UNAVAILABLE
        stub.ControllerGetCapabilities(pb.ControllerGetCapabilitiesRequest())


def test_beyond_the_calls_that_have_threads_others_are_told_to_retry(tmp_path, monkeypatch):
    monkeypatch.setattr(handlers, "MOST_CALLS", 1)
    work = Held()
    with serving(Servicer(work), tmp_path / "csi.sock") as stub:
        first = stub.DeleteVolume.future(pb.DeleteVolumeRequest())
        assert work.began.wait(WAIT)
        code, text = listed(stub)
        assert code is Code.UNAVAILABLE
        assert "ListVolumes was not started" in text
        stub.ControllerGetCapabilities(pb.ControllerGetCapabilitiesRequest())
        work.go_on.set()
        first.result(WAIT)
        assert listed(stub)[0] is Code.OK


def test_what_is_not_offered_is_unimplemented(tmp_path):
    with serving(Servicer(nothing), tmp_path / "csi.sock") as stub:
        request = pb.ControllerModifyVolumeRequest()
        assert status(lambda: stub.ControllerModifyVolume(request))[0] is Code.UNIMPLEMENTED


def test_draining_waits_for_the_call_that_runs(tmp_path):
    work = Held()
    servicer = Servicer(work)
    with serving(servicer, tmp_path / "csi.sock") as stub, ThreadPoolExecutor() as pool:
        call = stub.DeleteVolume.future(pb.DeleteVolumeRequest())
        assert work.began.wait(WAIT)
        assert not servicer.gate.drain(0)
        draining = pool.submit(servicer.gate.drain, WAIT)
        assert listed(stub)[0] is Code.UNAVAILABLE
        assert not draining.done()
        work.go_on.set()
        call.result(WAIT)
        assert draining.result(WAIT)


def test_a_caller_that_gives_up_is_counted_out_while_the_work_goes_on(tmp_path, caplog):
    caplog.set_level(logging.INFO, "csi_driver.rpc")
    began = threading.Event()
    work: Future[None] = Future()

    def wait_for_work() -> None:
        began.set()
        outcome_of(work)

    servicer = Servicer(wait_for_work)
    with serving(servicer, tmp_path / "csi.sock") as stub:
        call = stub.DeleteVolume.future(pb.DeleteVolumeRequest())
        assert began.wait(WAIT)
        call.cancel()
        assert servicer.gate.drain(WAIT)
    assert not work.cancelled()
    assert "caller gave up; work goes on" in caplog.text


def test_the_log_tells_how_work_ended_that_nobody_waited_for(caplog):
    caplog.set_level(logging.INFO, "csi_driver.rpc")

    class Gone:
        """The context of a call whose caller gave up."""

        def add_callback(self, callback: Callable[[], None]) -> bool:
            return False

        def is_active(self) -> bool:
            return False

    Servicer(nothing).DeleteVolume(pb.DeleteVolumeRequest(volume_id="v"), Gone())
    assert "OK, after the caller gave up" in caplog.text


# -- the log --------------------------------------------------------------------


def logged(tmp_path: Path, caplog: pytest.LogCaptureFixture, work) -> str:
    caplog.set_level(logging.INFO, "csi_driver.rpc")

    class Secretive(Servicer):
        @rpc(effect=True)
        def ControllerPublishVolume(self, request: Any) -> Any:
            work()
            return pb.ControllerPublishVolumeResponse(publish_context={"sealed": "hunter2"})

    request = pb.ControllerPublishVolumeRequest(
        volume_id="vol-1",
        node_id="node-1",
        secrets={"password": "hunter2"},
        volume_context={"x": "hunter2"},
    )
    with serving(Secretive(nothing), tmp_path / "csi.sock") as stub:
        status(lambda: stub.ControllerPublishVolume(request))
    return caplog.text


def test_a_call_is_one_line_that_names_the_object_the_time_and_the_outcome(tmp_path, caplog):
    text = logged(tmp_path, caplog, nothing)
    (line,) = [line for line in text.splitlines() if "ControllerPublishVolume" in line]
    assert "volume_id='vol-1' node_id='node-1'" in line
    assert line.endswith("ms OK")


def test_no_secret_of_a_request_or_answer_is_logged(tmp_path, caplog):
    assert "hunter2" not in logged(tmp_path, caplog, nothing)
    failed = logged(tmp_path, caplog, raising(CinderCSIError("no")))
    assert "hunter2" not in failed
    assert "ABORTED: no" in failed


def test_an_unforeseen_error_is_logged_with_its_traceback_under_the_number_told(tmp_path, caplog):
    text = logged(tmp_path, caplog, raising(RuntimeError("bang")))
    assert "Traceback" in text
    assert "failed unexpectedly" in text


# -- a gate that knows more than whether the process is ready --------------------


def test_a_gate_may_let_in_only_what_changes_nothing_with_a_caveat(tmp_path, caplog):
    caplog.set_level(logging.INFO, "csi_driver.rpc")

    def admit(method: str, effect: bool) -> str:
        if effect:
            raise NotLeading(f"{method} is not begun now: café", advice="Wait")
        return "from the cache, because of a\ncafé"

    servicer = Servicer(nothing)
    servicer.gate = Gate(admit)
    servicer.gate.state = Readiness.READY
    with serving(servicer, tmp_path / "csi.sock") as stub:
        assert deleted(stub) == (
            Code.UNAVAILABLE,
            "DeleteVolume is not begun now: café. Wait",
        )
        call = stub.ListVolumes.future(pb.ListVolumesRequest())
        call.result(WAIT)
        assert dict(call.trailing_metadata())[CAVEAT] == "from the cache, because of a?caf?"
        _, plain = stub.ControllerGetCapabilities.with_call(pb.ControllerGetCapabilitiesRequest())
        assert CAVEAT not in dict(plain.trailing_metadata())
    assert "OK, from the cache, because of a" in caplog.text
