"""A controller whose API server is away: it answers reads, begins nothing, and loses nothing."""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import grpc
import msgspec
import pytest

from csi_driver.config import BackendSettings
from csi_driver.kube.group import collection, of_driver
from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc.handlers import CAVEAT
from tests.cluster.accounts import add_node, install
from tests.cluster.apiserver import ApiServer
from tests.cluster.plugin import make_keys, plugin
from tests.support.calls import WAIT, Calls
from tests.support.messages import mount
from tests.support.waiting import wait_until

DRIVER = "away.example.com"


@contextlib.contextmanager
def stopped(server: ApiServer):
    server.kill()
    try:
        yield
    finally:
        server.start()


def refused(calls: Calls) -> bool:
    """Whether a call that would change something, but finds nothing to change, is refused."""
    try:
        calls.delete(str(uuid.uuid4()))
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        return "is not begun now" in error.details() and "could not renew" in error.details()
    return False


@pytest.mark.parametrize("away", [ApiServer.frozen, stopped])
def test_reads_are_answered_and_what_runs_is_finished_when_the_server_is_back(
    apiserver: ApiServer, tmp_path_factory: pytest.TempPathFactory, away: Callable
):
    install(apiserver)
    add_node(apiserver, "n1")
    directory = tmp_path_factory.mktemp("a")
    go_on, files = directory / "go-on", directory / "files"
    go_on.touch()
    options = {
        "double_directory": str(files),
        "double_hold": f"create_volume:before:{go_on}",
    }
    backends = directory / "backends.json"
    double = BackendSettings(
        name="default", driver="tests.doubles.driver.DoubleDriver", options=options
    )
    backends.write_bytes(msgspec.json.encode([double]))
    process = plugin(
        apiserver,
        directory / "c",
        "controller",
        "n1",
        driver=DRIVER,
        keys=make_keys(directory / "keys"),
        command=(sys.executable, "-m", "tests.support.serve_backend", str(backends)),
    )
    with process, Calls(process) as calls:
        first = calls.create("first").volume_id
        snapshot = calls.snapshot(first, "cut").snapshot_id
        Path(f"{go_on}.entered").unlink()
        go_on.unlink()
        running = calls.controller.CreateVolume.future(calls.create_request("second"), timeout=WAIT)
        wait_until("the backend works", Path(f"{go_on}.entered").exists)
        before = len(list(files.iterdir()))
        with away(apiserver):
            wait_until("the leader begins nothing", lambda: refused(calls))
            _assert_reads(calls, first, snapshot)
            go_on.touch()
            wait_until("the backend has it", lambda: len(list(files.iterdir())) == before + 1)
            assert not running.done()
            assert calls.probe() is True
        second = running.result().volume.volume_id
        assert second == calls.create("second").volume_id
        assert sorted(calls.published()) == sorted([first, second])
        assert len(list(files.iterdir())) == before + 1
        calls.delete_snapshot(snapshot)
        calls.delete(first)
        calls.delete(second)
        assert list(files.iterdir()) == []
        assert apiserver.admin.list(collection("cindervolumes"), of_driver(DRIVER))[0] == []
        assert process.is_running()
    assert "Traceback" not in process.logs()


def _assert_reads(calls: Calls, volume_id: str, snapshot_id: str) -> None:
    """Each read answers, and says that it does so from the cache."""
    stub = calls.controller
    volume = pb.ControllerGetVolumeRequest(volume_id=volume_id)
    validate = pb.ValidateVolumeCapabilitiesRequest(
        volume_id=volume_id, volume_capabilities=[mount()]
    )
    for call, request in (
        (stub.ListVolumes, pb.ListVolumesRequest()),
        (stub.ControllerGetVolume, volume),
        (stub.ValidateVolumeCapabilities, validate),
        (stub.ListSnapshots, pb.ListSnapshotsRequest()),
        (stub.GetSnapshot, pb.GetSnapshotRequest(snapshot_id=snapshot_id)),
    ):
        _, told = call.with_call(request, timeout=WAIT)
        assert "from the cache" in dict(told.trailing_metadata())[CAVEAT]
