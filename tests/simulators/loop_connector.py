"""An iSCSI connector for os-brick that needs no network: LUNs of a simulated array as loop devices.

Put into os-brick's table of connectors by a test, in place of the iSCSI one.  What it is asked
for is what the array says that this initiator sees; what it gives is a real block device.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from os_brick.initiator.connectors import base

from tests.simulators.kaminario import SERVING
from tests.support import disks

INITIATOR = "iqn.1994-05.com.redhat:controller"


class LoopConnector(base.BaseLinuxConnector):  # type: ignore[misc]
    """Attaches the file behind a LUN."""

    @staticmethod
    def get_connector_properties(root_helper: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What os-brick's own says of a host with iSCSI."""
        return {"initiator": INITIATOR}

    def connect_volume(self, connection_properties: dict[str, Any]) -> dict[str, Any]:
        """A loop device of the LUN."""
        file = str(_file(connection_properties))
        return {"type": "block", "path": disks.command("losetup", "--find", "--show", file)}

    def disconnect_volume(
        self,
        connection_properties: dict[str, Any],
        device_info: dict[str, Any],
        force: bool = False,
        ignore_errors: bool = False,
    ) -> None:
        """Detach the loop device, if it still is one of the LUN; the driver asks twice."""
        listed = ("losetup", "--noheadings", "--output", "NAME", "--associated")
        with contextlib.suppress(LookupError):  # detached before it was unmapped
            devices = disks.command(*listed, str(_file(connection_properties))).split()
            if device_info["path"] in devices:
                disks.command("losetup", "--detach", device_info["path"])

    def extend_volume(self, connection_properties: dict[str, Any]) -> None:
        """Not needed by a driver."""
        raise NotImplementedError

    def get_volume_paths(self, connection_properties: dict[str, Any]) -> list[str]:
        """Not needed by a driver."""
        raise NotImplementedError

    def get_search_path(self) -> str:
        """Not needed by a driver."""
        raise NotImplementedError

    def get_all_available_volumes(self, connection_properties: Any = None) -> list[str]:
        """Not needed by a driver."""
        raise NotImplementedError


def _file(connection_properties: dict[str, Any]) -> Path:
    array = SERVING[connection_properties["target_iqn"]]
    return array.exported(INITIATOR, connection_properties["target_lun"])
