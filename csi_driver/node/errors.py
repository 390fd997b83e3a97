"""What can go wrong in the node's own work; ``rpc.errors`` maps each to a gRPC code.

What the device says is in :mod:`csi_driver.attach.errors`, what the filesystem
says in :mod:`csi_driver.node.filesystem_errors`.
"""

from __future__ import annotations

from csi_driver.base.errors import CinderCSIError


class UnsupportedCapability(CinderCSIError):
    """The volume capability asks for something that this node never does."""


class InvalidMountFlags(CinderCSIError):
    """A mount flag is unknown to the filesystem, or not the caller's to set.

    Flags may carry secrets (CSI marks them so): messages never repeat them.
    """

    advice = "Correct mountOptions (StorageClass or PersistentVolume)"


class StagedIncompatible(CinderCSIError):
    """The volume is staged at another path, or with another capability."""

    advice = "Unstage the volume first"


class StaleMount(CinderCSIError):
    """Something that must not be mounted upon is mounted at the path."""

    advice = "Unmount it; nothing is ever mounted over it"


class DeadMount(CinderCSIError):
    """The device below a mounted filesystem does not answer any more."""

    advice = "Delete the Pods that use the volume; they get it back when it is staged again"


class DeviceReadOnly(CinderCSIError):
    """A volume that is to be written came as a read-only device."""

    advice = "Check how the backend presents the volume, or publish it read-only"


class FormattedMeanwhile(CinderCSIError):
    """Another node formatted the volume while this one was about to."""

    advice = "Nothing was written; a retry uses that filesystem"


class MountFailed(CinderCSIError):
    """The mount program refused, or mounted something else."""


class UnmountFailed(CinderCSIError):
    """The umount program refused, or the mount is still there."""


class TargetBusy(CinderCSIError):
    """A mount cannot be unmounted because it is used."""

    advice = "End what uses it; the call may be retried"


class StageRollbackFailed(CinderCSIError):
    """A stage failed and so did undoing it: the volume is still attached here.

    Never answered with a final code: the kubelet forgets a volume whose stage
    failed finally and would not unstage it.
    """

    advice = "The call may be retried; it first undoes what is left"


class PublishRollbackFailed(CinderCSIError):
    """A publish failed and so did undoing it: something is left at the target."""

    advice = "Unpublish the target path"


class StillPublished(CinderCSIError):
    """The volume cannot be unstaged while it is published on this node."""

    advice = "Unpublish the target paths first"


class StagingPathMissing(CinderCSIError):
    """NodePublishVolume without the staging path that STAGE_UNSTAGE_VOLUME requires."""

    advice = "Pass the staging_target_path that the volume was staged at"


class VolumeNotStaged(CinderCSIError):
    """The volume is not staged at the staging path, or not any more."""

    advice = "Stage the volume first; after a reboot, stage it again"


class CapabilityNotStaged(CinderCSIError):
    """The volume is staged in a way that does not allow this publish."""

    advice = "Publish it as it was staged"


class PublishedIncompatible(CinderCSIError):
    """The volume is published at this target path in another way."""

    advice = "Unpublish the target path first"


class SecondTarget(CinderCSIError):
    """The access mode allows one target path per node and another one is in use."""

    advice = "Use an access mode for several writers, or unpublish the other target path"


class TargetUnusable(CinderCSIError):
    """The target path holds something that this driver did not make."""

    advice = "Remove it; nothing but an empty directory or file is ever used or removed"


class VolumePathNotFound(CinderCSIError):
    """The volume is not at the given path."""

    advice = "Pass the staging path or a target path of the volume"


class InvalidCapacityRange(CinderCSIError):
    """``required_bytes`` is more than ``limit_bytes``."""


class DeviceNotGrown(CinderCSIError):
    """The device still has its old size."""

    advice = "Expand the volume on the controller first; the call may be retried"


class NodeStateDamaged(CinderCSIError):
    """A file in the node's state directory cannot be understood."""

    advice = "Unstage the volume: it is undone from the mount table and the file is set aside"


def both(first: Exception, second: Exception) -> str:
    """One sentence for an error and the one that undoing its work met."""
    return f"{said(first)}; undoing it failed too: {said(second)}"


def said(error: Exception) -> str:
    """What happened, without the advice."""
    return error.message if isinstance(error, CinderCSIError) else str(error)
