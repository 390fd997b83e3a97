"""What a driver cannot prove absent is reported, and never stops or repeats what was asked."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from csi_driver.cinderlib.failures import Failure, FailureKind
from csi_driver.cinderlib.persistence.records import (
    Operation,
    OrphanRecord,
    Phase,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.cinderlib.runtime.removal import Proof, Removal
from csi_driver.controller.orphans import TRIES, Verdict, record, verdict
from tests.doubles.faults import VendorError
from tests.support.controller_bench import Code, ControllerBench, Refused

NOT_FOUND = Failure(FailureKind.NOT_FOUND, "no such volume", may_have_effect=True)
FAILED = Failure(FailureKind.UNCLASSIFIED, "it failed", may_have_effect=True)
AWAY = Failure(FailureKind.UNAVAILABLE, "no route", may_have_effect=True)


@pytest.fixture
def blind(tmp_path: Path) -> Iterator[ControllerBench]:
    """A controller whose driver finds only what has what its creation returned."""
    with ControllerBench(tmp_path, store="db", options={"double_by_provider": True}) as bench:
        yield bench


def begun(bench: ControllerBench, kind, record_id: str, operation: str) -> str:
    """Let a creation look as a killed process left it: made, but its answer lost; the Cinder id."""
    made = bench.store.get(kind, record_id)
    bench.store.put(
        msgspec.structs.replace(
            made,
            phase=Phase.CREATING,
            provider={},
            operation=Operation(kind=operation, step="backend", since=1.0, owner="gone/1"),
        )
    )
    return made.cinder_id


def orphans(bench: ControllerBench) -> list[OrphanRecord]:
    return bench.store.list(OrphanRecord)


@pytest.mark.parametrize(
    ("proof", "failure", "tries", "expected"),
    [
        (Proof.ANSWER, None, 1, Verdict.GONE),
        (Proof.ANSWER, NOT_FOUND, 1, Verdict.GONE),
        (Proof.ANSWER, FAILED, 100, Verdict.AGAIN),
        (Proof.SUCCESS, None, 1, Verdict.GONE),
        (Proof.SUCCESS, NOT_FOUND, 1, Verdict.GONE),
        (Proof.SUCCESS, FAILED, TRIES - 1, Verdict.AGAIN),
        (Proof.SUCCESS, FAILED, TRIES, Verdict.ORPHAN),
        (Proof.SUCCESS, AWAY, 100, Verdict.AGAIN),
        (Proof.NOTHING, None, 1, Verdict.ORPHAN),
        (Proof.NOTHING, NOT_FOUND, 1, Verdict.ORPHAN),
        (Proof.NOTHING, FAILED, TRIES - 1, Verdict.AGAIN),
        (Proof.NOTHING, FAILED, TRIES, Verdict.ORPHAN),
        (Proof.NOTHING, AWAY, 100, Verdict.AGAIN),
    ],
)
def test_what_an_answer_says_depends_on_what_it_proves(proof, failure, tries, expected):
    assert verdict(proof, failure, tries) is expected


def test_an_attempt_that_cannot_be_found_is_reported_and_the_creation_goes_on(blind, caplog):
    volume_id = blind.create().volume_id
    lost = begun(blind, VolumeRecord, volume_id, "create")
    with caplog.at_level(logging.WARNING, "csi_driver.controller"):
        assert blind.create().volume_id == volume_id
    now = blind.record(volume_id)
    assert (now.phase, now.suspects) == (Phase.AVAILABLE, ())
    [orphan] = orphans(blind)
    assert (orphan.id, orphan.kind, orphan.backend) == (lost, "volume", blind.backend)
    assert (orphan.name, orphan.csi_id) == ("data", volume_id)
    assert "'OK', which proves nothing" in orphan.reason
    assert ("delete_volume", lost) in blind.faults().calls, "a driver may find it after all"
    assert blind.on_backend() == {f"volume-{lost}", f"volume-{now.cinder_id}"}
    assert f"cinder-csi orphans --forget {lost}" in caplog.text


def test_an_unfinished_creation_that_nobody_repeats_is_given_up(blind):
    volume_id = blind.create().volume_id
    cut = blind.snapshot(volume_id)
    lost = begun(blind, SnapshotRecord, cut.snapshot_id, "snapshot")
    blind.restart()
    assert blind.store.list(SnapshotRecord) == []
    [orphan] = orphans(blind)
    assert (orphan.id, orphan.kind, orphan.csi_id) == (lost, "snapshot", cut.snapshot_id)


def test_deleting_what_was_never_finished_reports_it(blind):
    volume_id = blind.create().volume_id
    lost = begun(blind, VolumeRecord, volume_id, "create")
    blind.delete(volume_id)
    assert blind.store.list(VolumeRecord) == []
    assert [orphan.id for orphan in orphans(blind)] == [lost]


def test_a_creation_that_failed_ends_and_reports_what_it_may_have_left(blind):
    blind.faults().fail("create_volume", VendorError("lost"), "after")
    with Refused(Code.INTERNAL, "lost"):
        blind.create()
    assert blind.store.list(VolumeRecord) == []
    assert len(orphans(blind)) == 1
    assert blind.create().volume_id


def test_a_deletion_that_the_backend_cannot_do_now_is_no_orphan_yet(blind):
    blind.faults().fail("create_volume", VendorError("lost"), "after")
    blind.faults().fail("delete_volume", ConnectionError("no route"))
    with Refused(Code.ABORTED, "no route"):
        blind.create()
    assert orphans(blind) == []
    assert blind.create().volume_id
    assert len(orphans(blind)) == 1


def test_an_orphan_is_recorded_once(blind, caplog):
    lost = blind.record(blind.create().volume_id)
    proof = Removal(Proof.NOTHING, "it is blind")
    with caplog.at_level(logging.WARNING, "csi_driver.controller"):
        for now in (1.0, 2.0):
            record(blind.store, lost, proof, FAILED, now)
    assert [(orphan.id, orphan.since) for orphan in orphans(blind)] == [(lost.cinder_id, 1.0)]
    assert caplog.text.count("it failed") == 1


def test_a_finished_volume_is_found_by_what_its_creation_returned(blind):
    volume_id = blind.create().volume_id
    blind.delete_snapshot(blind.snapshot(volume_id).snapshot_id)
    blind.delete(volume_id)
    assert blind.on_backend() == set()
    assert orphans(blind) == []


def test_a_driver_that_proves_absence_leaves_no_orphan(bench):
    volume_id = bench.create().volume_id
    begun(bench, VolumeRecord, volume_id, "create")
    bench.create()
    assert orphans(bench) == []
    assert len(bench.on_backend()) == 1


def test_orphans_are_told_at_start(blind, caplog):
    volume_id = blind.create().volume_id
    begun(blind, VolumeRecord, volume_id, "create")
    blind.create()
    with caplog.at_level(logging.WARNING, "csi_driver.controller"):
        blind.service.start()
    assert f"1 orphans may be left on {blind.backend}" in caplog.text
