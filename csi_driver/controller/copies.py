"""What a copy of a volume holds: may a filesystem ever be made on it?

Called by ``volumes`` and ``snapshots`` before and after the driver call that makes the cut.
A volume that was never formatted may be attached, and a node may make its filesystem while
the copy is made.  A node has the ledger store that before anybody gets the volume
(:mod:`csi_driver.node.stage`), so the ledger is asked again when the cut is made: what it
does not know of then was nobody's data at the cut, and the copy may be formatted like its
source.  A copy of a volume that becomes formatted during the call may hold anything: it is
made anew, and at most once, because no volume ceases to be formatted.

A copy keeps the UUID of its source: a filesystem with it that no stage confirmed, of an
attach that goes on or of one that failed, may be in it.

That nobody's data is there takes a ledger without any word about the source.  A node may have
lost the volume while it staged it.  What it says then counts no more, but the next node goes
by it, and so may Pods of both.  What a copy of such a volume holds is not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import msgspec

from csi_driver.base.values import Formatting, FormattingState
from csi_driver.cinderlib.persistence.records import SnapshotRecord, VolumeRecord
from csi_driver.controller import errors, ids
from csi_driver.controller.context import ControllerContext

M = TypeVar("M", VolumeRecord, SnapshotRecord)


@dataclass(frozen=True)
class CutSource:
    """The volume that is to be copied, with what nodes proved about it, and what is on it."""

    volume: VolumeRecord
    formatting: Formatting


def before_cut(context: ControllerContext, volume: VolumeRecord) -> CutSource:
    """What is known of a volume before a copy of it is made.

    :raises LedgerUnavailable: what nodes said cannot be read.
    """
    if _is_never(volume) and not context.nodes.has_word(volume.id):
        return CutSource(volume, volume.formatting)
    volume = context.with_confirmation(volume)
    if _is_never(volume):
        # The word counts no more.  An unpublish may have taken it over in this moment.
        volume = context.volume(volume.id)
    formatting = volume.formatting
    if _is_never(volume):
        formatting = msgspec.structs.replace(formatting, state=FormattingState.UNKNOWN)
    return CutSource(volume, formatting)


def after_cut(context: ControllerContext, copy: M, source: CutSource) -> M:
    """The record of a copy that the driver has made, with what is on it.

    :raises SourceFormatted: that is not known.
    :raises LedgerUnavailable: what nodes said cannot be read.
    """
    if source.formatting.state is FormattingState.NEVER:
        volume_id = source.volume.id
        if context.nodes.has_word(volume_id) or not _is_never(context.volume(volume_id)):
            raise errors.SourceFormatted(
                f"Volume {volume_id} was put to use while {copy.name!r} was made of it"
            )
    return msgspec.structs.replace(copy, formatting=source.formatting)


def new_formatting(volume_id: str) -> Formatting:
    """That of a volume which holds nothing, with the UUID that its filesystem is to get."""
    return Formatting(fs_uuid=ids.filesystem_uuid(volume_id))


def _is_never(volume: VolumeRecord) -> bool:
    return volume.formatting.state is FormattingState.NEVER
