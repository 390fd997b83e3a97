"""Volume capabilities: what is supported and what is compatible.  Pure."""

from __future__ import annotations

from collections.abc import Sequence

from csi_driver.base.errors import InvalidRequest
from csi_driver.base.values import AccessMode, AccessType, VolumeCapability

FILESYSTEMS = ("ext4", "xfs")
"""Filesystems that a node can make; the first is the default."""


def problem(capability: VolumeCapability, *, multiattach: bool) -> str:
    """Why the capability cannot be had; '' when it can.

    :param multiattach: whether the backend can attach a volume to several hosts.
    """
    mode = capability.mode
    if capability.access_type is AccessType.MOUNT:
        if capability.fs_type and capability.fs_type not in FILESYSTEMS:
            return (
                f"filesystem {capability.fs_type!r} is not supported;"
                f" supported are {', '.join(FILESYSTEMS)}"
            )
        if mode.multi_node and not mode.read_only:
            return (
                f"{mode} needs volumeMode Block: {' and '.join(FILESYSTEMS)}"
                " are destroyed by two nodes that write"
            )
        if capability.volume_mount_group:
            return "volume_mount_group is not supported: Kubernetes sets fsGroup itself"
    if mode.multi_node and not multiattach:
        return f"{mode} is not supported: the backend attaches a volume to one host at a time"
    return ""


def require(capabilities: Sequence[VolumeCapability], *, multiattach: bool) -> None:
    """Refuse a request without capabilities or with one that cannot be had.

    :raises InvalidRequest: says which and why.
    """
    if not capabilities:
        raise InvalidRequest("volume_capabilities is missing")
    for capability in capabilities:
        reason = problem(capability, multiattach=multiattach)
        if reason:
            raise InvalidRequest(f"The volume capability cannot be had: {reason}")
    if len({capability.access_type for capability in capabilities}) > 1:
        raise InvalidRequest("A volume is used by mount or by block, not by both")


def wants_multiattach(capabilities: Sequence[VolumeCapability]) -> bool:
    """Whether a volume must be attachable to several hosts."""
    return any(capability.mode.multi_node for capability in capabilities)


def normalised(capabilities: Sequence[VolumeCapability]) -> list[list[str]]:
    """Capabilities as JSON that is equal for equal wishes, whatever their order.

    Mount flags are left out: they matter to a mount, not to the volume.
    """
    return sorted(
        [str(c.access_type), c.fs_type if c.access_type is AccessType.MOUNT else "", str(c.mode)]
        for c in capabilities
    )


def writes(mode: AccessMode, readonly: bool) -> bool:
    """Whether a publication with this mode and flag may write."""
    return not (readonly or mode.read_only)
