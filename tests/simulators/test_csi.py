"""What CSI callers are told by a controller whose array is busy, full, slow or forgetful."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from csi_driver.base.values import GIB
from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc.errors import NON_FINAL
from tests.simulators.conftest import kaminario_options, xtremio_options
from tests.simulators.kaminario import Kaminario
from tests.simulators.xtremio import XtremIO
from tests.support.controller_bench import WAIT, Code, ControllerBench, Refused

pytestmark = [
    pytest.mark.filterwarnings("ignore:Unverified HTTPS request"),
    pytest.mark.usefixtures("naps"),
]

Serve = Callable[[dict[str, Any]], ControllerBench]


@pytest.fixture
def xtremio(xms: XtremIO, serve: Serve) -> ControllerBench:
    return serve(xtremio_options(xms))


@pytest.fixture
def kaminario(k2: Kaminario, serve: Serve) -> ControllerBench:
    return serve(kaminario_options(k2))


BUSY = [
    ("POST", "volumes", lambda bench, _: bench.create("more")),
    ("POST", "snapshots", lambda bench, volume_id: bench.snapshot(volume_id)),
    ("DELETE", "volumes", lambda bench, volume_id: bench.delete(volume_id)),
]


@pytest.mark.parametrize(("method", "resource", "call"), BUSY)
def test_a_busy_xtremio_is_to_be_asked_again(
    xtremio: ControllerBench, xms: XtremIO, method: str, resource: str, call: Any
) -> None:
    volume_id = xtremio.create("data").volume_id
    xms.refuse(method, resource, "system_is_busy", times=5)  # as often as the driver tries

    with Refused(Code.UNAVAILABLE, "System is busy"):
        call(xtremio, volume_id)
    call(xtremio, volume_id)


@pytest.mark.parametrize(("method", "resource", "call"), BUSY)
def test_a_busy_kaminario_is_to_be_asked_again(
    kaminario: ControllerBench, k2: Kaminario, method: str, resource: str, call: Any
) -> None:
    volume_id = kaminario.create("data").volume_id
    k2.refuse(method, resource, "MC_ERR_BUSY", times=5)

    with Refused(Code.UNAVAILABLE, "MC_ERR_BUSY"):
        call(kaminario, volume_id)
    call(kaminario, volume_id)


def test_an_array_that_stays_busy_is_never_final(xtremio: ControllerBench, xms: XtremIO) -> None:
    """Neither the volume nor the undo of the attempt gets through."""
    xms.lose_answer("POST", "volumes")
    xms.refuse("DELETE", "volumes", "system_is_busy", times=5)

    with Refused(Code.ABORTED, "could not be removed yet: System is busy"):
        xtremio.create("data")
    assert Code.ABORTED in NON_FINAL
    assert len(xms.names()) == 1, "the attempt is there and recorded"
    made = xtremio.create("data")
    assert xms.names() == {xtremio.record(made.volume_id).cinder_id}


def test_too_many_snapshots_are_no_room(start: Callable[[XtremIO], XtremIO], serve: Serve) -> None:
    bench = serve(xtremio_options(start(XtremIO(snapshot_limit=1))))
    volume_id = bench.create("data").volume_id
    bench.snapshot(volume_id, "one")

    with Refused(Code.RESOURCE_EXHAUSTED, "Exceeded the limit of snapshots"):
        bench.snapshot(volume_id, "two")


@pytest.mark.parametrize("operation", ["create", "delete", "snapshot", "publish"])
def test_an_answer_that_is_lost_on_the_way(
    xtremio: ControllerBench, xms: XtremIO, operation: str
) -> None:
    """The array goes on answering: the attempt is undone at once, and the call repeated."""
    volume_id = xtremio.create("data").volume_id
    array_name = xtremio.record(volume_id).cinder_id
    method = "DELETE" if operation == "delete" else "POST"
    resource = {"snapshot": "snapshots", "publish": "lun-maps"}.get(operation, "volumes")
    call = {
        "create": lambda: xtremio.create("more"),
        "delete": lambda: xtremio.delete(volume_id),
        "snapshot": lambda: xtremio.snapshot(volume_id),
        "publish": lambda: xtremio.publish(volume_id),
    }[operation]
    xms.lose_answer(method, resource)

    with Refused(Code.UNAVAILABLE, "Connection aborted"):
        call()
    assert xms.names() == (set() if operation == "delete" else {array_name})
    assert xms.mapped_to(array_name) == set()
    call()
    expected = {"create": 2, "delete": 0, "snapshot": 2, "publish": 1}[operation]
    assert len(xms.names()) == expected


def test_a_retry_joins_the_call_that_a_slow_array_has_not_answered(
    xtremio: ControllerBench, xms: XtremIO
) -> None:
    gate = xms.hold("POST", "volumes", "after")
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(xtremio.create, "data")]
        gate.wait_until_entered()
        calls.append(pool.submit(xtremio.create, "data"))
        gate.release()
        first, second = (call.result(WAIT) for call in calls)

    assert first == second
    assert xms.requests.count(("POST", "volumes")) == 1


@pytest.mark.parametrize("array", ["xms", "k2"])
def test_a_volume_that_an_administrator_took_away(
    array: str, request: pytest.FixtureRequest, serve: Serve
) -> None:
    """What cannot be done is said; unpublish and delete have nothing to do and are OK."""
    simulator = request.getfixturevalue(array)
    options = xtremio_options if array == "xms" else kaminario_options
    bench = serve(options(simulator))
    volume_id = bench.create("data").volume_id
    bench.publish(volume_id)
    prefix = "" if array == "xms" else "cv-"
    simulator.vanish(prefix + bench.record(volume_id).cinder_id)

    with Refused(Code.INTERNAL, "could not be found"):
        bench.expand(volume_id, 2 * GIB)
    bench.unpublish(volume_id)
    bench.delete(volume_id)
    assert bench.volumes() == []
    assert simulator.names() == set()


@pytest.mark.usefixtures("no_initiator")
def test_a_copy_that_this_host_cannot_make_is_refused_with_advice(
    kaminario: ControllerBench, k2: Kaminario
) -> None:
    volume_id = kaminario.create("data").volume_id
    before = k2.everything()
    source = pb.VolumeContentSource.VolumeSource(volume_id=volume_id)

    with Refused(Code.INVALID_ARGUMENT, "Run the controller where iSCSI works"):
        kaminario.create("copy", volume_content_source=pb.VolumeContentSource(volume=source))
    assert k2.everything() == before
    assert len(kaminario.volumes()) == 1, "no record of it either"
