"""Ten thousand volumes in a cluster: start, memory, calls, and what happens when things break.

Two real API servers, one with 10,000 CinderVolume records and one with none: calls are
measured on both in turns, so that what else the machine does counts for both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc

from csi_driver.base.values import GIB
from csi_driver.cinderlib.persistence.records import VolumeRecord
from csi_driver.kube.group import GROUP
from csi_driver.rpc._generated import csi_pb2 as pb
from tests.bench import calls
from tests.bench import kubernetes_cluster as cluster
from tests.bench.figures import Figure, NotMeasured
from tests.bench.many_volumes import page_ms
from tests.bench.processes import Process, Subject
from tests.cluster.apiserver import ApiServer
from tests.cluster.binaries import CannotBuild, binaries
from tests.cluster.fault_proxy import FaultProxy
from tests.cluster.plugin import make_keys
from tests.support.calls import Calls
from tests.support.driver_process import DriverProcess
from tests.support.waiting import wait_until

MANY = 10_000
CLIENTS = 16
ROUNDS = 6
CREATES = 10
"""Of a client in a round."""
PAGE = 100
REST_SECONDS = 5.0
OPERATIONS = 10
SETTLE_SECONDS = 1.0
"""After which what is written beside a call, for people, is written too."""

PATIENCE_SECONDS = 60.0
LOOK_SECONDS = 0.05
WRITES = ("POST", "PUT", "PATCH", "APPLY", "DELETE")

SETTING = "controller, kubernetes"
FULL = f"{SETTING}, 10,000 records"


def ten_thousand() -> Iterator[Figure]:
    """All of it.

    :raises NotMeasured: Kubernetes' programs cannot be had here.
    """
    try:
        programs = binaries()
    except CannotBuild as error:
        raise NotMeasured(str(error)) from error
    with TemporaryDirectory(prefix="b") as name:
        here = Path(name)
        keys = make_keys(here / "keys")
        with (
            cluster.api_server(programs, here / "e") as empty,
            cluster.api_server(programs, here / "f") as full,
        ):
            yield from _measure(here, keys, empty, full)


def _measure(here: Path, keys: Path, empty: ApiServer, full: ApiServer) -> Iterator[Figure]:
    beside = cluster.replica(empty, here / "0", keys)
    with beside, cluster.client(beside) as few, ExitStack() as stack:
        yield from _requests_per_operation(empty, few)
        pattern = cluster.volume_record(empty, calls.create(few.client).volume_id)
        cluster.fill(full, pattern, MANY)
        leader = cluster.replica(full, here / "1", keys)
        stack.callback(_end, leader)
        yield from _start(full, leader)
        with cluster.client(leader) as many:
            yield from _at_rest(many)
            yield from _page(many, few)
            yield from _creates(many, few, Process(full.pid()))
            yield from _memory(many)
        proxy = stack.enter_context(closing(FaultProxy(full)))
        standby = cluster.replica(full, here / "2", keys, proxy)
        stack.callback(_end, standby)
        yield from _takeover(full, leader, standby)
        yield from _reconnects(full, proxy, standby, pattern)


def _end(process: DriverProcess) -> None:
    if process.is_running():
        process.stop()


# -- one controller ------------------------------------------------------------------------


def _start(server: ApiServer, leader: DriverProcess) -> Iterator[Figure]:
    """A controller up to ready, and what the API server does for it."""
    api_server = Process(server.pid())
    before, started = api_server.cpu_seconds(), time.perf_counter()
    leader.start()
    took = time.perf_counter() - started
    yield Figure(name="start to ready", setting=FULL, value=took, unit="s")
    yield Figure(
        name="CPU of the start, up to ready",
        setting=FULL,
        value=Process(leader.pid).cpu_seconds(),
        unit="s",
        beside=api_server.cpu_seconds() - before,
        beside_name="kube-apiserver",
    )


def _at_rest(many: Subject) -> Iterator[Figure]:
    yield Figure(
        name="memory after the start", setting=FULL, value=many.memory_mib(), unit="MiB", bound=300
    )
    before = many.cpu_seconds()
    time.sleep(REST_SECONDS)
    yield Figure(
        name="CPU at rest",
        setting=FULL,
        value=(many.cpu_seconds() - before) / REST_SECONDS * 1000,
        unit="ms/s",
    )


def _memory(many: Subject) -> Iterator[Figure]:
    yield Figure(
        name="memory after the calls", setting=FULL, value=many.memory_mib(), unit="MiB", bound=300
    )


def _page(many: Subject, few: Subject) -> Iterator[Figure]:
    for _ in range(PAGE + 1):
        calls.create(few.client)
    yield Figure(
        name=f"ListVolumes, a page of {PAGE}",
        setting=FULL,
        value=page_ms(many),
        unit="ms",
        beside=page_ms(few),
        beside_name=f"among {PAGE + 1}",
    )


def _creates(many: Subject, few: Subject, api_server: Process) -> Iterator[Figure]:
    """CreateVolume by 16 clients, beside the other API server, in turns."""
    took: tuple[list[float], list[float]] = ([], [])
    for subject in (many, few):
        _create_ms(subject, CREATES)
    used = [0.0, 0.0]
    for _ in range(ROUNDS):
        before = [each.cpu_seconds() for each in (many, api_server)]
        took[0].extend(_create_ms(many, CREATES))
        after = [each.cpu_seconds() for each in (many, api_server)]
        used = [total + b - a for total, a, b in zip(used, before, after, strict=True)]
        took[1].extend(_create_ms(few, CREATES))
    own, beside = (each / len(took[0]) * 1000 for each in used)
    yield Figure(
        name="CPU of CreateVolume",
        setting=f"{FULL}, {CLIENTS} clients",
        value=own,
        unit="ms",
        beside=beside,
        beside_name="kube-apiserver",
    )
    for percent in (50, 99):
        own, beside = (_percentile(times, percent) for times in took)
        yield Figure(
            name=f"CreateVolume, percentile {percent}",
            setting=f"{FULL}, {CLIENTS} clients",
            value=own,
            unit="ms",
            beside=beside,
            beside_name="empty store",
        )
        yield Figure(
            name=f"percentile {percent}, how much longer than in an empty store",
            setting=f"{FULL}, {CLIENTS} clients",
            value=(own / beside - 1) * 100,
            unit="%",
            bound=50,
        )


def _create_ms(subject: Subject, times: int) -> list[float]:
    def loop(_: int) -> list[float]:
        return [calls.milliseconds(lambda: calls.create(subject.client)) for _ in range(times)]

    with ThreadPoolExecutor(CLIENTS) as pool:
        return [each for part in pool.map(loop, range(CLIENTS)) for each in part]


def _percentile(times: list[float], percent: int) -> float:
    return statistics.quantiles(times, n=100)[percent - 1]


# -- requests ------------------------------------------------------------------------------


def _requests_per_operation(server: ApiServer, few: Subject) -> Iterator[Figure]:
    """How many requests for our objects an operation makes; the Lease's are not among them."""
    client = few.client
    assert isinstance(client, Calls)
    volumes: list[str] = []
    snapshots: list[str] = []
    operations: tuple[tuple[str, int | None, Callable[[int], object]], ...] = (
        ("CreateVolume", 3, lambda _: volumes.append(calls.create(client).volume_id)),
        ("ControllerPublishVolume", None, lambda n: client.publish(volumes[n], cluster.NODE)),
        ("ControllerUnpublishVolume", None, lambda n: client.unpublish(volumes[n], cluster.NODE)),
        ("CreateSnapshot", None, lambda n: snapshots.append(_cut(client, volumes[n]))),
        ("DeleteSnapshot", None, lambda n: client.delete_snapshot(snapshots[n])),
        ("ControllerExpandVolume", None, lambda n: _expand(client, volumes[n])),
        ("DeleteVolume", None, lambda n: client.delete(volumes[n])),
    )
    lists = 0
    for name, bound, call in operations:
        before = cluster.requests(server)
        for number in range(OPERATIONS):
            call(number)
        time.sleep(SETTLE_SECONDS)
        made = cluster.requests(server) - before
        lists += made["LIST"]
        yield Figure(
            name=f"API writes of a {name}",
            setting=f"{SETTING}; {made['GET'] / OPERATIONS:g} reads besides",
            value=sum(made[verb] for verb in WRITES) / OPERATIONS,
            unit="requests",
            bound=bound,
        )
    yield Figure(
        name="API lists of all these calls", setting=SETTING, value=lists, unit="lists", bound=0
    )


def _cut(client: Calls, volume_id: str) -> str:
    return str(client.snapshot(volume_id, f"snapshot-of-{volume_id}").snapshot_id)


def _expand(client: Calls, volume_id: str) -> None:
    wanted = pb.CapacityRange(required_bytes=2 * GIB)
    request = pb.ControllerExpandVolumeRequest(volume_id=volume_id, capacity_range=wanted)
    client.controller.ControllerExpandVolume(request)


# -- when things break ---------------------------------------------------------------------


def _takeover(server: ApiServer, leader: DriverProcess, standby: DriverProcess) -> Iterator[Figure]:
    """The leader is killed, and the other makes a volume."""
    standby.spawn()
    wait_until("the standby follows", lambda: "Standing by" in standby.logs())
    yield Figure(
        name="memory of a standby",
        setting=FULL,
        value=Process(standby.pid).memory_mib(),
        unit="MiB",
        bound=300,
    )
    with cluster.client(standby) as subject:
        leader.kill()
        killed = time.time()
        _until_served(lambda: calls.create(subject.client))
        answered = time.time()
    led = cluster.led_since(server)
    yield Figure(
        name="takeover: from kill -9 of the leader to the other's first CreateVolume",
        setting=FULL,
        value=answered - killed,
        unit="s",
        bound=15,
    )
    yield Figure(
        name="of it after the other has the Lease", setting=FULL, value=answered - led, unit="s"
    )


def _reconnects(
    server: ApiServer, proxy: FaultProxy, leader: DriverProcess, pattern: VolumeRecord
) -> Iterator[Figure]:
    """How long a leader does not know what another wrote, after it lost its watches."""

    def restart() -> None:
        server.kill()
        server.start()
        wait_until("the records are served", lambda: cluster.serves_records(server))

    for what, lose in (("connections are cut", proxy.cut), ("the API server restarts", restart)):
        with cluster.client(leader) as subject:
            del proxy.seen[:]
            lose()
            lost = time.perf_counter()
            volume = cluster.add(server, pattern)
            _until_served(lambda: _get(subject, volume))  # noqa: B023
            took = time.perf_counter() - lost
        seen = [each for each in proxy.seen if f"/{GROUP}/" in each]
        lists = sum("limit=" in each for each in seen)
        yield Figure(
            name=f"{what}: until records are current again",
            setting=f"{FULL}; {len(seen) - lists} watches, {lists} pages of lists",
            value=took,
            unit="s",
        )


def _get(subject: Subject, volume_id: str) -> None:
    request = pb.ControllerGetVolumeRequest(volume_id=volume_id)
    subject.client.controller.ControllerGetVolume(request)


def _until_served(call: Callable[[], object]) -> None:
    """Repeat a call until it is answered, as the sidecars do, but without their pauses."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            call()
            return
        except grpc.RpcError:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOOK_SECONDS)
