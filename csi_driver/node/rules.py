"""What a node decides, as pure functions over what was asked, recorded and seen.

``stage``, ``publish``, ``unstage`` and ``expand`` gather the facts, ask here, and
carry out the answer.  Whether a filesystem may be made is decided in
:mod:`csi_driver.node.filesystems`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from csi_driver.attach.errors import DeviceIdentityMismatch, DeviceSizeMismatch
from csi_driver.attach.identity import normalise
from csi_driver.base.values import (
    AccessType,
    Confirmation,
    Formatting,
    FormattingState,
    PublishContext,
    VolumeCapability,
)
from csi_driver.node.errors import (
    CapabilityNotStaged,
    DeadMount,
    InvalidCapacityRange,
    InvalidMountFlags,
    PublishedIncompatible,
    SecondTarget,
    StagedIncompatible,
    StagingPathMissing,
    StaleMount,
    UnsupportedCapability,
    VolumeNotStaged,
)
from csi_driver.node.filesystem_errors import NotFormatted
from csi_driver.node.mounts import Mount
from csi_driver.node.requests import ExpandRequest, PublishRequest, StageRequest
from csi_driver.node.state import PublishedTarget, StagedVolume, Step

# mount(8) acts on these itself: they would mount something else than the device.
_FORBIDDEN_FLAGS = frozenset(
    ("bind", "rbind", "move", "remount", "loop", "offset", "sizelimit", "encryption", "subdir")
)


class Plan(Enum):
    """What to do about a stage or publish call."""

    NOTHING = "it is there as asked"
    ANEW = "nothing is there"
    UNDO_FIRST = "something of an earlier attempt is there"


@dataclass(frozen=True)
class Seen:
    """What is at a path: the mount, whether it shows the staged volume, whether it works."""

    mount: Mount | None = None
    ours: bool = False
    usable: bool = False


def check_capability(capability: VolumeCapability) -> None:
    """Refuse what this node never does, before anything is touched.

    :raises UnsupportedCapability: a volume_mount_group (the capability VOLUME_MOUNT_GROUP
        is not declared: the kubelet sets the group itself).
    :raises InvalidMountFlags: a flag would make mount(8) do something else.
    """
    if capability.volume_mount_group:
        raise UnsupportedCapability("volume_mount_group is not supported by this driver")
    if any(flag.partition("=")[0] in _FORBIDDEN_FLAGS for flag in _single_flags(capability)):
        names = ", ".join(sorted(_FORBIDDEN_FLAGS))
        raise InvalidMountFlags(f"A mount flag is one of those that a volume cannot have: {names}")


def is_read_only(readonly: bool, capability: VolumeCapability) -> bool:
    """Whether nothing may be written: by the call, by the access mode, or by a mount flag."""
    return readonly or capability.mode.read_only or "ro" in _single_flags(capability)


def _single_flags(capability: VolumeCapability) -> list[str]:
    # One flag may hold several, separated by commas, as mount(8) takes them.
    return [part.strip() for flag in capability.mount_flags for part in flag.split(",")]


def plan_stage(
    request: StageRequest,
    readonly: bool,
    staged: StagedVolume | None,
    seen: Seen,
    live_targets: Collection[str] = (),
) -> Plan:
    """What NodeStageVolume has to do.

    :param staged: a stage that ended; what is left of others is undone before.
    :param seen: what is at the recorded staging path, or at the requested one when
        nothing is recorded; for a block volume ``mount`` is None.
    :param live_targets: recorded target paths at which the volume is mounted now.
    :raises StagedIncompatible: staged and working, at another path or in another way.
    :raises StaleMount: something else is mounted at the staging path.
    :raises DeadMount: the staged filesystem does not work and Pods still have it.
    """
    if seen.mount is not None and not seen.ours:
        raise StaleMount(f"Volume {request.volume_id} cannot be staged over {seen.mount}")
    if staged is None:
        return Plan.ANEW
    if seen.usable:
        _refuse_other_staging(request, readonly, staged)
        return Plan.NOTHING
    if live_targets:
        raise DeadMount(
            f"The device of volume {request.volume_id} failed while it is published at"
            f" {', '.join(sorted(live_targets))}"
        )
    return Plan.UNDO_FIRST


def _refuse_other_staging(request: StageRequest, readonly: bool, staged: StagedVolume) -> None:
    if request.staging_path != staged.staging_path:
        raise StagedIncompatible(
            f"Volume {request.volume_id} is staged at {staged.staging_path},"
            f" not at {request.staging_path}"
        )
    if (request.capability, readonly) != (staged.capability, staged.readonly):
        raise StagedIncompatible(
            f"Volume {request.volume_id} is staged with another capability:"
            f" {_describe(staged.capability, staged.readonly)},"
            f" not {_describe(request.capability, readonly)}"
        )


def _describe(capability: VolumeCapability, readonly: bool) -> str:
    how = "read-only" if readonly else "writable"
    flags = f", {len(capability.mount_flags)} mount flags" if capability.mount_flags else ""
    fs_type = f" {capability.fs_type}" if capability.fs_type else ""
    return f"{capability.mode}, {capability.access_type}{fs_type}, {how}{flags}"


def formatting_of(context: PublishContext, confirmation: Confirmation | None) -> Formatting:
    """The formatting that counts: the ledger's, which is newer, else the grant's."""
    return confirmation.formatting if confirmation is not None else context.formatting


def check_grant(volume_id: str, formatting: Formatting, readonly: bool) -> None:
    """Refuse to mount read-only what nobody ever wrote.

    :raises NotFormatted: there is no filesystem and none may be made.
    """
    if readonly and formatting.state is FormattingState.NEVER:
        raise NotFormatted(
            f"Volume {volume_id} was never formatted and is to be read-only",
            advice="Stage it writable once: nothing is formatted for a read-only use",
        )


def check_identity(
    context: PublishContext, confirmation: Confirmation | None, told: str, found: Collection[str]
) -> None:
    """The device must be the one that every source names that names one.

    :param told: the identity in the connection info, '' if it names none.
    :param found: the names that the device itself goes by.
    :raises DeviceIdentityMismatch: it is another one, or one that does not tell.
    """
    learned = confirmation.identity if confirmation is not None else ""
    for source, wanted in (
        ("the record", context.identity),
        ("the connection info", told),
        ("the first stage", learned),
    ):
        if wanted and normalise(wanted) not in found:
            raise DeviceIdentityMismatch(
                f"The device of volume {context.volume_id} is {' / '.join(found) or 'nameless'};"
                f" {source} says {wanted}"
            )


def check_size(context: PublishContext, size_bytes: int) -> None:
    """The device may be larger than recorded, never smaller.

    :raises DeviceSizeMismatch: it is smaller.
    """
    if size_bytes < context.size_bytes:
        raise DeviceSizeMismatch(
            f"The device of volume {context.volume_id} has {size_bytes} bytes;"
            f" the volume has {context.size_bytes}"
        )


def proved_formatting(granted: Formatting, fs_type: str, uuid: str) -> Formatting:
    """What is to be recorded of a volume whose filesystem was mounted.

    A volume that its user had as a block device stays RAW: what is on it is the
    user's to replace, so it must not be required from then on.
    """
    if granted.state is FormattingState.RAW:
        return granted
    return Formatting(state=FormattingState.FORMATTED, fs_type=fs_type, fs_uuid=uuid)


def given_out_raw(granted: Formatting) -> Formatting:
    """What is to be recorded of a volume that is given out as a block device.

    From then on its user's data may be on it, so it is never to be formatted.
    """
    if granted.state is FormattingState.NEVER:
        return Formatting(state=FormattingState.RAW)
    return granted


def new_confirmation(
    context: PublishContext, proved: Formatting, identity: str, earlier: Confirmation | None
) -> Confirmation | None:
    """What the ledger must store before the stage may answer OK; None: nothing new.

    What the ledger says already may be another node's word, which counts no more when that
    node has lost the volume.  So this node says it as well, unless the record knows it.

    :param earlier: what the ledger says.
    """
    confirmation = Confirmation(volume_id=context.volume_id, formatting=proved, identity=identity)
    recorded = (context.formatting, context.identity) == (proved, identity)
    return None if recorded and earlier in (None, confirmation) else confirmation


def plan_publish(
    request: PublishRequest,
    staged: StagedVolume | None,
    staging_usable: bool,
    at_target: Seen,
    live_targets: Collection[str],
) -> tuple[Plan, PublishedTarget]:
    """What NodePublishVolume has to do, and the target to record before it.

    :param staging_usable: the volume is there at its staging path and works.
    :param live_targets: recorded target paths at which the volume is mounted now.
    :raises StagingPathMissing, VolumeNotStaged, CapabilityNotStaged: it cannot be published.
    :raises PublishedIncompatible: it is published there with other arguments.
    :raises SecondTarget: another target path is in use and the mode allows one.
    :raises StaleMount: something else is mounted at the target path.
    """
    volume = _require_staged(request, staged, staging_usable)
    wanted = PublishedTarget(
        target_path=request.target_path,
        capability=request.capability,
        readonly=volume.readonly or is_read_only(request.readonly, request.capability),
    )
    recorded = volume.target(request.target_path)
    if at_target.mount is not None and recorded is None:
        raise StaleMount(f"Volume {request.volume_id} cannot be published over {at_target.mount}")
    if at_target.mount is not None and at_target.ours:
        if recorded != wanted:
            raise PublishedIncompatible(
                f"Volume {request.volume_id} is published at {request.target_path} in another way"
            )
        if at_target.mount.read_only or not wanted.readonly:
            return Plan.NOTHING, wanted
    others = sorted(set(live_targets) - {request.target_path})
    if others and not request.capability.mode.multi_target:
        raise SecondTarget(
            f"Volume {request.volume_id} is published at {others[0]} and"
            f" {request.capability.mode} allows one target path"
        )
    return (Plan.UNDO_FIRST if at_target.mount is not None else Plan.ANEW), wanted


def _require_staged(
    request: PublishRequest, staged: StagedVolume | None, usable: bool
) -> StagedVolume:
    if not request.staging_path:
        raise StagingPathMissing(f"No staging path was given for volume {request.volume_id}")
    if staged is None or staged.staging_path != request.staging_path:
        raise VolumeNotStaged(f"Volume {request.volume_id} is not staged at {request.staging_path}")
    if staged.step is not Step.STAGED:
        raise VolumeNotStaged(f"Volume {request.volume_id} is not staged: it is {staged.step}")
    if not usable:
        raise VolumeNotStaged(
            f"Volume {request.volume_id} was staged at {request.staging_path} and is not any more"
        )
    _require_same_use(request, staged)
    return staged


def _require_same_use(request: PublishRequest, volume: StagedVolume) -> None:
    wanted, staged = request.capability, volume.capability
    other_flags = wanted.mount_flags and set(wanted.mount_flags) != set(staged.mount_flags)
    if wanted.access_type is not staged.access_type:
        what = f"as {staged.access_type}, not as {wanted.access_type}"
    elif wanted.fs_type not in ("", staged.fs_type, volume.fs_type):
        what = f"as {volume.fs_type}, not as {wanted.fs_type}"
    elif wanted.access_type is AccessType.MOUNT and other_flags:
        what = "with other mount flags"
    else:
        return
    raise CapabilityNotStaged(f"Volume {request.volume_id} is staged {what}")


def check_range(request: ExpandRequest) -> None:
    """The limit may not be below the requirement.

    :raises InvalidCapacityRange: it is.
    """
    if request.limit_bytes and request.limit_bytes < request.required_bytes:
        raise InvalidCapacityRange(
            f"Volume {request.volume_id} is to have {request.required_bytes} bytes or more"
            f" and {request.limit_bytes} or fewer"
        )
