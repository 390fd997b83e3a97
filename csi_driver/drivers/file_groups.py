"""Snapshots of all volumes of a group at one moment, for the file driver.

A base of :class:`csi_driver.drivers.file.FileVolumeDriver`.  Only groups whose type asks
for one moment come here; the rest of a group's life, and groups without that wish, are
left to whoever runs the driver, volume by volume.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from cinder.volume import volume_utils

from csi_driver.drivers.cinder_errors import as_cinder, disk_errors
from csi_driver.drivers.copying import Copier
from csi_driver.drivers.volume_directory import VolumeDirectory


class FileGroups:
    """Consistent group snapshots of volumes that are files."""

    _files: VolumeDirectory
    _copier: Copier
    _check_usable: Callable[[Any], str]
    _making: Callable[[str, int, int], contextlib.AbstractContextManager[int]]

    def create_group_snapshot(
        self, context: Any, group_snapshot: Any, snapshots: Sequence[Any]
    ) -> tuple[dict[str, str], list[dict[str, str]]]:
        """Keep the content that all volumes have at one moment; all are made, or none.

        :raises NotImplementedError: the group does not ask for that.
        :raises VolumeIsBusy: a volume is in use and cannot be held still.
        """
        if not volume_utils.is_group_a_cg_snapshot_type(group_snapshot):
            raise NotImplementedError
        with as_cinder(), disk_errors(), contextlib.ExitStack() as made:
            copies = []
            for snapshot in snapshots:
                self._check_usable(snapshot.volume)
                info = self._files.existing(snapshot.volume.name).stat()
                target = made.enter_context(
                    self._making(snapshot.name, info.st_size, info.st_blocks * 512)
                )
                copies.append((snapshot.volume.name, target))
            self._copier.copy_all(copies)
        available = {"status": "available"}
        return available, [{"id": snapshot.id, **available} for snapshot in snapshots]
