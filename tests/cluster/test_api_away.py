"""A controller whose API server is away: it answers reads, begins nothing, and loses nothing.

It is a process behind a proxy, with a backend that works on while the server is away.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import msgspec
import pytest

from csi_driver.config import BackendSettings
from csi_driver.controller.backends import WORK_THREADS
from csi_driver.kube.api import Object
from csi_driver.kube.group import collection, of_driver
from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc.handlers import CAVEAT
from tests.cluster import outages
from tests.cluster.accounts import add_node, install
from tests.cluster.apiserver import ApiServer
from tests.cluster.fault_proxy import FaultProxy
from tests.cluster.outages import Outage
from tests.cluster.plugin import make_keys, plugin
from tests.support.calls import WAIT, Calls
from tests.support.driver_process import DriverProcess
from tests.support.messages import mount
from tests.support.sidecar import Code, Sidecar
from tests.support.waiting import wait_until

DRIVER = "away.example.com"
NODE = "n1"
IN_FLIGHT = WORK_THREADS + 6
"""More than a backend's turns: some calls wait for one when the server goes."""

NEW = 8


@dataclass
class Controller:
    """The process, and what a test looks at and holds."""

    server: ApiServer
    proxy: FaultProxy
    process: DriverProcess
    calls: Calls
    files: Path
    go_on: Path

    def volumes(self) -> list[Object]:
        """The records."""
        return self.server.admin.list(collection("cindervolumes"), of_driver(DRIVER))[0]

    def on_backend(self) -> list[str]:
        return sorted(path.name for path in self.files.iterdir())

    def hold(self) -> None:
        """Let the backend's creates wait from now on."""
        self.go_on.unlink(missing_ok=True)

    def let_go(self) -> None:
        """Let them go on."""
        self.go_on.touch()

    def refuses(self) -> bool:
        """Whether a call that would change something, but finds nothing, is refused."""
        try:
            self.calls.delete(str(uuid.uuid4()))
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            return "is not begun now" in error.details() and "could not renew" in error.details()
        return False


@pytest.fixture(scope="module")
def controller(
    apiserver: ApiServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Controller]:
    install(apiserver)
    add_node(apiserver, NODE)
    directory = tmp_path_factory.mktemp("a")
    files, go_on = directory / "files", directory / "go-on"
    files.mkdir()
    go_on.touch()
    options = {"double_directory": str(files), "double_hold": f"create_volume:before:{go_on}"}
    double = BackendSettings(
        name="default", driver="tests.doubles.driver.DoubleDriver", options=options
    )
    backends = directory / "backends.json"
    backends.write_bytes(msgspec.json.encode([double]))
    proxy = FaultProxy(apiserver)
    process = plugin(
        apiserver,
        directory / "c",
        "controller",
        NODE,
        driver=DRIVER,
        keys=make_keys(directory / "keys"),
        proxy=proxy,
        command=(sys.executable, "-m", "tests.support.serve_backend", str(backends)),
    )
    with process, Calls(process) as calls:
        yield Controller(apiserver, proxy, process, calls, files, go_on)
    proxy.close()


@pytest.mark.parametrize("outage", outages.ALL, ids=lambda each: each.__name__)
def test_nothing_is_lost_and_nothing_doubled(controller: Controller, outage: Outage):
    calls = controller.calls
    first = calls.create(f"{outage.__name__}-first").volume_id
    snapshot = calls.snapshot(first, f"{outage.__name__}-cut").snapshot_id
    names = [f"{outage.__name__}-{number}" for number in range(IN_FLIGHT)]
    controller.hold()
    running = [create(calls, name) for name in names]
    wait_until("the backend works on as many as it may", lambda: turns_taken(controller))
    before = len(controller.on_backend())
    with outage(controller.server, controller.proxy):
        wait_until("the leader begins nothing", controller.refuses)
        new = [create(calls, f"{outage.__name__}-new-{number}") for number in range(NEW)]
        assert {refusal(each) for each in new} == {Code.UNAVAILABLE}
        assert_reads(calls, first, snapshot)
        controller.let_go()
        wait_until(
            "the backend has what was begun",
            lambda: len(controller.on_backend()) == before + WORK_THREADS,
        )
        assert_reads(calls, first, snapshot)  # in every turn an operation waits for its record
        assert not any(each.done() for each in running)
        assert calls.probe() is True
    with Sidecar(str(controller.process.socket)) as sidecar:
        names += [f"{outage.__name__}-new-{number}" for number in range(NEW)]
        made = {sidecar.create(name, 1).expect().body.volume.volume_id for name in names}
        for each in running:
            assert refusal(each) or each.result().volume.volume_id in made
        assert set(sidecar.volumes()) == made | {first}
        records = controller.volumes()
        assert {each["spec"]["id"] for each in records} == made | {first}
        assert {each["status"]["phase"] for each in records} == {"available"}
        expected = {f"volume-{each['status']['cinderID']}" for each in records}
        assert {name for name in controller.on_backend() if name.startswith("volume-")} == expected
        assert len(controller.on_backend()) == len(expected) + 1  # the snapshot
    calls.delete_snapshot(snapshot)
    requests = [pb.DeleteVolumeRequest(volume_id=each) for each in made | {first}]
    for each in [calls.controller.DeleteVolume.future(one, timeout=WAIT) for one in requests]:
        each.result()
    assert controller.on_backend() == []
    assert controller.volumes() == []
    assert controller.process.is_running()
    assert "Traceback" not in controller.process.logs()


def create(calls: Calls, name: str, seconds: float = WAIT) -> grpc.Future:
    return calls.controller.CreateVolume.future(calls.create_request(name), timeout=seconds)


def refusal(call: grpc.Future) -> grpc.StatusCode | None:
    """The code of a call that a caller repeats; None when it was answered."""
    error = call.exception()
    if error is None:
        return None
    assert error.code() in (Code.UNAVAILABLE, Code.ABORTED), error
    return error.code()


def turns_taken(controller: Controller) -> bool:
    creating = [each for each in controller.volumes() if each["status"]["phase"] == "creating"]
    return len(creating) >= WORK_THREADS


def assert_reads(calls: Calls, volume_id: str, snapshot_id: str) -> None:
    """Each read answers, and says that it does so from the cache."""
    stub = calls.controller
    volume = pb.ControllerGetVolumeRequest(volume_id=volume_id)
    for call, request in (
        (stub.ListVolumes, pb.ListVolumesRequest()),
        (stub.ControllerGetVolume, volume),
        (stub.ValidateVolumeCapabilities, validation(volume_id)),
        (stub.ListSnapshots, pb.ListSnapshotsRequest()),
        (stub.GetSnapshot, pb.GetSnapshotRequest(snapshot_id=snapshot_id)),
        (stub.GetCapacity, pb.GetCapacityRequest()),
    ):
        _, told = call.with_call(request, timeout=WAIT)
        assert "from the cache" in dict(told.trailing_metadata())[CAVEAT]


def validation(volume_id: str) -> pb.ValidateVolumeCapabilitiesRequest:
    return pb.ValidateVolumeCapabilitiesRequest(volume_id=volume_id, volume_capabilities=[mount()])


def test_the_first_question_of_a_process_may_come_while_the_server_is_away(controller: Controller):
    volume_id = controller.calls.create("asked").volume_id
    controller.process.stop()
    controller.process.start()
    with outages.busy(controller.server, controller.proxy):
        wait_until("the leader begins nothing", controller.refuses)
        answer = controller.calls.controller.ValidateVolumeCapabilities(
            validation(volume_id), timeout=WAIT
        )
        assert answer.confirmed.volume_capabilities == [mount()]
        asked = pb.GetCapacityRequest()
        assert controller.calls.controller.GetCapacity(asked, timeout=WAIT).available_capacity
    with Sidecar(str(controller.process.socket)) as sidecar:
        sidecar.delete(volume_id).expect()
    assert "Traceback" not in controller.process.logs()


def test_a_slow_server_makes_calls_slow_and_nothing_else(controller: Controller):
    """Its answers come before the leader's time for a renewal ends."""
    with outages.slowed(controller.proxy, 0.7):
        volume_id = controller.calls.create("slow").volume_id
        assert controller.calls.create("slow").volume_id == volume_id
        controller.calls.delete(volume_id)
    assert controller.volumes() == []
    assert "Traceback" not in controller.process.logs()


def test_a_process_that_starts_without_a_server_waits_for_it(controller: Controller):
    process = controller.process
    process.stop()
    with outages.stopped(controller.server, controller.proxy):
        known = len(process.logs())
        process.spawn()
        wait_until("it says so", lambda: "until it works" in process.logs()[known:])
        assert controller.calls.probe() is False
        assert process.stop() == 0  # told to end meanwhile, it does
        process.spawn()
    wait_until("it leads", controller.calls.probe)
    controller.calls.delete(controller.calls.create("late").volume_id)
    assert "Traceback" not in process.logs()


WAITING = 200
AT_A_TIME = 16
GIVE_UP_SECONDS = 5.0
MOST_MIB = 64


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seconds", [8, pytest.param(300, marks=pytest.mark.full)])
def test_its_memory_does_not_grow_while_hundreds_call_during_an_outage(
    controller: Controller, seconds: int, capsys: pytest.CaptureFixture[str]
):
    """Callers give up after a while and call again, over and over, as sidecars do."""
    names = [f"waiting-{number}" for number in range(WAITING)]
    calls, process = controller.calls, controller.process
    began = time.monotonic()
    memory = [process.memory_mib()]
    controller.hold()
    running = [create(calls, name, GIVE_UP_SECONDS) for name in names]
    wait_until("the backend works on as many as it may", lambda: turns_taken(controller))
    with outages.frozen(controller.server, controller.proxy), ThreadPoolExecutor(AT_A_TIME) as pool:
        wait_until("the leader begins nothing", controller.refuses)
        controller.let_go()
        assert not any(each.exception() is None for each in running)
        while time.monotonic() < began + seconds:
            memory.append(process.memory_mib())
            again = [create(calls, name) for name in names]
            listed = [pool.submit(calls.published) for _ in names]
            assert {refusal(each) for each in again} == {Code.UNAVAILABLE}
            assert all(len(each.result()) == 0 for each in listed)
        lasted = time.monotonic() - began
    wait_until("it leads on", lambda: not controller.refuses())
    made = {each.result().volume.volume_id for each in [create(calls, name) for name in names]}
    memory.append(process.memory_mib())
    assert len(made) == WAITING == len(controller.volumes()) == len(controller.on_backend())
    requests = [pb.DeleteVolumeRequest(volume_id=each) for each in made]
    for each in [calls.controller.DeleteVolume.future(one, timeout=WAIT) for one in requests]:
        each.result()
    assert controller.on_backend() == []
    assert "Traceback" not in process.logs()
    with capsys.disabled():
        told = ", ".join(f"{each:.0f}" for each in (memory[0], *memory[-3:]))
        count = (2 * len(memory) - 3) * WAITING
        print(
            f"\n{count} calls in an outage of {lasted:.0f} s: MiB before, late in it, after: {told}"
        )
    assert max(memory) - memory[0] < MOST_MIB
