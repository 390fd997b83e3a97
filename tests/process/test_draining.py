"""SIGTERM: new work is refused, running work finishes or is recorded, the socket goes last."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc.errors import NON_FINAL
from tests.support.calls import WAIT, Calls
from tests.support.driver_process import DriverProcess
from tests.support.waiting import wait_until


class Pause:
    """A fault point at which the process stops until the test lets it go on."""

    def __init__(self, directory: Path, point: str) -> None:
        directory.mkdir()
        self._paused = directory / "paused"
        self.environment = {
            "CINDER_CSI_TEST_FAULT": f"{point}=pause",
            "CINDER_CSI_TEST_FAULT_DIR": str(directory),
        }

    def wait_until_reached(self) -> None:
        wait_until("the fault point", self._paused.exists)

    def resume(self) -> None:
        self._paused.unlink()


@pytest.fixture
def pause(tmp_path: Path) -> Pause:
    return Pause(tmp_path / "fault", "create/available/write")


@pytest.fixture
def busy(driver, pause: Pause) -> Iterator[tuple[DriverProcess, Calls, grpc.Future]]:
    """A process in which the creation of ``data`` is under way."""
    process = driver(environment=pause.environment, arguments=("--drain-seconds", "60"))
    with process, Calls(process) as calls:
        call = calls.controller.CreateVolume.future(calls.create_request("data"), timeout=WAIT)
        pause.wait_until_reached()
        yield process, calls, call


def wait_until_draining(calls: Calls) -> None:
    """Until Probe says so: the process handles the signal in its own time."""
    while calls.identity.Probe(pb.ProbeRequest(), timeout=WAIT).ready.value:
        pass


def test_running_work_finishes_and_new_work_is_refused(busy, pause):
    process, calls, call = busy
    os.kill(process.pid, signal.SIGTERM)
    wait_until_draining(calls)
    with pytest.raises(grpc.RpcError) as refused:
        calls.create("other")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "draining" in refused.value.details()
    assert calls.identity.GetPluginInfo(pb.GetPluginInfoRequest(), timeout=WAIT).name
    assert not call.done()
    assert process.socket.exists()
    pause.resume()
    made = call.result().volume
    assert process.stop() == 0
    assert not process.socket.exists()
    process.start()
    with Calls(process) as again:
        assert again.create("data") == made


def test_work_that_does_not_finish_in_time_is_left_to_the_next_process(driver, pause):
    process = driver(environment=pause.environment, arguments=("--drain-seconds", "0"))
    process.start()
    with Calls(process) as calls:
        call = calls.controller.CreateVolume.future(calls.create_request("data"))
        pause.wait_until_reached()
        assert process.stop() == 0
        assert call.exception().code() in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.CANCELLED,
        )
    pause.resume()
    assert "Left to the next process, as recorded" in process.logs()
    calm = driver("one")
    with calm, Calls(calm) as calls:
        volume = create_until_final(calls, "data")
        assert list(calls.published()) == [volume.volume_id]
    volumes = calm.state_directory / "volumes"
    assert len(list(volumes.glob("volume-*"))) == 1


def create_until_final(calls: Calls, name: str):
    """As a provisioner does: the process may be busy to remove what the earlier one left."""
    while True:
        try:
            return calls.create(name)
        except grpc.RpcError as error:
            if error.code() not in NON_FINAL:
                raise


def test_an_idle_process_ends_at_once_with_either_signal(driver):
    for number in (signal.SIGTERM, signal.SIGINT):
        process = driver()
        process.start()
        os.kill(process.pid, number)
        assert process.stop() == 0
        assert not process.socket.exists()
