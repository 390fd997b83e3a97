"""ControllerPublishVolume and ControllerUnpublishVolume: who may have a volume, and where."""

from __future__ import annotations

import msgspec
import pytest

from csi_driver.base.errors import SealError
from csi_driver.base.publish_context import open_context
from csi_driver.base.sealing import KeyRing
from csi_driver.base.values import (
    GIB,
    AccessMode,
    AccessType,
    Confirmation,
    Formatting,
    FormattingState,
    VolumeCapability,
)
from csi_driver.cinderlib.persistence.records import ConnectionRecord, Phase
from csi_driver.controller import ids
from csi_driver.controller.backends import ATTACH_THREADS
from csi_driver.controller.values import PublishVolume
from tests.doubles.faults import VendorError
from tests.support.controller_bench import (
    DRIVER_NAME,
    WAIT,
    Code,
    ControllerBench,
    Refused,
)
from tests.support.messages import block, mount


@pytest.fixture
def volume_id(bench) -> str:
    return bench.create(volume_capabilities=[block()]).volume_id


def opened(bench: ControllerBench, sealed: dict[str, str], volume_id: str, node: str = "n1"):
    return open_context(sealed, bench.keys, DRIVER_NAME, volume_id, node)


def connected(bench: ControllerBench) -> list[tuple[str, str]]:
    return bench.managers[0].driver.connected


# -- the publish_context --------------------------------------------------------


def test_a_node_gets_what_it_needs_and_nobody_else_can_read_it(bench, volume_id):
    sealed = bench.publish(volume_id)
    context = opened(bench, sealed, volume_id)
    assert context.connection["driver_volume_type"] == "local"
    assert context.size_bytes == GIB
    assert context.formatting.state is FormattingState.NEVER
    assert not context.readonly
    for keys, node in ((bench.keys, "n2"), (KeyRing.generate(), "n1")):
        with pytest.raises(SealError):
            open_context(sealed, keys, DRIVER_NAME, volume_id, node)


def test_no_connection_info_is_kept_in_clear_text(bench, volume_id):
    bench.publish(volume_id)
    (record,) = bench.store.list(ConnectionRecord)
    assert record.phase is Phase.ATTACHED
    assert record.connection_info == {}
    assert "device_path" not in repr(record)


def test_a_retry_answers_the_same_bytes(bench, volume_id):
    assert bench.publish(volume_id) == bench.publish(volume_id)
    assert bench.faults().operations().count("initialize_connection") == 1


def test_equal_calls_at_once_attach_once(bench, volume_id):
    gate = bench.hold("initialize_connection")
    request = bench.publish_request(volume_id)
    calls = [bench.stub.ControllerPublishVolume.future(request, timeout=WAIT) for _ in range(4)]
    gate.wait_until_entered()
    gate.release()
    assert len({call.result().publish_context["sealed"] for call in calls}) == 1
    assert bench.faults().operations().count("initialize_connection") == 1


def test_what_nodes_proved_goes_to_the_next_node(bench, volume_id):
    proved = Formatting(state=FormattingState.FORMATTED, fs_type="ext4", fs_uuid="u")
    bench.publish(volume_id)
    bench.nodes.confirm(Confirmation(volume_id=volume_id, formatting=proved, identity="wwn-1"))
    bench.unpublish(volume_id)
    context = opened(bench, bench.publish(volume_id, "n2"), volume_id, "n2")
    assert (context.formatting, context.identity) == (proved, "wwn-1")


@pytest.mark.parametrize(
    ("mode", "readonly", "told"),
    [
        ("SINGLE_NODE_WRITER", False, False),
        ("SINGLE_NODE_WRITER", True, True),
        ("SINGLE_NODE_READER_ONLY", False, True),
        ("MULTI_NODE_READER_ONLY", False, True),
    ],
)
def test_a_reader_is_told_that_it_is_one(bench, volume_id, mode, readonly, told):
    sealed = bench.publish(volume_id, volume_capability=block(mode), readonly=readonly)
    assert opened(bench, sealed, volume_id).readonly is told


# -- which nodes ----------------------------------------------------------------


def test_an_unknown_volume_or_node_is_not_found(bench, volume_id):
    with Refused(Code.NOT_FOUND, "no volume 'nonsense'"):
        bench.publish("nonsense")
    with Refused(Code.NOT_FOUND, "Node 'n9' is not registered"):
        bench.publish(volume_id, "n9")


def test_a_single_node_volume_goes_to_one_node_at_a_time(bench, volume_id):
    bench.publish(volume_id, "n1")
    with Refused(Code.FAILED_PRECONDITION, "published to n1"):
        bench.publish(volume_id, "n2")
    bench.unpublish(volume_id, "n1")
    bench.publish(volume_id, "n2")


def test_several_nodes_may_have_it_when_the_mode_says_so(bench, volume_id):
    shared = {"volume_capability": block("MULTI_NODE_MULTI_WRITER")}
    contexts = [bench.publish(volume_id, node, **shared) for node in ("n1", "n2", "n3")]
    assert len({context["sealed"] for context in contexts}) == 3
    assert bench.faults().operations().count("create_export") == 3
    bench.unpublish(volume_id, "n2")
    assert "remove_export" not in bench.faults().operations()
    bench.unpublish(volume_id, "")
    assert bench.faults().operations().count("remove_export") == 1
    assert connected(bench) == []


def test_one_of_several_nodes_at_once_gets_a_single_node_volume(bench, volume_id):
    calls = [
        bench.stub.ControllerPublishVolume.future(
            bench.publish_request(volume_id, node, volume_capability=block()), timeout=WAIT
        )
        for node in ("n1", "n2", "n3")
    ]
    codes = sorted(call.exception().code().name if call.exception() else "OK" for call in calls)
    assert codes == ["FAILED_PRECONDITION", "FAILED_PRECONDITION", "OK"]
    assert len(connected(bench)) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"volume_capability": block(), "readonly": True},
        {"volume_capability": block("SINGLE_NODE_MULTI_WRITER")},
        {"volume_capability": mount()},
    ],
)
def test_the_same_node_in_another_way_already_exists(bench, volume_id, other):
    bench.publish(volume_id, volume_capability=block())
    with Refused(Code.ALREADY_EXISTS, "n1"):
        bench.publish(volume_id, **other)


def test_a_node_takes_as_many_volumes_as_it_says(bench):
    bench.register("n1", max_volumes=2)
    volumes = [bench.create(f"data-{number}").volume_id for number in range(3)]
    contexts = [bench.publish(volume) for volume in volumes[:2]]
    with Refused(Code.RESOURCE_EXHAUSTED, "its limit is 2"):
        bench.publish(volumes[2])
    assert [bench.publish(volume) for volume in volumes[:2]] == contexts
    bench.unpublish(volumes[0])
    bench.publish(volumes[2])


# -- failures -------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["create_export", "initialize_connection"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_failed_attach_is_undone_and_then_final(bench, volume_id, operation, when):
    bench.faults().fail(operation, VendorError("no free LUN"), when)
    with Refused(Code.INTERNAL, "no free LUN"):
        bench.publish(volume_id)
    assert bench.store.list(ConnectionRecord) == []
    assert connected(bench) == []
    assert bench.managers[0].driver.exported == set()
    bench.publish(volume_id, "n2")


def test_an_attach_that_could_not_be_undone_keeps_other_nodes_away(bench, volume_id):
    bench.faults().fail("initialize_connection", VendorError("lost the session"), "after")
    bench.faults().fail("terminate_connection", VendorError("still"))
    bench.faults().fail("remove_export", VendorError("still"))
    with Refused(Code.ABORTED, "lost the session"):
        bench.publish(volume_id)
    with Refused(Code.FAILED_PRECONDITION, "n1"):
        bench.publish(volume_id, "n2")
    bench.publish(volume_id, "n1")
    bench.unpublish(volume_id, "n1")
    bench.publish(volume_id, "n2")


def test_a_refusal_after_the_export_was_made_is_undone(bench, volume_id):
    """ "Not implemented" is no proof that nothing was done when an earlier call was."""
    bench.faults().fail("initialize_connection", NotImplementedError("no such transport"))
    bench.faults().fail("remove_export", VendorError("lost the session"))
    with Refused(Code.INVALID_ARGUMENT, "no such transport"):
        bench.publish(volume_id)
    assert bench.managers[0].driver.exported == set()


def test_a_connector_that_the_backend_refuses_is_a_clear_error(bench, volume_id):
    bench.register("n1")
    registration = bench.nodes.node("n1")
    registration.connector["host"] = ""
    bench.nodes.register(registration)
    with Refused(Code.FAILED_PRECONDITION, "Attaching 'data' to n1 failed"):
        bench.publish(volume_id)
    assert bench.store.list(ConnectionRecord) == []


@pytest.mark.parametrize("connector", [{"host": ""}, {"host": "renamed"}])
def test_an_attach_of_unknown_outcome_ends_when_its_node_has_another_connector(
    bench, volume_id, connector
):
    bench.faults().fail("initialize_connection", VendorError("lost the session"), "after")
    bench.faults().fail("terminate_connection", VendorError("still"))
    with Refused(Code.ABORTED, "lost the session"):
        bench.publish(volume_id)
    bench.nodes.register(msgspec.structs.replace(bench.nodes.node("n1"), connector=connector))
    bench.faults().fail("terminate_connection", VendorError("not now"))
    with Refused(Code.ABORTED, "not now"):
        bench.publish(volume_id)
    assert connected(bench) == [(connected(bench)[0][0], "n1")]
    if connector["host"]:
        bench.publish(volume_id)
        bench.unpublish(volume_id)
    else:
        with Refused(Code.FAILED_PRECONDITION, "Attaching 'data' to n1 failed"):
            bench.publish(volume_id)
    assert connected(bench) == []
    assert bench.store.list(ConnectionRecord) == []


def test_an_attach_of_unknown_outcome_is_undone_when_the_next_is_refused(
    bench, volume_id, monkeypatch
):
    bench.faults().fail("initialize_connection", VendorError("lost the session"), "after")
    bench.faults().fail("terminate_connection", VendorError("still"))
    with Refused(Code.ABORTED, "lost the session"):
        bench.publish(volume_id)

    def validate_connector(connector):
        raise NotImplementedError("no such transport")

    monkeypatch.setattr(bench.managers[0].driver, "validate_connector", validate_connector)
    with Refused(Code.INVALID_ARGUMENT, "no such transport"):
        bench.publish(volume_id)
    assert connected(bench) == []
    assert bench.store.list(ConnectionRecord) == []


def test_connection_info_that_does_not_fit_leaves_nothing_attached(bench, volume_id, monkeypatch):
    driver = bench.managers[0].driver
    real = driver.initialize_connection

    def initialize_connection(volume, connector):
        info = real(volume, connector)
        info["data"]["target_portals"] = [f"192.0.2.1:{hash(str(n))}" for n in range(500)]
        return info

    monkeypatch.setattr(driver, "initialize_connection", initialize_connection)
    with Refused(Code.FAILED_PRECONDITION, "fewer portals"):
        bench.publish(volume_id)
    assert connected(bench) == []
    assert bench.store.list(ConnectionRecord) == []


# -- unpublish ------------------------------------------------------------------


@pytest.mark.parametrize("node", ["n1", "n9", ""])
@pytest.mark.parametrize("volume", ["known", "00000000-0000-0000-0000-000000000000", "nonsense"])
def test_what_is_not_published_is_unpublished_already(bench, volume_id, node, volume):
    bench.unpublish(volume_id if volume == "known" else volume, node)


def test_an_unpublish_may_be_repeated(bench, volume_id):
    bench.publish(volume_id)
    for _ in range(2):
        bench.unpublish(volume_id)
    assert bench.faults().operations().count("terminate_connection") == 1
    assert connected(bench) == []


def test_a_node_that_is_gone_can_be_unpublished(bench, volume_id, tmp_path):
    bench.publish(volume_id)
    (tmp_path / "state" / "nodes" / "n1.json").unlink()
    bench.unpublish(volume_id)
    assert connected(bench) == []


def test_ok_is_only_answered_when_the_export_is_removed(bench, volume_id):
    bench.publish(volume_id)
    bench.faults().fail("terminate_connection", VendorError("lost the session"))
    with Refused(Code.ABORTED, "The export is still there"):
        bench.unpublish(volume_id)
    with Refused(Code.FAILED_PRECONDITION):
        bench.publish(volume_id, "n2")
    bench.unpublish(volume_id)
    bench.publish(volume_id, "n2")


@pytest.mark.parametrize("node", ["n1", ""])
def test_an_unpublish_never_overtakes_a_publish_that_runs(bench, volume_id, node):
    """The attacher's publish timed out; its unpublish must not answer OK before it ended."""
    gate = bench.hold("initialize_connection")
    call = bench.stub.ControllerPublishVolume.future(bench.publish_request(volume_id))
    gate.wait_until_entered()
    with Refused(Code.ABORTED, "ControllerPublishVolume runs since"):
        bench.unpublish(volume_id, node)
    gate.release()
    call.result()
    bench.unpublish(volume_id, node)
    assert connected(bench) == []


@pytest.mark.parametrize("node", ["n1", ""])
def test_an_unpublish_never_overtakes_a_publish_that_waits_for_its_turn(bench, volume_id, node):
    """It has no record yet: every thread of the pool is held by a backend that is stuck."""
    gate = bench.hold("create_export")
    others = [bench.create(f"other-{number}").volume_id for number in range(ATTACH_THREADS)]
    publish = bench.service.attachments.publish
    calls = [publish(wish(other)) for other in (*others, volume_id)]
    assert bench.store.get(ConnectionRecord, ids.connection_id(volume_id, "n1")) is None
    with Refused(Code.ABORTED, "at step 'queued'"):
        bench.unpublish(volume_id, node)
    gate.release()
    for call in calls:
        call.result(WAIT)
    bench.unpublish(volume_id, node)
    assert volume_id not in {
        connection.volume_id for connection in bench.store.list(ConnectionRecord)
    }


def wish(volume_id: str) -> PublishVolume:
    capability = VolumeCapability(access_type=AccessType.BLOCK, mode=AccessMode.SINGLE_NODE_WRITER)
    return PublishVolume(volume_id=volume_id, node_id="n1", capability=capability)
