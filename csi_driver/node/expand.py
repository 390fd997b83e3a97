"""NodeExpandVolume: let the node see the size that the controller gave the volume."""

from __future__ import annotations

from csi_driver.base.values import AccessType
from csi_driver.node import filesystems, rules
from csi_driver.node.errors import DeviceNotGrown
from csi_driver.node.filesystem_errors import GrowNotPermitted
from csi_driver.node.operations import Progress
from csi_driver.node.parts import Parts
from csi_driver.node.requests import ExpandRequest
from csi_driver.node.stats import require_at


def expand(parts: Parts, request: ExpandRequest, progress: Progress) -> int:
    """Refresh the device, then grow the mounted filesystem; answers the device size in bytes.

    OK when it is large enough already.  A block volume has no filesystem to grow.

    :raises InvalidCapacityRange: the limit is below the requirement.
    :raises VolumePathNotFound: the volume is not at ``volume_path``.
    :raises DeviceNotGrown: the device is still smaller than required.
    :raises GrowNotPermitted: the filesystem cannot be grown while it is mounted so.
    """
    rules.check_range(request)
    staged = require_at(parts, request.volume_id, request.volume_path)
    progress.at("refreshing")
    size = parts.attacher.extend(parts.connection(staged), staged.device_info)
    if size < request.required_bytes:
        raise DeviceNotGrown(
            f"The device of volume {request.volume_id} has {size} bytes;"
            f" {request.required_bytes} are required"
        )
    if staged.capability.access_type is AccessType.BLOCK:
        return size
    mountpoint = staged.staging_path
    if filesystems.needs_growth(staged.device, staged.fs_type, mountpoint):
        if staged.readonly:
            raise GrowNotPermitted(f"Volume {request.volume_id} is mounted read-only")
        progress.at("growing")
        filesystems.grow_mounted(staged.device, mountpoint, staged.fs_type)
    progress.at("grown")
    return size
