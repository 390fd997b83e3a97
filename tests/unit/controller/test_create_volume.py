"""CreateVolume: one name is one volume, whatever happens on the way."""

from __future__ import annotations

import threading
import uuid

import pytest

from csi_driver.base.values import (
    GIB,
    AccessMode,
    AccessType,
    FormattingState,
    VolumeCapability,
)
from csi_driver.cinderlib.exceptions import NotProvided
from csi_driver.cinderlib.persistence.records import Phase, VolumeRecord
from csi_driver.cinderlib.persistence.store import StoreUnavailable
from csi_driver.controller.values import CreateVolume
from csi_driver.rpc._generated import csi_pb2 as pb
from tests.doubles.faults import VendorError
from tests.support.controller_bench import (
    WAIT,
    Code,
    ControllerBench,
    Refused,
)
from tests.support.messages import block, from_volume, mount


def volume_name(bench: ControllerBench, volume_id: str) -> str:
    """What the driver calls the volume."""
    return f"volume-{bench.record(volume_id).cinder_id}"


def test_a_volume_is_made_recorded_and_told(bench):
    volume = bench.create("data", gib=1.5)
    assert volume.volume_id == str(uuid.UUID(volume.volume_id))
    assert volume.capacity_bytes == 2 * GIB
    assert volume.volume_context == {"backend": bench.backend}
    record = bench.record(volume.volume_id)
    assert (record.phase, record.operation, record.suspects) == (Phase.AVAILABLE, None, ())
    assert record.provider["provider_id"] == f"array-{record.cinder_id}"
    assert bench.on_backend() == {volume_name(bench, volume.volume_id)}


def test_a_volume_gets_the_uuid_of_its_first_filesystem(bench):
    formatting = bench.record(bench.create().volume_id).formatting
    assert formatting.state is FormattingState.NEVER
    assert uuid.UUID(formatting.fs_uuid)


def test_the_same_call_again_answers_the_same_and_does_nothing(bench):
    first = bench.create("data", gib=2)
    assert bench.create("data", gib=2) == first
    assert bench.create("data", gib=1.2) == first
    assert bench.faults().operations().count("create_volume") == 1


def test_equal_calls_at_once_are_made_once_and_answer_the_same(bench):
    gate = bench.hold("create_volume")
    calls = [bench.stub.CreateVolume.future(bench.create_request(), timeout=WAIT)]
    gate.wait_until_entered()
    calls += [bench.stub.CreateVolume.future(bench.create_request(), timeout=WAIT) for _ in "123"]
    with Refused(Code.ABORTED, "CreateVolume runs since"):
        bench.create(gib=5)
    gate.release()
    assert len({call.result().volume.volume_id for call in calls}) == 1
    assert bench.faults().operations().count("create_volume") == 1


def test_equal_calls_join_in_whatever_order_their_parameters_come(bench):
    gate = bench.hold("create_volume")
    parameters = {"backend": bench.backend, "pool": "one"}
    capability = VolumeCapability(access_type=AccessType.MOUNT, mode=AccessMode.SINGLE_NODE_WRITER)
    calls = [
        bench.service.volumes.create(
            CreateVolume(name="data", capabilities=(capability,), parameters=given)
        )
        for given in (parameters, dict(reversed(parameters.items())))
    ]
    assert calls[0] is calls[1]
    gate.release()


def test_the_work_outlives_the_callers_deadline_and_the_retry_joins_it(bench):
    gate = bench.hold("create_volume")
    call = bench.stub.CreateVolume.future(bench.create_request())
    gate.wait_until_entered()
    call.cancel()
    retry = bench.stub.CreateVolume.future(bench.create_request(), timeout=WAIT)
    with Refused(Code.ABORTED, "at step 'backend create'"):
        bench.delete(bench.context.identify("volume", "data")[0])
    gate.release()
    assert retry.result().volume.volume_id
    assert bench.faults().operations().count("create_volume") == 1


def test_a_busy_object_says_what_runs_since_when_and_where(bench):
    gate = bench.hold("create_volume")
    call = bench.stub.CreateVolume.future(bench.create_request(), timeout=WAIT)
    gate.wait_until_entered()
    refused = Refused(Code.ABORTED, "CreateVolume runs since 20")
    with refused:
        bench.create(gib=7)
    assert "in process" in refused.message
    assert "at step 'backend create'" in refused.message
    gate.release()
    call.result()


def test_sixteen_volumes_are_made_at_once(bench, monkeypatch):
    all_in = threading.Barrier(16)
    driver = bench.managers[0].driver
    real = driver.create_volume

    def create_volume(volume):
        all_in.wait(WAIT)
        return real(volume)

    monkeypatch.setattr(driver, "create_volume", create_volume)
    calls = [
        bench.stub.CreateVolume.future(bench.create_request(f"data-{n}"), timeout=WAIT)
        for n in range(16)
    ]
    assert len({call.result().volume.volume_id for call in calls}) == 16


def test_identity_and_reading_never_wait_for_a_stuck_backend(bench):
    gate = bench.hold("create_volume")
    calls = [
        bench.stub.CreateVolume.future(bench.create_request(f"data-{n}"), timeout=WAIT)
        for n in range(40)
    ]
    gate.wait_until_entered()
    assert bench.identity.Probe(pb.ProbeRequest(), timeout=WAIT).ready.value
    bench.identity.GetPluginCapabilities(pb.GetPluginCapabilitiesRequest(), timeout=WAIT)
    bench.stub.ControllerGetCapabilities(pb.ControllerGetCapabilitiesRequest(), timeout=WAIT)
    assert list(bench.volumes()) == []
    assert not any(call.done() for call in calls)
    gate.release()
    assert all(call.result() for call in calls)


# -- failures -------------------------------------------------------------------


def only_creating(bench: ControllerBench) -> VolumeRecord:
    (record,) = bench.store.list(VolumeRecord)
    assert record.phase is Phase.CREATING
    return record


def test_a_failure_before_any_effect_is_final_and_leaves_no_record(bench):
    bench.faults().fail("create_volume", NotImplementedError("no thin volumes"))
    with Refused(Code.INVALID_ARGUMENT, "no thin volumes"):
        bench.create()
    assert bench.store.list(VolumeRecord) == []
    assert "delete_volume" not in bench.faults().operations()


def test_a_failure_after_the_effect_is_undone_and_then_final(bench):
    bench.faults().fail("create_volume", VendorError("lost the session"), "after")
    with Refused(Code.INTERNAL, "lost the session"):
        bench.create()
    assert bench.on_backend() == set()
    assert bench.store.list(VolumeRecord) == []
    assert bench.create().volume_id


def test_what_could_not_be_undone_is_a_suspect_that_the_retry_removes_first(bench):
    bench.faults().fail("create_volume", VendorError("lost the session"), "after")
    bench.faults().fail("delete_volume", VendorError("still no session"))
    with Refused(Code.ABORTED, "lost the session"):
        bench.create()
    left = only_creating(bench)
    assert left.operation is not None
    assert left.operation.last_error == "lost the session"
    assert bench.on_backend() == {f"volume-{left.cinder_id}"}
    volume = bench.create()
    assert volume.volume_id == left.id
    assert bench.record(left.id).cinder_id != left.cinder_id
    assert bench.on_backend() == {volume_name(bench, left.id)}


def test_nothing_new_is_made_while_a_suspect_is_not_proved_absent(bench):
    bench.faults().fail("create_volume", VendorError("first"), "after")
    for _ in range(3):
        bench.faults().fail("delete_volume", VendorError("still no session"))
    for _ in range(3):
        with Refused(Code.ABORTED, "still no session"):
            bench.create()
    assert bench.faults().operations().count("create_volume") == 1
    assert bench.create().volume_id
    assert len(bench.on_backend()) == 1


def test_a_suspect_is_removed_when_the_volume_is_deleted(bench):
    bench.faults().fail("create_volume", VendorError("first"), "after")
    bench.faults().fail("delete_volume", VendorError("second"))
    with Refused(Code.ABORTED):
        bench.create()
    bench.faults().fail("create_volume", VendorError("third"), "after")
    bench.faults().fail("delete_volume", VendorError("fourth"))
    with Refused(Code.ABORTED):
        bench.create()
    bench.delete(only_creating(bench).id)
    assert bench.on_backend() == set()
    assert bench.store.list(VolumeRecord) == []


@pytest.mark.parametrize(
    "error",
    [VendorError("<xml>\n  failed\n</xml>"), KeyError("id"), SystemExit("bye"), StopIteration()],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("undo_fails", [False, True])
def test_whatever_a_vendors_code_raises_is_one_clear_line(bench, error, undo_fails):
    bench.faults().fail("create_volume", error, "after")
    if undo_fails:
        bench.faults().fail("delete_volume", VendorError("no"))
    refused = Refused(Code.ABORTED if undo_fails else Code.INTERNAL, "Creating 'data' on")
    with refused:
        bench.create()
    assert "\n" not in refused.message
    assert "Traceback" not in refused.message
    assert "Unexpected" not in refused.message


@pytest.mark.parametrize(
    "error", [NotProvided("no such function"), StoreUnavailable("the disk is full")]
)
def test_what_fails_around_the_driver_is_undone_like_a_failure_of_the_driver(bench, error):
    """The stand-in of the database is asked, and the store saves, in the middle of the work."""
    bench.faults().fail("create_volume", error, "after")
    with Refused(Code.INTERNAL, error.message):
        bench.create()
    assert bench.on_backend() == set()
    assert bench.store.list(VolumeRecord) == []


def test_a_copy_that_cannot_be_grown_is_removed(tmp_path):
    """ "Not implemented" is no proof that nothing was done when an earlier call was."""
    with ControllerBench(tmp_path, options={"double_grows_copies": False}) as bench:
        source = bench.create("source")
        before = bench.on_backend()
        bench.faults().fail("extend_volume", NotImplementedError("cannot grow"))
        with Refused(Code.INVALID_ARGUMENT, "cannot grow"):
            bench.create("copy", gib=2, volume_content_source=from_volume(source.volume_id))
        assert bench.on_backend() == before


def test_a_backend_that_is_full_says_so_with_a_code_that_asks_for_another_node(bench):
    bench.faults().fail("create_volume", OSError(28, "No space left on device"))
    with Refused(Code.RESOURCE_EXHAUSTED, "No space left"):
        bench.create()


def test_what_is_beyond_the_backend_is_refused_before_anything_is_done(bench):
    with Refused(Code.OUT_OF_RANGE, "largest volume has 1000 GiB"):
        bench.create(gib=1001)
    assert bench.store.list(VolumeRecord) == []
    assert "create_volume" not in bench.faults().operations()


# -- the same name, another wish ------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"gib": 5}, "size"),
        ({"volume_capabilities": [block()]}, "capabilities"),
        ({"volume_capabilities": [mount(fs_type="xfs")]}, "capabilities"),
        ({"parameters": {"pool": "one"}}, "parameters"),
    ],
)
def test_a_name_that_is_taken_by_something_else_already_exists(bench, changes, named):
    bench.create("data")
    with Refused(Code.ALREADY_EXISTS, named):
        bench.create("data", **changes)


def test_a_name_that_is_taken_by_a_volume_of_another_source_already_exists(bench):
    source = bench.create("source")
    bench.create("data")
    with Refused(Code.ALREADY_EXISTS, "source"):
        bench.create("data", volume_content_source=from_volume(source.volume_id))


def test_a_half_made_volume_holds_its_name_too(bench):
    bench.faults().fail("create_volume", VendorError("first"), "after")
    bench.faults().fail("delete_volume", VendorError("second"))
    with Refused(Code.ABORTED):
        bench.create("data")
    with Refused(Code.ALREADY_EXISTS, "size"):
        bench.create("data", gib=5)


# -- what kubernetes says -------------------------------------------------------


def test_the_names_of_the_claim_reach_the_record_and_the_backend(bench):
    names = {
        "csi.storage.k8s.io/pvc/name": "db",
        "csi.storage.k8s.io/pvc/namespace": "shop",
        "csi.storage.k8s.io/pv/name": "pvc-1",
    }
    record = bench.record(bench.create(parameters=names).volume_id)
    assert record.description == "PVC shop/db, PV pvc-1"
    assert record.metadata == names | {"made-by": "double"}
    assert bench.create(parameters={}).volume_id == record.id


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"backnd": "x"}, "Did you mean 'backend'?"),
        ({"backend": "nowhere"}, "There is no backend 'nowhere'. Backends: bench"),
        ({"pool": "two"}, "has no pool 'two'. Pools: one"),
    ],
)
def test_a_wrong_parameter_is_answered_with_the_right_ones(bench, parameters, told):
    with Refused(Code.INVALID_ARGUMENT, told):
        bench.create(parameters=parameters)
    assert bench.store.list(VolumeRecord) == []
