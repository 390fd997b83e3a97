"""The controller on a real cluster, by CSI: whole lives, lost answers, frozen daemons, kill -9."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest

from csi_driver.base.values import GIB
from csi_driver.cinderlib.persistence.records import OrphanRecord, SnapshotRecord, VolumeRecord
from csi_driver.config import BackendSettings
from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc.errors import NON_FINAL
from tests.lab.ceph import cluster as ceph
from tests.lab.ceph.cluster import Cluster
from tests.lab.ceph.pool import Pool
from tests.support import state
from tests.support.calls import WAIT, Calls
from tests.support.controller_bench import Code, ControllerBench, Refused
from tests.support.driver_process import DriverProcess
from tests.support.messages import from_snapshot, from_volume, mount
from tests.support.waiting import look_again

DATA = b"what somebody wrote"
ROOT = Path(__file__).resolve().parents[3]

METHODS = {
    "create": "create_volume",
    "restore": "create_volume_from_snapshot",
    "clone": "create_cloned_volume",
    "snapshot": "create_snapshot",
}
"""What is made -> the driver's method."""


@pytest.fixture
def bench(options: Callable[..., Any], pool: Pool, tmp_path: Path) -> Iterator[ControllerBench]:
    with ControllerBench(tmp_path, store="db", options=options()) as bench:
        bench.register("n1", "n2")
        yield bench


def image(bench: ControllerBench, volume: Any) -> str:
    return f"volume-{bench.record(volume.volume_id).cinder_id}"


def contents(bench: ControllerBench, pool: Pool, volume: Any) -> bytes:
    return pool.read(image(bench, volume), len(DATA))


def test_a_whole_life_over_the_socket(
    bench: ControllerBench, pool: Pool, cluster: Cluster, tmp_path: Path
) -> None:
    volume = bench.create("data")
    pool.write(image(bench, volume), DATA)
    cut = bench.snapshot(volume.volume_id)
    pool.write(image(bench, volume), b"x" * len(DATA))
    restored = bench.create("restored", 2, volume_content_source=from_snapshot(cut.snapshot_id))
    clone = bench.create("clone", volume_content_source=from_volume(volume.volume_id))
    assert contents(bench, pool, restored) == DATA
    assert contents(bench, pool, clone) == b"x" * len(DATA)
    assert bench.expand(clone.volume_id, 3 * GIB) == 3 * GIB == pool.size(image(bench, clone))
    assert bench.create("data").volume_id == volume.volume_id
    assert len(bench.volumes()) == len(pool.images()) == 3

    published = bench.publish(volume.volume_id)
    assert cluster.key not in str(published)
    with Refused(Code.FAILED_PRECONDITION):
        bench.delete(volume.volume_id)
    for path in (tmp_path / "state").rglob("*"):
        assert path.is_dir() or cluster.key.encode() not in path.read_bytes()
    bench.unpublish(volume.volume_id)

    with Refused(Code.FAILED_PRECONDITION, "has snapshots"):
        bench.delete(volume.volume_id)
    bench.delete_snapshot(cut.snapshot_id)
    for one in (volume, clone, restored):
        bench.delete(one.volume_id)
        bench.delete(one.volume_id)
    assert pool.left() == set()


def making(bench: ControllerBench, what: str, volume: Any, cut: Any) -> Callable[[], Any]:
    """The call that makes one thing, to be repeated, of a volume or of its snapshot."""
    if what == "snapshot":
        return lambda: bench.snapshot(volume.volume_id, "made")
    source = {
        "create": None,
        "restore": from_snapshot(cut.snapshot_id),
        "clone": from_volume(volume.volume_id),
    }[what]
    return lambda: bench.create("made", volume_content_source=source)


def everything(pool: Pool) -> set[str]:
    """Images and snapshots of the pool."""
    return {
        name
        for one in pool.images()
        for name in (one, *(f"{one}@{s}" for s in pool.snapshots(one)))
    }


def delete_all(bench: ControllerBench) -> None:
    for cut in bench.store.list(SnapshotRecord):
        bench.delete_snapshot(cut.id)
    for volume in bench.store.list(VolumeRecord):
        bench.delete(volume.id)


@pytest.mark.parametrize("undo", ["works", "fails"])
@pytest.mark.parametrize("what", list(METHODS))
def test_a_lost_answer_leaves_one_of_what_was_asked(
    bench: ControllerBench, pool: Pool, monkeypatch: pytest.MonkeyPatch, what: str, undo: str
) -> None:
    volume = bench.create("data")
    cut = bench.snapshot(volume.volume_id)
    before = everything(pool)
    driver = bench.managers[0].driver

    def lost(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            method(*arguments)
            raise ConnectionError("the answer was lost")

        return call

    def unreachable(*_arguments: Any) -> None:
        raise ConnectionError("unreachable")

    make = making(bench, what, volume, cut)
    with monkeypatch.context() as patch, pytest.raises(grpc.RpcError) as raised:
        patch.setattr(driver, METHODS[what], lost(getattr(driver, METHODS[what])))
        if undo == "fails":
            patch.setattr(driver, "delete_volume", unreachable)
            patch.setattr(driver, "delete_snapshot", unreachable)
        make()
    if undo == "works":
        assert everything(pool) == before
    else:
        assert raised.value.code() in NON_FINAL
        assert everything(pool) > before
    made = make()
    assert make() == made

    new = everything(pool) - before
    expected = {"create": 1, "restore": 1, "clone": 2, "snapshot": 1}[what]
    assert len(new) == expected, new
    assert bench.store.list(OrphanRecord) == []
    delete_all(bench)
    assert pool.left() == set()


@pytest.mark.parametrize("daemon", ["osd", "mon"])
def test_a_cluster_that_hangs_is_an_error_to_be_retried(
    bench: ControllerBench, pool: Pool, cluster: Cluster, daemon: str
) -> None:
    volume = bench.create("data")
    make = making(bench, "clone", volume, bench.snapshot(volume.volume_id))
    with cluster.frozen(daemon), pytest.raises(grpc.RpcError) as raised:
        make()
    assert raised.value.code() in NON_FINAL
    clone = retried(make)

    assert pool.images() == {image(bench, volume), image(bench, clone)}
    assert bench.store.list(OrphanRecord) == []
    delete_all(bench)
    assert pool.left() == set()


def retried(call: Callable[[], Any]) -> Any:
    """Call until it succeeds, as a sidecar does; a killed client keeps its image for a while."""
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            if error.code() not in NON_FINAL and "is open by" not in (error.details() or ""):
                raise
        look_again()


# -- kill -9 ---------------------------------------------------------------------

MOMENTS = [0.0, 0.02, 0.04, 0.06, 0.09, 0.12, 0.17, 0.25]
"""Seconds after the calls at which the process is killed, amid what librbd does."""


@pytest.fixture
def process(
    options: Callable[..., Any], bindings: Path, pool: Pool, tmp_path: Path
) -> Iterator[DriverProcess]:
    given = {name: str(value) for name, value in options().items()}
    backend = BackendSettings(name="ceph", driver=given.pop("volume_driver"), options=given)
    path = tmp_path / "backends.json"
    path.write_bytes(msgspec.json.encode([backend]))
    with DriverProcess(
        tmp_path,
        role="controller",
        command=(sys.executable, "-m", "tests.support.serve_backend", str(path)),
        environment={"PYTHONPATH": f"{ROOT}:{ceph.environment(bindings)['PYTHONPATH']}"},
    ) as running:
        yield running


def test_a_process_that_is_killed_at_any_moment_leaves_one_of_each(
    process: DriverProcess, pool: Pool
) -> None:
    with Calls(process) as calls:
        base = calls.create("base").volume_id
        cut = calls.snapshot(base, "cut").snapshot_id
    for number, moment in enumerate(MOMENTS):
        requests = round_of(number, base, cut)
        begin_and_kill(process, requests, moment)
        process.start()
        with Calls(process) as calls:
            for name, request in requests:
                retried(
                    lambda n=name, r=request, c=calls: getattr(c.controller, n)(r, timeout=WAIT)
                )
    state.wait_until_nothing_is_pending(process.state_directory)

    volumes = state.records(process.state_directory, "volume")
    assert len(volumes) == 1 + 3 * len(MOMENTS)
    assert pool.images() == {f"volume-{record['cinder_id']}" for record in volumes}
    base_image = next(f"volume-{r['cinder_id']}" for r in volumes if r["name"] == "base")
    snapshots = state.records(process.state_directory, "snapshot")
    clones = [r for r in volumes if r["name"].startswith("clone")]
    assert pool.snapshots(base_image) == {
        *(f"snapshot-{record['cinder_id']}" for record in snapshots),
        *(f"volume-{record['cinder_id']}.clone_snap" for record in clones),
    }
    kill_amid_deletions(process, [r["id"] for r in snapshots], [r["id"] for r in volumes])
    assert state.count(process.state_directory, "orphan") == 0
    assert pool.left() == set()


def round_of(number: int, base: str, cut: str) -> list[tuple[str, Any]]:
    """One of each kind of creation."""
    sources = {"new": None, "clone": from_volume(base), "restored": from_snapshot(cut)}
    volumes = [
        (
            "CreateVolume",
            pb.CreateVolumeRequest(
                name=f"{what}-{number}",
                volume_capabilities=[mount()],
                capacity_range=pb.CapacityRange(required_bytes=GIB),
                volume_content_source=source,
            ),
        )
        for what, source in sources.items()
    ]
    snapshot = pb.CreateSnapshotRequest(source_volume_id=base, name=f"cut-{number}")
    return [*volumes, ("CreateSnapshot", snapshot)]


def begin_and_kill(process: DriverProcess, requests: list[tuple[str, Any]], moment: float) -> None:
    with Calls(process) as calls:
        begun = [getattr(calls.controller, name).future(r, timeout=WAIT) for name, r in requests]
        threading.Event().wait(moment)
        process.kill()
        for future in begun:
            future.exception()


def finish(process: DriverProcess, requests: list[tuple[str, Any]]) -> None:
    """Make the calls again, each until it succeeds."""
    with Calls(process) as calls:
        for name, request in requests:
            call = getattr(calls.controller, name)
            retried(functools.partial(call, request, timeout=WAIT))


def kill_amid_deletions(process: DriverProcess, snapshots: list[str], volumes: list[str]) -> None:
    """Delete everything, and kill the process amid each few deletions."""
    requests: list[tuple[str, Any]] = [
        ("DeleteSnapshot", pb.DeleteSnapshotRequest(snapshot_id=one)) for one in snapshots
    ]
    requests += [("DeleteVolume", pb.DeleteVolumeRequest(volume_id=one)) for one in volumes]
    step = -(-len(requests) // len(MOMENTS))
    for number, moment in enumerate(MOMENTS):
        some = requests[number * step : (number + 1) * step]
        begin_and_kill(process, some, moment)
        process.start()
        with Calls(process) as calls:
            for name, request in some:
                retried(
                    lambda n=name, r=request, c=calls: getattr(c.controller, n)(r, timeout=WAIT)
                )
