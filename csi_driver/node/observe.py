"""What is really there, compared with what the node's state says.

Read-only.  State survives a reboot and a device can fail or be replaced, so stage,
publish and unstage look here before they believe the state.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from csi_driver.attach import devices, loop
from csi_driver.attach.errors import DeviceIdentityMismatch, DeviceReadError
from csi_driver.base.files import read_text
from csi_driver.base.values import AccessType
from csi_driver.node import mounts
from csi_driver.node.rules import Seen
from csi_driver.node.state import StagedVolume


def boot_id() -> str:
    """The kernel's id of this boot: attached devices and mounts end with it."""
    return (read_text(Path("/proc/sys/kernel/random/boot_id")) or "").strip()


def fingerprint(device: str, loop_device: str) -> str:
    """What tells that a device name still means the same device.

    For a loop device the file behind it, else the identity that the device tells;
    '' when it is gone or tells nothing.
    """
    if not loop_device:
        try:
            return devices.identity_of(device)
        except (DeviceReadError, DeviceIdentityMismatch):
            return ""
    backing = loop.backing_file(loop_device)
    return f"file {backing.device_number}:{backing.inode}" if backing else ""


def is_attached(staged: StagedVolume) -> bool:
    """Whether the recorded device is there and is still the same one."""
    return (
        staged.boot_id == boot_id()
        and bool(staged.device_number)
        and mounts.device_number(staged.device) == staged.device_number
        and fingerprint(staged.device, staged.loop) == staged.fingerprint
    )


def at_staging(staged: StagedVolume | None, staging_path: str) -> Seen:
    """What is at the recorded staging path, or at ``staging_path`` if none is recorded.

    A filesystem that has gone read-only by itself (errors=remount-ro) is not usable.
    """
    if staged is None:
        return look(None, staging_path)
    if staged.capability.access_type is AccessType.BLOCK:
        return Seen(ours=True, usable=is_attached(staged))
    seen = look(staged, staged.staging_path)
    usable = seen.mount is not None and seen.usable and seen.mount.read_only == staged.readonly
    return Seen(seen.mount, seen.ours, usable)


def look(staged: StagedVolume | None, path: str) -> Seen:
    """What is mounted at ``path``, and whether it shows the staged volume and works."""
    mount = mounts.find(path)
    if mount is None or staged is None or staged.boot_id != boot_id():
        return Seen(mount)
    if staged.capability.access_type is AccessType.BLOCK:
        shown = mounts.device_number(path)
    else:
        # Only the whole filesystem is ever mounted, never a directory of it.
        shown = mount.device if mount.root == "/" else ""
    ours = bool(shown) and shown == staged.device_number
    return Seen(mount, ours, ours and is_attached(staged) and not mounts.is_dead(mount))


def live_targets(staged: StagedVolume | None) -> list[str]:
    """The recorded target paths at which the volume is mounted now."""
    if staged is None:
        return []
    return [t.target_path for t in staged.targets if look(staged, t.target_path).ours]


def forget_gone_targets(staged: StagedVolume) -> StagedVolume:
    """``staged`` with only those targets that are still mounted."""
    live = set(live_targets(staged))
    kept = tuple(t for t in staged.targets if t.target_path in live)
    return msgspec.structs.replace(staged, targets=kept)
