"""Revert: a volume gets the content of its youngest snapshot again.

Called by :meth:`Volume.revert`; source: Cinder's ``VolumeManager.revert_to_snapshot`` and
``_revert_to_snapshot_generic``.  As there, a driver whose
``snapshot_revert_use_temp_snapshot`` says so gets a snapshot of the present content made
first, which is deleted after success and stays, recorded, after a failure.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from csi_driver.attach import transfer
from csi_driver.base.values import GIB
from csi_driver.cinderlib.entity import LOG
from csi_driver.cinderlib.exceptions import InvalidVolume, OperationNotSupported
from csi_driver.cinderlib.failures import message_of
from csi_driver.cinderlib.persistence.records import Phase, VolumeRecord

if TYPE_CHECKING:
    from csi_driver.cinderlib.snapshot import Snapshot
    from csi_driver.cinderlib.volume import Volume

_ADVICE = "Make a new volume from the snapshot"

BACKUP = "[revert] content of {volume} before it was reverted"
"""Name of the snapshot that keeps what a revert discards, while it runs."""

COPY = "[revert] content of snapshot {snapshot}"
"""Name of the volume that a copying revert reads from, while it runs."""


def revert(volume: Volume, snapshot: Snapshot) -> None:
    """See :meth:`VolumeOperations.revert`; the caller holds the volume's lock."""
    volume._reread()
    snapshot._refresh_available()
    _check(volume, snapshot)
    backup = None
    if volume._record.phase is Phase.AVAILABLE:
        # Not of a half-reverted volume: its content is nobody's.
        backup = _backup(volume)
    try:
        reverted = _by_driver_or_copy(volume, snapshot)
    except Exception:
        if backup is not None and volume._record.phase is Phase.AVAILABLE:
            _forget(backup)
        elif backup is not None:
            LOG.warning("What %r held before its revert is in the snapshot %s", volume, backup.id)
        raise
    cut = snapshot._record
    volume._finish(
        msgspec.structs.replace(reverted, formatting=cut.formatting, encryption=cut.encryption)
    )
    if backup is not None:
        _forget(backup)


def _check(volume: Volume, snapshot: Snapshot) -> None:
    if snapshot.volume_id != volume.id:
        raise InvalidVolume(f"{snapshot!r} is not a snapshot of {volume!r}")
    if volume._record.phase not in (Phase.AVAILABLE, Phase.REVERTING):
        raise InvalidVolume(f"{volume!r} is {volume._record.phase.value}, not available")
    if volume._connection_records():
        raise InvalidVolume(f"{volume!r} is connected", advice="Disconnect it first")
    if volume.size != snapshot.volume_size:
        raise InvalidVolume(
            f"{volume!r} has {volume.size} GiB, {snapshot!r} {snapshot.volume_size} GiB",
            advice=_ADVICE,
        )
    ours = BACKUP.format(volume=volume.id)
    younger = [
        other.id
        for other in volume._read_snapshots()
        if other.created_at > snapshot.created_at and other.name != ours
    ]
    if younger:
        raise InvalidVolume(
            f"{volume!r} has younger snapshots: {', '.join(younger)}",
            advice=f"Delete them first, or: {_ADVICE[0].lower()}{_ADVICE[1:]}",
        )


def _backup(volume: Volume) -> Snapshot | None:
    if not volume._manager.driver.snapshot_revert_use_temp_snapshot():
        return None
    return volume.create_snapshot(
        BACKUP.format(volume=volume.id),
        "Deleted when the revert has ended well; else a volume from it has the old content",
    )


def _forget(helper: Snapshot | Volume) -> None:
    try:
        helper.delete()
    except Exception as error:
        # The revert itself has ended; what is left is recorded, and named.
        LOG.warning("Deleting %r, of no use any more: %s", helper, message_of(error))


def _by_driver_or_copy(volume: Volume, snapshot: Snapshot) -> VolumeRecord:
    before, chosen = volume._record.phase, snapshot.id
    try:
        with volume._operation(
            "revert", Phase.REVERTING, Phase.REVERTING, before, snapshot_id=chosen
        ):
            return volume._manager.revert_to_snapshot(volume._record, snapshot._record)
    except OperationNotSupported:
        LOG.info("The driver of %r cannot revert; copying through this host", volume)
    volume._usable = (Phase.AVAILABLE, Phase.REVERTING)
    with contextlib.ExitStack() as undo:
        # What fails in here has changed nothing on the volume.
        with volume._operation("revert", before, before, snapshot_id=chosen):
            copy = snapshot.create_volume(name=COPY.format(snapshot=snapshot.id))
            undo.callback(_forget, copy)
            source = undo.enter_context(_attached(copy))
            target = undo.enter_context(_attached(volume))
        with volume._operation("revert", Phase.REVERTING, Phase.REVERTING, snapshot_id=chosen):
            transfer.copy_device(source, target, volume.size * GIB)
    volume._reread()
    return volume._record


@contextlib.contextmanager
def _attached(volume: Volume) -> Iterator[str]:
    """The volume's device on this host.

    :raises OperationNotSupported: it cannot be attached here.
    """
    try:
        path = volume.attach(raw=True).path
    except Exception as error:
        raise OperationNotSupported(
            f"The driver cannot revert {volume!r}, and this host cannot attach it to copy:"
            f" {message_of(error)}",
            advice=_ADVICE,
        ) from error
    try:
        yield str(path)
    finally:
        volume.detach()
