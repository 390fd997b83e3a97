"""NodeStageVolume: attach the volume, prove it, and mount its filesystem.

The order is what keeps data safe: state before effects, proofs before writing,
the ledger's word before the answer.  What fails is undone before the error goes
out, because the kubelet forgets a volume whose stage failed with a final code.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgspec

from csi_driver.attach import devices
from csi_driver.base.values import (
    AccessType,
    Confirmation,
    Formatting,
    FormattingState,
    PublishContext,
)
from csi_driver.node import filesystems, mounts, observe, prepare, rules, targets
from csi_driver.node.errors import (
    DeviceReadOnly,
    InvalidMountFlags,
    MountFailed,
    StageRollbackFailed,
    StaleMount,
    TargetUnusable,
    both,
    said,
)
from csi_driver.node.filesystem_errors import JournalNotReplayed
from csi_driver.node.operations import Progress
from csi_driver.node.parts import Parts, connection_for
from csi_driver.node.ports import LedgerUnavailable
from csi_driver.node.requests import StageRequest
from csi_driver.node.rules import Plan
from csi_driver.node.state import StagedVolume, Step
from csi_driver.node.unstage import undo

LOG = logging.getLogger(__name__)


def stage(parts: Parts, request: StageRequest, progress: Progress) -> None:
    """Bring the volume to the staging path; repeats are fine, leftovers are undone first.

    :raises StageRollbackFailed: undoing failed; the volume is still attached here.
    :raises CinderCSIError: everything else; nothing of this stage is left.
    """
    staged = parts.state.read(request.volume_id)
    if staged is not None and staged.step is not Step.STAGED:
        # Before anything can refuse this call with a final code: nobody might call again.
        _undo_remains(parts, staged, progress)
        staged = None
    rules.check_capability(request.capability)
    context = parts.open_context(request.volume_id, request.publish_context)
    readonly = rules.is_read_only(context.readonly, request.capability)
    seen = observe.at_staging(staged, request.staging_path)
    plan = rules.plan_stage(request, readonly, staged, seen, observe.live_targets(staged))
    if plan is Plan.NOTHING:
        return
    if plan is Plan.UNDO_FIRST and staged is not None:
        _undo_remains(parts, staged, progress)
    if request.capability.access_type is AccessType.MOUNT:
        _prepare_staging_path(request)
    earlier = _read_ledger(parts, context)
    attempt = _Attempt(parts, request, context, readonly, earlier, progress)
    try:
        attempt.run()
    except Exception as error:
        attempt.roll_back(error)
        raise


def _undo_remains(parts: Parts, staged: StagedVolume, progress: Progress) -> None:
    """Undo a stage that did not end, or whose device failed or went with a reboot.

    :raises StageRollbackFailed: it cannot be undone, or something else is mounted over it.
    """
    what = f"Volume {staged.volume_id} has remains of an earlier stage at step {staged.step}"
    LOG.warning("%s: undoing them", what)
    seen = observe.at_staging(staged, staged.staging_path)
    if seen.mount is not None and not seen.ours:
        raise StageRollbackFailed(f"{what}, and over them is {seen.mount}")
    try:
        undo(parts, staged, progress)
    except Exception as error:
        raise StageRollbackFailed(f"{what}: {said(error)}") from error


class _Attempt:
    """One stage from nothing; ``staged`` is what the state file says at each moment."""

    def __init__(
        self,
        parts: Parts,
        request: StageRequest,
        context: PublishContext,
        readonly: bool,
        earlier: Confirmation | None,
        progress: Progress,
    ) -> None:
        self._parts = parts
        self._context = context
        self._earlier = earlier
        self._progress = progress
        self.staged = StagedVolume(
            volume_id=request.volume_id,
            staging_path=request.staging_path,
            publish_context=dict(request.publish_context),
            capability=request.capability,
            readonly=readonly,
            step=Step.ATTACHING,
            boot_id=observe.boot_id(),
        )

    def run(self) -> None:
        """Every step in order; the state is written before each."""
        staged, context, earlier = self.staged, self._context, self._earlier
        granted = rules.formatting_of(context, earlier)
        self._record(Step.ATTACHING)
        device = self._parts.attacher.connect(connection_for(context, staged.readonly))
        self._record(
            Step.CHECKING,
            device=device.path,
            device_number=mounts.device_number(device.path),
            loop=device.loop,
            device_info=device.device_info,
            fingerprint=observe.fingerprint(device.path, device.loop),
        )
        identity = self._prove(device.path)
        if staged.capability.access_type is AccessType.BLOCK:
            proved = rules.given_out_raw(granted)
        else:
            proved = self._mount(granted)
        self._record(Step.CONFIRMING)
        confirmation = rules.new_confirmation(context, proved, identity, earlier)
        if confirmation is not None:
            self._progress.record("confirmed", self._parts.ledger.confirm, confirmation)
        self._record(Step.STAGED)

    def roll_back(self, error: Exception) -> None:
        """Undo what this attempt did.

        :raises StageRollbackFailed: that failed as well; the state file stays for a retry.
        """
        try:
            undo(self._parts, self.staged, self._progress)
        except Exception as second:
            raise StageRollbackFailed(both(error, second)) from error

    def _record(self, step: Step, **changes: Any) -> None:
        self.staged = msgspec.structs.replace(self.staged, step=step, **changes)
        self._progress.record(step, self._parts.state.write, self.staged)

    def _prove(self, device: str) -> str:
        """Size, identity and readability; nothing was written yet.  Answers the identity.

        :raises DeviceSizeMismatch, DeviceIdentityMismatch, DeviceReadError: one is not right.
        :raises DeviceReadOnly: it is to be written and does not allow it.
        """
        context, earlier = self._context, self._earlier
        rules.check_size(context, devices.size_bytes(device))
        told = devices.expected_identity(context.connection)
        names = devices.identities_of(device)
        rules.check_identity(context, earlier, told, names)
        if self.staged.capability.access_type is AccessType.BLOCK:
            devices.read_check(device)  # of a filesystem the probe reads the same
        if not self.staged.readonly and devices.is_read_only(device):
            raise DeviceReadOnly(f"{device} of volume {context.volume_id} is read-only")
        known = context.identity or (earlier.identity if earlier is not None else "")
        return known or next(iter(names), "")

    def _mount(self, granted: Formatting) -> Formatting:
        """Make or check the filesystem, mount it, grow it; answers what is on it now."""
        staged, device = self.staged, self.staged.device
        rules.check_grant(staged.volume_id, granted, staged.readonly)
        found = prepare.filesystem(
            device,
            staged.capability.fs_type,
            granted,
            staged.readonly,
            latest=self._latest_formatting,
            before_make=lambda: self._record(Step.FORMATTING),
        )
        self._record(Step.MOUNTING, fs_type=found.fs_type)
        _mount_filesystem(self.staged)
        if not staged.readonly:
            # What grows only while mounted (xfs) grows here, before anyone uses it.
            filesystems.grow_mounted(device, staged.staging_path, found.fs_type)
        return rules.proved_formatting(granted, found.fs_type, found.uuid)

    def _latest_formatting(self) -> Formatting:
        confirmation = self._parts.ledger.confirmation(self.staged.volume_id)
        return rules.formatting_of(self._context, confirmation)


def _prepare_staging_path(request: StageRequest) -> None:
    """See that the staging path is a directory with nothing mounted; made when missing.

    CSI has the caller make it.  Nothing is ever mounted over a mount.
    """
    path = request.staging_path
    targets.refuse_link(path)
    if (mount := mounts.find(path)) is not None:
        raise StaleMount(f"Volume {request.volume_id} cannot be staged over {mount}")
    try:
        Path(path).mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise TargetUnusable(f"{path} cannot be made: {error.strerror}") from error


def _read_ledger(parts: Parts, context: PublishContext) -> Confirmation | None:
    """What nodes confirmed; a volume that is formatted anyway can do without.

    :raises LedgerUnavailable: out of reach, and the volume may have to be formatted.
    """
    try:
        return parts.ledger.confirmation(context.volume_id)
    except LedgerUnavailable:
        if context.formatting.state is FormattingState.NEVER:
            raise
        LOG.warning("Volume %s is staged without the ledger", context.volume_id)
        return None


def _mount_filesystem(staged: StagedVolume) -> None:
    flags = staged.capability.mount_flags
    options = filesystems.mount_options(
        staged.fs_type, flags, staged.readonly, devices.is_read_only(staged.device)
    )
    try:
        made = mounts.mount(staged.device, staged.staging_path, staged.fs_type, options)
    except MountFailed as error:
        # mount(8) says the same of a bad option and of a bad superblock, but the
        # superblock has just been read and checked.
        if flags and "bad option" in error.message:
            raise InvalidMountFlags(
                f"Volume {staged.volume_id}: {staged.fs_type} does not take the mount flags given"
            ) from error
        if staged.readonly and "read-only" in error.message:
            # The kernel's EROFS: the journal must be replayed, and the device forbids it.
            raise JournalNotReplayed(
                f"Volume {staged.volume_id} was not unmounted cleanly and cannot be"
                f" mounted from its read-only device {staged.device}"
            ) from error
        raise
    if made.read_only != staged.readonly:
        raise MountFailed(f"{made} is {', '.join(made.options)} though asked otherwise")
