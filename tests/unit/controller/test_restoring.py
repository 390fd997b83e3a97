"""Records of a backup may not destroy what was made of them since."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from csi_driver.base.values import Confirmation, Formatting, FormattingState
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    KeyValueRecord,
    LateAttemptRecord,
    Operation,
    Phase,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.controller.operations import OPERATIONS, Recovery, recovery_of
from csi_driver.controller.restoring import confirmations, confirmed, is_weaker, restored
from csi_driver.node.filesystem_rules import Probed, decide

UUID = "7c7f2a55-8a0c-4b5f-9a53-0c7b6a3d6f10"
NEVER = Formatting(fs_uuid=UUID)
FORMATTED = Formatting(state=FormattingState.FORMATTED, fs_type="xfs", fs_uuid=UUID)
RAW = Formatting(state=FormattingState.RAW)
UNKNOWN = Formatting(state=FormattingState.UNKNOWN, fs_uuid=UUID)

COMMON: dict[str, Any] = {"backend": "b", "cinder_id": "c", "created_at": 0.5}


def volume(record_id: str = "v", **fields: Any) -> VolumeRecord:
    defaults: dict[str, Any] = {"name": "n", "size_gib": 1, "phase": Phase.AVAILABLE, **COMMON}
    return VolumeRecord(id=record_id, **defaults | fields)


def connection(node_id: str = "n1", **fields: Any) -> ConnectionRecord:
    defaults: dict[str, Any] = {"volume_id": "v", "phase": Phase.ATTACHED, **COMMON}
    return ConnectionRecord(id=f"v/{node_id}", node_id=node_id, **defaults | fields)


def snapshot(**fields: Any) -> SnapshotRecord:
    defaults: dict[str, Any] = {"name": "n", "size_gib": 1, "phase": Phase.AVAILABLE, **COMMON}
    return SnapshotRecord(id="s", volume_id="v", **defaults | fields)


def test_our_filesystem_on_a_restored_volume_is_used_and_never_made_again() -> None:
    ours = Probed(fs_type="xfs", uuid=UUID)
    # As the backup says it, one that does not check out would be made again.
    assert decide(NEVER, "xfs", ours).remake_if_damaged
    after = restored(volume(formatting=NEVER)).formatting
    decision = decide(after, "xfs", ours)
    assert decision.action == "use"
    assert not decision.remake_if_damaged


@pytest.mark.parametrize("formatting", [FORMATTED, RAW, UNKNOWN])
def test_other_formatting_stays(formatting: Formatting) -> None:
    record = volume(formatting=formatting)
    assert restored(record) == record


def test_a_volume_that_was_being_created_may_be_formatted_once_it_is_made() -> None:
    assert restored(volume(formatting=NEVER, phase=Phase.CREATING)).formatting == NEVER


def test_a_snapshot_s_formatting_is_of_its_cut_and_stays() -> None:
    assert restored(snapshot(formatting=NEVER)).formatting == NEVER


@pytest.mark.parametrize("kind", OPERATIONS)
@pytest.mark.parametrize("make", [volume, snapshot, connection])
def test_no_controller_goes_on_by_itself_with_what_was_in_progress(
    kind: str, make: Callable[..., Any]
) -> None:
    for step in OPERATIONS[kind]:
        operation = Operation(kind=kind, step=step.name, since=1.0, owner="h/1")
        record = make(operation=operation, phase=Phase.CREATING)
        after = restored(record)
        assert recovery_of(after) is Recovery.FINAL
        assert after.phase is Phase.CREATING
        assert after.cinder_id == record.cinder_id


@pytest.mark.parametrize(
    ("call", "stays"),
    [("create", True), ("clone", True), ("restore", True), ("snapshot", True)]
    + [(call, False) for call in ("publish", "unpublish", "extend", "revert", "delete", "later")],
)
def test_calls_that_have_ended_are_not_reckoned_with(call: str, stays: bool) -> None:
    """What was published since may not be taken away; what attempts left goes still."""
    late = LateAttemptRecord(
        id="c",
        kind="connection" if "publish" in call else "volume",
        call=call,
        backend="b",
        name="n",
        csi_id="v",
        owner="h/1",
        since=1.0,
        look_at=2.0,
    )
    assert restored(late) == (late if stays else None)


def test_an_operation_that_no_controller_goes_on_with_stays() -> None:
    record = volume(operation=Operation(kind="retype", step="s", since=1.0, owner="h/1"))
    assert restored(record).operation == record.operation
    other = KeyValueRecord(id="k", value=1)
    assert restored(other) is other


def test_what_nodes_proved_goes_into_the_record() -> None:
    told = Confirmation(volume_id="v", formatting=FORMATTED, identity="wwn")
    after = confirmed(volume(formatting=NEVER), told)
    assert (after.formatting, after.identity) == (FORMATTED, "wwn")
    without = Confirmation(volume_id="v", formatting=RAW)
    assert confirmed(volume(identity="known"), without).identity == "known"
    assert confirmed(volume(), None) == volume()


def test_the_ledger_gets_a_word_on_published_and_on_restored_volumes_only() -> None:
    published = volume(formatting=FORMATTED, identity="wwn")
    unpublished = volume("unpublished", formatting=FORMATTED)
    unknown = volume("unknown", formatting=UNKNOWN)
    new = volume("new", formatting=NEVER)
    records = [published, unpublished, unknown, new, connection("n2"), connection("n1")]
    assert confirmations(records) == [
        (Confirmation(volume_id="v", formatting=FORMATTED, identity="wwn"), "n2"),
        (Confirmation(volume_id="unknown", formatting=UNKNOWN), ""),
    ]
    # A published volume that was never formatted stays so when records only move.
    assert confirmations([volume(formatting=NEVER), connection()]) == []


def test_a_proof_in_the_ledger_is_not_replaced() -> None:
    for formatting, weaker in ((NEVER, True), (UNKNOWN, True), (FORMATTED, False), (RAW, False)):
        assert is_weaker(Confirmation(volume_id="v", formatting=formatting)) is weaker
    assert is_weaker(None)
