"""What records of an earlier time may still say, when they are used again.

Used by ``cinder-csi records``; pure.  Between a backup and its restoration volumes were
used.  Two things that a record says are dangerous then, because something is destroyed on
their word:

- "never formatted" allows mkfs, also over a filesystem of ours that does not check out.  A
  restored volume of which that is said is *unknown* from then on: a filesystem that is there
  is used, and none is made.
- An operation in progress is finished by the repair loop: a creation is removed, a revert
  done again, an attachment undone.  What was in progress then was finished since, and may be
  in use.  So restored records keep their phase and lose the operation: the caller's retry, if
  one comes, proves that nobody uses what it began, and goes on from there.  Calls that were
  reckoned with then have ended; only what attempts may have left is removed still, for an
  attempt of which that is said is never adopted.

Records that only move, with nothing at work in between, are taken over as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from csi_driver.base.values import Confirmation, FormattingState
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    LateAttemptRecord,
    Phase,
    Record,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.controller.operations import Recovery, is_making, recovery_of

R = TypeVar("R", bound=Record)


def confirmed(volume: VolumeRecord, confirmation: Confirmation | None) -> VolumeRecord:
    """The volume with what nodes proved about it, if they did."""
    if confirmation is None:
        return volume
    return msgspec.structs.replace(
        volume,
        formatting=confirmation.formatting,
        identity=confirmation.identity or volume.identity,
    )


def restored(record: R) -> R | None:
    """A record of a backup as it may be used from now on; None: not at all."""
    if isinstance(record, LateAttemptRecord) and not is_making(record.call):
        return None
    if is_in_progress(record):
        record = msgspec.structs.replace(record, operation=None)
    if isinstance(record, VolumeRecord) and _may_be_formatted_by_now(record):
        unknown = msgspec.structs.replace(record.formatting, state=FormattingState.UNKNOWN)
        record = msgspec.structs.replace(record, formatting=unknown)
    return record


def _may_be_formatted_by_now(volume: VolumeRecord) -> bool:
    # What is begun anew is another volume on the backend, and a new one.
    begun = volume.phase is Phase.CREATING
    return not begun and volume.formatting.state is FormattingState.NEVER


def is_in_progress(record: Record) -> bool:
    """Whether a controller that finds the record would go on with an operation by itself."""
    return (
        isinstance(record, VolumeRecord | SnapshotRecord | ConnectionRecord)
        and record.operation is not None
        and recovery_of(record) is not Recovery.FINAL
    )


def confirmations(records: Sequence[Record]) -> list[tuple[Confirmation, str]]:
    """What the ledger has to say about volumes, so that no older word counts; and who says so.

    Nodes hold publish_contexts that may allow mkfs, sealed before their volume was formatted:
    of volumes that are published, and of those that were since the records are of.  A node
    asks the ledger first.
    """
    nodes: dict[str, str] = {}
    for each in records:
        if isinstance(each, ConnectionRecord):
            nodes.setdefault(each.volume_id, each.node_id)
    return [
        (
            Confirmation(volume_id=each.id, formatting=each.formatting, identity=each.identity),
            nodes.get(each.id, ""),
        )
        for each in records
        if isinstance(each, VolumeRecord) and _needs_word(each, each.id in nodes)
    ]


def is_weaker(there: Confirmation | None) -> bool:
    """Whether what the ledger says already may be replaced: a proof never is."""
    return there is None or there.formatting.state in (
        FormattingState.NEVER,
        FormattingState.UNKNOWN,
    )


def _needs_word(volume: VolumeRecord, published: bool) -> bool:
    state = volume.formatting.state
    return state is FormattingState.UNKNOWN or (published and state is not FormattingState.NEVER)
