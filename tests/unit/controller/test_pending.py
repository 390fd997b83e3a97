"""What is unfinished is told in words, also when its process is dead."""

from __future__ import annotations

import logging

import msgspec
import pytest

from csi_driver.base.values import GIB
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    Operation,
    OrphanRecord,
    Phase,
    Record,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.controller.context import OWNER
from csi_driver.controller.pending import busy, describe, report
from tests.doubles.faults import VendorError
from tests.support.controller_bench import Code, ControllerBench, Refused
from tests.support.messages import from_volume

GONE = "host-a/17"


def operation(kind: str = "create", **fields) -> Operation:
    given = {"step": "backend", "since": 1_000_000_000.0, "owner": GONE}
    return Operation(kind=kind, **given | fields)


def volume(record_id: str = "v1", **fields) -> VolumeRecord:
    given = {
        "name": "data",
        "backend": "array",
        "phase": Phase.AVAILABLE,
        "size_gib": 1,
        "cinder_id": f"cinder-{record_id}",
        "created_at": 0.0,
    }
    return VolumeRecord(id=record_id, **given | fields)


def orphan(cinder_id: str = "c1") -> OrphanRecord:
    return OrphanRecord(
        id=cinder_id,
        kind="volume",
        backend="array",
        name="data",
        csi_id="v1",
        since=1_000_000_000.0,
        reason="silence",
    )


def test_an_operation_tells_what_runs_since_when_where_at_which_step():
    assert describe(operation(attempts=2)) == (
        "create since 2001-09-09T01:46:40Z in process host-a/17, at step 'backend', attempt 2"
    )
    assert describe(operation(last_error="no route")).endswith("last error: no route")


def test_a_busy_object_names_itself_and_its_operation():
    error = busy(volume(phase=Phase.DELETING, operation=operation("delete")))
    assert error.message.startswith("Volume v1 is being deleted: delete since")
    assert error.advice == "Retry; an equal call joins the running operation"
    assert busy(volume(phase=Phase.ERROR), advice="Look").message == "Volume v1 is error"


def test_what_is_finished_is_not_reported():
    found = report([volume()], [], [], [])
    assert (found.orphans, found.suspects, found.pending) == ([], [], [])


def test_suspects_are_told_until_they_are_orphans():
    creating = volume(phase=Phase.CREATING, cinder_id="c2", suspects=("c1",), operation=operation())
    assert [s.cinder_id for s in report([creating], [], [], []).suspects] == ["c1", "c2"]
    found = report([creating], [], [], [orphan("c1")])
    assert [s.cinder_id for s in found.suspects] == ["c2"]
    assert [o.cinder_id for o in found.orphans] == ["c1"]
    assert found.orphans[0].why == "silence"
    assert "cinder-csi orphans --forget c1" in found.orphans[0].what_to_do


@pytest.mark.parametrize(
    ("kind", "last_error", "told"),
    [
        ("create", "", "Nothing while process host-a/17 runs; after its end a controller removes"),
        ("delete", "no route", "Mend what the last error names; the controller does it again"),
        ("publish", "no route", "undoes it by itself, next at 2001-09-09T01:46:48Z"),
        ("teleport", "", "Run the release that began it"),
    ],
)
def test_every_pending_operation_tells_what_to_do(kind, last_error, told):
    pending = volume(operation=operation(kind, last_error=last_error, attempts=3))
    [entry] = report([pending], [], [], []).pending
    assert told in entry.what_to_do
    assert (entry.operation, entry.owner, entry.attempts) == (kind, GONE, 3)
    assert entry.last_error == last_error


def test_the_oldest_comes_first():
    old, new = (
        volume(name, operation=operation("delete", since=since))
        for name, since in (("old", 1.0), ("new", 2.0))
    )
    assert [entry.id for entry in report([new, old], [], [], []).pending] == ["old", "new"]


def test_snapshots_and_connections_are_told_too():
    shared = {"volume_id": "v1", "backend": "array", "cinder_id": "c", "created_at": 0.0}
    records: list[Record] = [
        SnapshotRecord(
            id="s1",
            name="cut",
            phase=Phase.CREATING,
            size_gib=1,
            operation=operation("snapshot"),
            **shared,
        ),
        ConnectionRecord(
            id="v1/n1", phase=Phase.DETACHING, operation=operation("unpublish"), **shared
        ),
    ]
    found = report([], records[:1], records[1:], [])
    assert [(entry.kind, entry.id) for entry in found.pending] == [
        ("snapshot", "s1"),
        ("connection", "v1/n1"),
    ]
    assert [suspect.kind for suspect in found.suspects] == ["snapshot"]
    assert msgspec.json.decode(msgspec.json.encode(found))["pending"][0]["name"] == "cut"


def left(bench: ControllerBench, kind: type, record_id: str, phase: Phase, kind_of: str) -> None:
    """Let a record look as a dead process left it."""
    record = bench.store.get(kind, record_id)
    assert record is not None
    bench.store.put(msgspec.structs.replace(record, phase=phase, operation=operation(kind_of)))


def test_a_volume_that_a_dead_process_deletes_says_so_to_every_call(bench):
    volume_id = bench.create().volume_id
    left(bench, VolumeRecord, volume_id, Phase.DELETING, "delete")
    told = "delete since 2001-09-09T01:46:40Z in process host-a/17, at step 'backend'"
    calls = [
        bench.create,
        lambda: bench.publish(volume_id),
        lambda: bench.snapshot(volume_id),
        lambda: bench.expand(volume_id, 2 * GIB),
        lambda: bench.create("copy", volume_content_source=from_volume(volume_id)),
    ]
    for call in calls:
        with Refused(Code.ABORTED, told):
            call()


def test_a_snapshot_that_a_dead_process_deletes_says_so(bench):
    volume_id = bench.create().volume_id
    cut = bench.snapshot(volume_id).snapshot_id
    left(bench, SnapshotRecord, cut, Phase.DELETING, "delete-snapshot")
    with Refused(Code.ABORTED, "delete-snapshot since 2001-09-09T01:46:40Z in process host-a"):
        bench.snapshot(volume_id)


def test_an_unknown_outcome_says_which_attempt_it_was(bench):
    bench.faults().fail("create_volume", VendorError("lost"), "after")
    bench.faults().fail("delete_volume", VendorError("still lost"))
    with Refused(Code.ABORTED, "still lost (create since ") as refused:
        bench.create()
    assert f"in process {OWNER}, at step 'backend', attempt 1)" in refused.message


def test_what_cannot_be_repaired_says_why_in_its_record_and_once_in_the_log(bench, caplog):
    volume_id = bench.create().volume_id
    record = bench.record(volume_id)
    gone = msgspec.structs.replace(
        record, backend="retired", phase=Phase.DELETING, operation=operation("delete")
    )
    bench.store.put(gone)
    with caplog.at_level(logging.WARNING, "csi_driver.controller"):
        bench.service.repair.round(float("inf"))
        bench.service.repair.round(float("inf"))
    assert caplog.text.count("cannot be repaired") == 1
    [entry] = report([bench.record(volume_id)], [], [], []).pending
    assert "'retired' is not configured" in entry.last_error
    assert "Configure it again" in entry.last_error
