"""What the file driver does with files that it has not made, and with other specs.

A base of :class:`csi_driver.drivers.file.FileVolumeDriver`.  A file is imported by its
name in the volume directory, never from outside: a raw file that belongs to no volume.
It is renamed; one whose size is no whole number of GiB grows to the next, with zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from cinder import exception
from cinder.volume import volume_utils

from csi_driver.base.values import GIB
from csi_driver.drivers import loop_mounts
from csi_driver.drivers.capacity import Usage
from csi_driver.drivers.cinder_errors import as_cinder, disk_errors
from csi_driver.drivers.errors import UnsafeName, VolumeFileBusy, VolumeFileMissing
from csi_driver.drivers.volume_directory import VolumeDirectory


class FileImports:
    """Import, release and retype of volumes that are files."""

    _files: VolumeDirectory
    _admit: Callable[[int], Callable[[Usage], None]]
    _check_usable: Callable[[Any], str]

    # Volumes

    def manage_existing_get_size(self, volume: Any, existing_ref: dict[str, str]) -> int:
        """The size in GiB, rounded up.

        :raises ManageExistingInvalidReference: no ``source-name``, or nothing to import.
        """
        return self._size_of(existing_ref, snapshot=False)

    def manage_existing(self, volume: Any, existing_ref: dict[str, str]) -> None:
        """Take over a raw file of the directory.

        :raises ManageExistingInvalidReference: as above.
        :raises VolumeIsBusy: the file is in use.
        """
        size = self.manage_existing_get_size(volume, existing_ref) * GIB
        name = existing_ref["source-name"]
        with as_cinder(), disk_errors():
            path = self._files.existing(name)
            if devices := loop_mounts.loop_devices_of(path):
                raise VolumeFileBusy(f"{path} is in use by {', '.join(devices)}")
            self._files.grow(name, size, self._admit(size - path.stat().st_size))
            self._files.adopt(name, volume.name, owner=volume.id)

    def unmanage(self, volume: Any) -> None:
        """Let the file be nobody's; it stays where it is, under its name."""
        with as_cinder():
            self._check_usable(volume)
            self._files.disown(volume.name)

    def get_manageable_volumes(
        self,
        cinder_volumes: Any,
        marker: Any,
        limit: int | None,
        offset: int | None,
        sort_keys: Sequence[str],
        sort_dirs: Sequence[str],
    ) -> list[dict[str, Any]]:
        """The writable files of the directory."""
        found = self._manageable(cinder_volumes, snapshots=False)
        page: list[dict[str, Any]] = volume_utils.paginate_entries_list(
            found, marker, limit, offset, sort_keys, sort_dirs
        )
        return page

    # Snapshots

    def manage_existing_snapshot_get_size(self, snapshot: Any, existing_ref: dict[str, str]) -> int:
        """The size in GiB, rounded up; errors as of volumes."""
        return self._size_of(existing_ref, snapshot=True)

    def manage_existing_snapshot(self, snapshot: Any, existing_ref: dict[str, str]) -> None:
        """Take over a read-only raw file of the directory."""
        self.manage_existing_snapshot_get_size(snapshot, existing_ref)
        with as_cinder(), disk_errors():
            self._files.adopt(existing_ref["source-name"], snapshot.name)

    def unmanage_snapshot(self, snapshot: Any) -> None:
        """Nothing: a snapshot's file does not say whose it is.

        :raises SnapshotNotFound: there is no such file.
        """
        with as_cinder(missing=exception.SnapshotNotFound):
            self._files.existing(snapshot.name)

    def get_manageable_snapshots(
        self,
        cinder_snapshots: Any,
        marker: Any,
        limit: int | None,
        offset: int | None,
        sort_keys: Sequence[str],
        sort_dirs: Sequence[str],
    ) -> list[dict[str, Any]]:
        """The read-only files of the directory; they do not say of which volume they are."""
        found = self._manageable(cinder_snapshots, snapshots=True)
        for entry in found:
            entry["source_reference"] = {}
        page: list[dict[str, Any]] = volume_utils.paginate_entries_list(
            found, marker, limit, offset, sort_keys, sort_dirs
        )
        return page

    # Specs

    def retype(
        self, context: Any, volume: Any, new_type: Any, diff: dict[str, Any], host: Any
    ) -> bool:
        """Agree, unless the new specs ask for what files do not have.

        That is replication, and limits that the backend is to enforce.
        """
        wanted = {name: new for name, (_, new) in diff["qos_specs"].items() if new is not None}
        limits = wanted.get("consumer", "front-end") in ("back-end", "both")
        _, replicated = diff["extra_specs"].get("replication_enabled", (None, None))
        return not limits and not volume_utils.is_boolean_str(replicated)

    # Helpers

    def _size_of(self, reference: dict[str, str], *, snapshot: bool) -> int:
        name = reference.get("source-name")
        if not name:
            raise exception.ManageExistingInvalidReference(
                existing_ref=reference,
                reason="a file is named by source-name, its name in the volume directory",
            )
        with as_cinder(), disk_errors():
            try:
                reason = self._files.why_not_adoptable(name, snapshot=snapshot)
            except (UnsafeName, VolumeFileMissing) as error:
                reason = str(error)
            if reason:
                raise exception.ManageExistingInvalidReference(
                    existing_ref=reference, reason=reason
                )
            self._files.check_whole(name)
            return math.ceil(self._files.existing(name).stat().st_size / GIB)

    def _manageable(self, ours: Any, *, snapshots: bool) -> list[dict[str, Any]]:
        known = {one.name: one.id for one in ours}
        found = []
        with as_cinder(), disk_errors():
            for name, size in self._files.names(snapshots=snapshots).items():
                cinder_id = known.get(name)
                reason = "it is managed already" if cinder_id else ""
                reason = reason or self._files.why_not_adoptable(name, snapshot=snapshots)
                found.append(
                    {
                        "reference": {"source-name": name},
                        "size": math.ceil(size / GIB),
                        "safe_to_manage": not reason,
                        "reason_not_safe": reason or None,
                        "cinder_id": cinder_id,
                        "extra_info": None,
                    }
                )
        return found
