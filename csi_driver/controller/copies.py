"""What a copy of a volume holds: may a filesystem ever be made on it?

Called by ``volumes`` and ``snapshots`` before and after the driver call that makes the cut.
A volume that was never formatted may be attached, and a node may make its filesystem while
the copy is made.  A node has the ledger store that before anybody gets the volume
(:mod:`csi_driver.node.stage`), so the ledger is asked again when the cut is made: what it
does not know of then was nobody's data at the cut, and the copy may be formatted like a new
volume.  A copy of a volume that becomes formatted during the call may hold anything: it is
made anew, and at most once, because no volume ceases to be formatted.
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
    """The volume that is to be copied, before the driver is called.

    ``formatting``: with what nodes had proved by then.  ``attached``: to any node.
    """

    volume_id: str
    formatting: Formatting
    attached: bool


def before_cut(context: ControllerContext, volume: VolumeRecord) -> CutSource:
    """What is known of a volume right before a copy of it is made.

    :param volume: its record, with what nodes proved about it.
    """
    return CutSource(volume.id, volume.formatting, _is_attached(context, volume.id))


def after_cut(context: ControllerContext, copy: M, source: CutSource) -> M:
    """The record of a copy that the driver has made, with what is on it.

    :raises SourceFormatted: that is not known.
    :raises LedgerUnavailable: what nodes confirmed cannot be read.
    """
    return msgspec.structs.replace(copy, formatting=_formatting(context, copy, source))


def _formatting(
    context: ControllerContext, copy: VolumeRecord | SnapshotRecord, source: CutSource
) -> Formatting:
    if source.formatting.state is not FormattingState.NEVER:
        return source.formatting
    attached = source.attached or _is_attached(context, source.volume_id)
    # In this order: an unpublish takes a node's word over before that ceases to count.
    confirmed = context.nodes.confirmation(source.volume_id) is not None
    recorded = context.volume(source.volume_id).formatting
    if confirmed or recorded.state is not FormattingState.NEVER:
        raise errors.SourceFormatted(
            f"Volume {source.volume_id} was put to use while {copy.name!r} was made of it"
        )
    inherited = source.formatting.fs_uuid != new_formatting(source.volume_id).fs_uuid
    if attached or inherited or isinstance(copy, SnapshotRecord):
        # A filesystem that was not finished at the cut may be in it: it has this UUID.
        return source.formatting
    # Of its own, so that nothing found there is ever taken for its unfinished filesystem.
    return new_formatting(copy.id)


def new_formatting(volume_id: str) -> Formatting:
    """That of a volume which holds nothing, with the UUID that its filesystem is to get."""
    return Formatting(fs_uuid=ids.filesystem_uuid(volume_id))


def _is_attached(context: ControllerContext, volume_id: str) -> bool:
    return bool(context.connections(volume_id))
