"""Make a device ready to be mounted: its filesystem made, or checked, and grown.

Called by ``stage`` with an attached and proved device.  The decision whether a
filesystem may be made is :func:`csi_driver.node.filesystem_rules.decide`; here it
is carried out, with the ledger asked once more right before the one step that
destroys what was there.
"""

from __future__ import annotations

from collections.abc import Callable

from csi_driver.base.values import Formatting, FormattingState
from csi_driver.node import filesystems
from csi_driver.node.errors import FormattedMeanwhile
from csi_driver.node.filesystem_errors import FilesystemDamaged
from csi_driver.node.filesystems import Action, Decision


def filesystem(
    device: str,
    wanted_fs_type: str,
    granted: Formatting,
    readonly: bool,
    latest: Callable[[], Formatting],
    before_make: Callable[[], None],
) -> Decision:
    """The filesystem that is on the device now, ready to be mounted.

    :param granted: what the record says; never NEVER when ``readonly``.
    :param latest: reads what the record says at this moment; may raise LedgerUnavailable,
        and then nothing was written.
    :param before_make: called once it is certain that a filesystem will be made.
    :raises CinderCSIError: see ``decide``, ``make``, ``check`` and ``grow_offline``.
    :raises FormattedMeanwhile: another node made one since ``granted`` was read.
    """
    decision = filesystems.decide(granted, wanted_fs_type, filesystems.probe(device))
    if readonly:
        return decision
    if decision.action is Action.MAKE or not _checks_out(device, decision):
        if latest().state is not FormattingState.NEVER:
            raise FormattedMeanwhile(f"{device} was formatted by another node in this moment")
        before_make()
        filesystems.make(device, decision.fs_type, decision.uuid)
    filesystems.grow_offline(device, decision.fs_type)
    return decision


def _checks_out(device: str, decision: Decision) -> bool:
    """Whether the filesystem to use is in order; False only for one that may be made again."""
    try:
        filesystems.check(device, decision.fs_type)
    except FilesystemDamaged:
        if not decision.remake_if_damaged:
            raise
        return False
    return True
