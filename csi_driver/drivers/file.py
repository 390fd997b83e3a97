"""The ``file`` backend: a Cinder volume driver whose volumes are sparse files.

The embedded default: loaded like every other driver, by class name, with Cinder's
Configuration; nothing in the project calls it in another way.  A volume is the
file ``<volume.name>`` in ``file_volume_directory``, a snapshot the read-only file
``<snapshot.name>`` beside it; each is whole and independent, so that they can be
deleted in any order.  How copies are made is told in ``copying``, what counts as
free in ``capacity``.

Volumes can be reached from their own host only (``accessible_from_host_only``):
connectors of other hosts are refused.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cinder import exception, interface, objects
from cinder.volume import configuration as cinder_configuration
from cinder.volume import driver, volume_utils
from oslo_config import cfg

from csi_driver.base.values import GIB
from csi_driver.drivers import capacity, loop_mounts
from csi_driver.drivers.capacity import Limits, Usage
from csi_driver.drivers.cinder_errors import as_cinder, disk_errors
from csi_driver.drivers.copying import Copier
from csi_driver.drivers.errors import PoolFull, VolumeFileBusy, VolumeFileError
from csi_driver.drivers.file_groups import FileGroups
from csi_driver.drivers.file_imports import FileImports
from csi_driver.drivers.volume_directory import VolumeDirectory

OPTIONS = [
    cfg.StrOpt(
        "file_volume_directory",
        help="Directory of the volume files; made if it is not there. On XFS or Btrfs"
        " snapshots and clones share blocks and are made at once.",
    ),
    cfg.FloatOpt(
        "file_freeze_timeout",
        default=30.0,
        min=1.0,
        help="So many seconds at most the filesystem on a volume in use is held still"
        " while the volume is copied, where copies cannot share blocks.",
    ),
]

_NEVER_MADE = {"creating", "managing", "error_managing"}
"""Status of volumes that a directory may lack: the first of all may have got no farther."""

DEFAULT_RATIO = "1.0"
"""Default of ``max_over_subscription_ratio``: the disk can hold all volumes when full.

Cinder's own default, 20, suits arrays whose administrators watch them.  Here a
full disk would be an I/O error in somebody's filesystem.
"""


@interface.volumedriver
class FileVolumeDriver(FileImports, FileGroups, driver.VolumeDriver):  # type: ignore[misc]
    """Volumes as sparse files in a directory of this host.

    Besides its own options it goes by Cinder's ``max_over_subscription_ratio``
    (default 1.0 here) and ``reserved_percentage``.

    Its methods raise, all before anything is changed unless said otherwise:

    * ``NoValidBackend``: no room for what is asked
    * ``VolumeIsBusy``: the volume is in use, or half reverted
    * ``VolumeNotFound``, ``SnapshotNotFound``: there is no such file
    * ``Duplicate``: there is such a file already
    * ``InvalidInput``: a name that is no plain file name, or a size too small
    * ``VolumeBackendAPIException``: the directory or disk failed, or its filesystem is
      not mounted
    """

    VERSION = "1.0.0"
    CI_WIKI_NAME = "N/A"

    accessible_from_host_only = True
    """Volumes have the topology of the host that this driver runs on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.configuration.append_config_values(OPTIONS)
        group = self.configuration.config_group or cinder_configuration.SHARED_CONF_GROUP
        cfg.CONF.set_default("max_over_subscription_ratio", DEFAULT_RATIO, group=group)
        self._backend_name = self.configuration.safe_get("volume_backend_name") or "file"

    @staticmethod
    def get_driver_options() -> list[cfg.Opt]:
        """The options of this driver alone."""
        return OPTIONS

    def do_setup(self, context: Any) -> None:
        """Make the directory; sweep and thaw what a crash has left."""
        directory = self.configuration.safe_get("file_volume_directory")
        if not directory or not Path(directory).is_absolute():
            raise exception.InvalidConfigurationValue(
                option="file_volume_directory", value=directory or ""
            )
        self._limits = Limits(
            ratio=volume_utils.get_max_over_subscription_ratio(
                self.configuration.max_over_subscription_ratio
            ),
            reserved_percentage=self.configuration.reserved_percentage,
        )
        self._files = VolumeDirectory(Path(directory), lambda: self._has_records(context))
        self._copier = Copier(self._files, self.configuration.file_freeze_timeout)
        with as_cinder():
            self._files.prepare()
            self._files.left_frozen(loop_mounts.thaw_all)

    def check_for_setup_error(self) -> None:
        """Nothing more: ``do_setup`` has used the directory already."""

    # Volumes

    def create_volume(self, volume: Any) -> None:
        """Make an empty volume of ``volume.size`` GiB; it takes no space yet."""
        size = volume.size * GIB
        with as_cinder(), self._making(volume.name, size, size, owner=volume.id):
            pass

    def create_volume_from_snapshot(self, volume: Any, snapshot: Any) -> None:
        """Make a volume with the content of the snapshot; it may be larger."""
        with as_cinder(missing=exception.SnapshotNotFound):
            self._create_copy(volume, snapshot.name)

    def create_cloned_volume(self, volume: Any, src_vref: Any) -> None:
        """Make a volume with the content that another has now; it may be larger."""
        with as_cinder():
            self._check_usable(src_vref)
            self._create_copy(volume, src_vref.name)

    def delete_volume(self, volume: Any) -> None:
        """Remove the volume; nothing happens when it is not there."""
        name = volume.name  # every look at it formats it anew

        def refuse(found: os.stat_result, owner: str) -> None:
            self._refuse_others(volume, name, owner)
            if devices := loop_mounts.loop_devices_behind(found):
                path = self._files.path_of(name)
                raise VolumeFileBusy(f"{path} is in use by {', '.join(devices)}")

        with as_cinder():
            self._files.remove(name, refuse)

    def extend_volume(self, volume: Any, new_size: int) -> None:
        """Make the volume ``new_size`` GiB large, in use or not.

        Its loop device, if it has one, is the node's to refresh.
        """
        size = new_size * GIB
        with as_cinder():
            self._check_usable(volume)
            more = size - self._files.existing(volume.name).stat().st_size
            self._files.grow(volume.name, size, self._admit(more))

    def revert_to_snapshot(self, context: Any, volume: Any, snapshot: Any) -> None:
        """Give a detached volume the content of the snapshot again; it keeps its size.

        A failure meanwhile leaves the volume half reverted: it is then refused
        everywhere until it is reverted again or deleted.
        """
        with as_cinder(missing=exception.SnapshotNotFound), disk_errors():
            self._check_owner(volume, volume.name)
            self._copier.revert(volume.name, snapshot.name)

    def snapshot_revert_use_temp_snapshot(self) -> bool:
        """No: a failed revert is repeated; a second copy could be as large as the volume."""
        return False

    def local_path(self, volume: Any) -> str:
        """The file of the volume."""
        with as_cinder():
            return str(self._files.path_of(volume.name))

    # Snapshots

    def create_snapshot(self, snapshot: Any) -> None:
        """Keep the content that the volume has now."""
        with as_cinder():
            self._check_usable(snapshot.volume)
            info = self._files.existing(snapshot.volume.name).stat()
            with self._making(snapshot.name, info.st_size, info.st_blocks * 512) as target:
                self._copier.copy(snapshot.volume.name, target)

    def delete_snapshot(self, snapshot: Any) -> None:
        """Remove the snapshot; nothing happens when it is not there."""
        with as_cinder():
            self._files.remove(snapshot.name)

    # Connections

    def validate_connector(self, connector: dict[str, Any]) -> None:
        """Refuse other hosts: a file cannot be reached from there.

        :raises InvalidConnectorException: ``host`` is missing, or another one.
        """
        here = {volume_utils.extract_host(self.host, "host"), socket.gethostname()}
        if not connector.get("host"):
            raise exception.InvalidConnectorException(missing="host")
        if connector["host"] not in here:
            raise exception.InvalidConnectorException(
                f"Volumes of {self.host} are files there and cannot be reached from the host"
                f" {connector['host']}"
            )

    def initialize_connection(
        self, volume: Any, connector: dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        """The file, for os-brick's ``local`` connector.

        ``identity`` is ``file:<volume.id>``, when the file itself says so; a file
        that says otherwise is refused.
        """
        self.validate_connector(connector)
        with as_cinder():
            owner = self._check_usable(volume)
            data: dict[str, Any] = {
                "device_path": str(self._files.existing(volume.name)),
                "access_mode": _access_mode(volume),
                "discard": True,
            }
            if owner:
                data["identity"] = f"file:{owner}"
            return {"driver_volume_type": "local", "data": data}

    def terminate_connection(self, volume: Any, connector: Any, **kwargs: Any) -> None:
        """Nothing: a file is not exported."""

    def create_export(self, context: Any, volume: Any, connector: Any) -> None:
        """Nothing: a file is not exported."""

    def ensure_export(self, context: Any, volume: Any) -> None:
        """Nothing: a file is not exported."""

    def remove_export(self, context: Any, volume: Any) -> None:
        """Nothing: a file is not exported."""

    # Capacity

    def get_pool(self, volume: Any) -> str:
        """The one pool, called like the backend."""
        return str(self._backend_name)

    def _update_volume_stats(self) -> None:
        """Measure; sizes are GiB, rounded so that nothing is promised in vain."""
        with as_cinder(), disk_errors():
            self._files.check()
            usage = self._files.usage()
        self._stats = {
            "volume_backend_name": self._backend_name,
            "vendor_name": "Open Source",
            "driver_version": self.VERSION,
            "storage_protocol": "file",
            "pools": [
                {
                    "pool_name": self._backend_name,
                    "total_capacity_gb": capacity.gib(capacity.total(usage)),
                    "free_capacity_gb": capacity.gib(usage.free),
                    "provisioned_capacity_gb": capacity.gib_up(usage.promised),
                    "max_over_subscription_ratio": self._limits.ratio,
                    "reserved_percentage": self._limits.reserved_percentage,
                    "thin_provisioning_support": True,
                    "thick_provisioning_support": False,
                    "multiattach": True,
                    "online_extend_support": True,
                    "sparse_copy_volume": True,
                    "consistent_group_snapshot_enabled": True,
                    "QoS_support": False,
                    "location_info": f"FileVolumeDriver:{self.host}:{self._files.path}",
                }
            ],
        }

    # Helpers

    def _has_records(self, context: Any) -> bool:
        """Whether volumes are recorded that were made, or may have been."""
        found = objects.VolumeList.get_all_by_host(context, self.host)
        return any(volume.status not in _NEVER_MADE for volume in found)

    def _create_copy(self, volume: Any, source: str) -> None:
        size = volume.size * GIB
        source_size = self._files.existing(source).stat().st_size
        if source_size > size:
            raise exception.InvalidInput(
                reason=f"{volume.size} GiB are less than the {source_size / GIB:g} GiB of {source}"
            )
        with self._making(volume.name, size, size, owner=volume.id) as target:
            self._copier.copy(source, target)

    def _making(
        self, name: str, size: int, promise: int, owner: str = ""
    ) -> contextlib.AbstractContextManager[int]:
        return self._files.making(name, size, self._admit(promise), owner=owner)

    def _admit(self, promise: int) -> Callable[[Usage], None]:
        def admit(usage: Usage) -> None:
            room = capacity.available(usage, self._limits)
            if promise > room:
                raise PoolFull(
                    f"{self._files.path} has room for {capacity.gib(room):g} GiB more,"
                    f" {capacity.gib_up(promise):g} GiB are needed"
                )

        return admit

    def _check_usable(self, volume: Any) -> str:
        """Refuse a file that is not this volume's or not whole; answer whose it is."""
        owner = self._check_owner(volume, volume.name)
        self._files.check_whole(volume.name)
        return owner

    def _check_owner(self, volume: Any, name: str) -> str:
        owner = self._files.owner(name)
        self._refuse_others(volume, name, owner)
        return owner

    def _refuse_others(self, volume: Any, name: str, owner: str) -> None:
        if owner and owner != volume.id:
            raise VolumeFileError(
                f"The file {self._files.path_of(name)} belongs to the volume {owner},"
                f" not to {volume.id}",
                advice="Find out who put it there; it was not touched",
            )


def _access_mode(volume: Any) -> str:
    """``rw`` or ``ro``, from where Cinder's manager takes it."""
    metadata = volume.admin_metadata or {}
    readonly = metadata.get("readonly") == "True"
    return str(metadata.get("attached_mode") or ("ro" if readonly else "rw"))
