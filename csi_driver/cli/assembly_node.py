"""Puts a node together.  Imports neither Cinder nor the controller's rooms."""

from __future__ import annotations

import logging
from collections.abc import Callable

from csi_driver.attach.attacher import Attacher, AttachSettings
from csi_driver.base.sealing import KeyRing
from csi_driver.cli.shared_directory import SharedDirectory
from csi_driver.config import Settings
from csi_driver.node.requests import NodeSettings
from csi_driver.node.service import NodeService

LOG = logging.getLogger("csi_driver.serve")


def make_node(settings: Settings, keys: Callable[[], KeyRing]) -> NodeService:
    """The node service of this process, registered in the shared state directory.

    :raises CinderCSIError: the state directory cannot be used.
    """
    service = NodeService(
        NodeSettings(
            node_id=settings.node_id,
            state_dir=settings.state_dir / "node",
            driver_name=settings.driver_name,
            topology={settings.topology_key: settings.node_id},
            max_volumes=settings.max_volumes,
        ),
        SharedDirectory(settings.state_dir),
        keys,
        Attacher(AttachSettings(lock_path=settings.state_dir / "locks")),
    )
    service.register()
    return service
