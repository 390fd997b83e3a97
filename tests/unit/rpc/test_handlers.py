"""What every RPC goes through: the gate, the error table, the log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from csi_driver.base.errors import CinderCSIError, InvalidRequest
from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc._generated import csi_pb2_grpc
from csi_driver.rpc.handlers import Gate, Readiness, rpc

Code = grpc.StatusCode


class Servicer(csi_pb2_grpc.ControllerServicer):
    """Real handlers whose work is what the test gives."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self.gate = Gate()
        self.gate.state = Readiness.READY
        self._work = work

    @rpc(effect=True)
    async def DeleteVolume(self, request: Any) -> Any:
        await self._work()
        return pb.DeleteVolumeResponse()

    @rpc(effect=False)
    async def ListVolumes(self, request: Any) -> Any:
        await self._work()
        return pb.ListVolumesResponse()

    @rpc(effect=False, always=True)
    async def ControllerGetCapabilities(self, request: Any) -> Any:
        return pb.ControllerGetCapabilitiesResponse()


@contextlib.asynccontextmanager
async def serving(servicer: Servicer, path: Path) -> AsyncIterator[csi_pb2_grpc.ControllerStub]:
    server = grpc.aio.server()
    csi_pb2_grpc.add_ControllerServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            yield csi_pb2_grpc.ControllerStub(channel)
    finally:
        await server.stop(None)


def raising(error: BaseException) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        raise error

    return work


async def nothing() -> None:
    """Work that succeeds."""


async def status(call: Awaitable[Any]) -> tuple[Code, str]:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return Code.OK, ""


def outcome(path: Path, work: Callable[[], Awaitable[None]], *, effect: bool) -> tuple[Code, str]:
    async def scenario() -> tuple[Code, str]:
        async with serving(Servicer(work), path / "csi.sock") as stub:
            if effect:
                return await status(stub.DeleteVolume(pb.DeleteVolumeRequest(volume_id="v")))
            return await status(stub.ListVolumes(pb.ListVolumesRequest()))

    return asyncio.run(scenario())


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
    async def scenario() -> list[Code]:
        servicer = Servicer(nothing)
        servicer.gate.state = state
        async with serving(servicer, tmp_path / "csi.sock") as stub:
            capabilities = pb.ControllerGetCapabilitiesRequest()
            return [
                (await status(stub.DeleteVolume(pb.DeleteVolumeRequest())))[0],
                (await status(stub.ListVolumes(pb.ListVolumesRequest())))[0],
                (await status(stub.ControllerGetCapabilities(capabilities)))[0],
            ]

    assert asyncio.run(scenario()) == [Code.UNAVAILABLE, Code.UNAVAILABLE, Code.OK]


def test_what_is_not_offered_is_unimplemented(tmp_path):
    async def scenario() -> tuple[Code, str]:
        async with serving(Servicer(nothing), tmp_path / "csi.sock") as stub:
            return await status(stub.ControllerModifyVolume(pb.ControllerModifyVolumeRequest()))

    assert asyncio.run(scenario())[0] is Code.UNIMPLEMENTED


def test_draining_waits_for_the_call_that_runs(tmp_path):
    async def scenario() -> None:
        go_on = asyncio.Event()
        started = asyncio.Event()

        async def work() -> None:
            started.set()
            await go_on.wait()

        servicer = Servicer(work)
        async with serving(servicer, tmp_path / "csi.sock") as stub:
            call = asyncio.ensure_future(status(stub.DeleteVolume(pb.DeleteVolumeRequest())))
            await started.wait()
            servicer.gate.state = Readiness.DRAINING
            idle = asyncio.ensure_future(servicer.gate.idle())
            await asyncio.sleep(0)
            assert not idle.done()
            go_on.set()
            assert (await call)[0] is Code.OK
            await idle

    asyncio.run(scenario())


def test_a_caller_that_gives_up_is_counted_out(tmp_path):
    async def scenario() -> None:
        started = asyncio.Event()

        async def work() -> None:
            started.set()
            await asyncio.Event().wait()

        servicer = Servicer(work)
        async with serving(servicer, tmp_path / "csi.sock") as stub:
            call = stub.DeleteVolume(pb.DeleteVolumeRequest())
            await started.wait()
            call.cancel()
            await servicer.gate.idle()

    asyncio.run(scenario())


# -- the log --------------------------------------------------------------------


def logged(tmp_path: Path, caplog: pytest.LogCaptureFixture, work) -> str:
    caplog.set_level(logging.INFO, "csi_driver.rpc")

    class Secretive(Servicer):
        @rpc(effect=True)
        async def ControllerPublishVolume(self, request: Any) -> Any:
            await work()
            return pb.ControllerPublishVolumeResponse(publish_context={"sealed": "hunter2"})

    async def scenario() -> None:
        async with serving(Secretive(nothing), tmp_path / "csi.sock") as stub:
            await status(
                stub.ControllerPublishVolume(
                    pb.ControllerPublishVolumeRequest(
                        volume_id="vol-1",
                        node_id="node-1",
                        secrets={"password": "hunter2"},
                        volume_context={"x": "hunter2"},
                    )
                )
            )

    asyncio.run(scenario())
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
