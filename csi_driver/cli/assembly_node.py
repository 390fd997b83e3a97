"""Puts a node together.  Imports neither Cinder nor the controller's rooms."""

from __future__ import annotations

import logging
from collections.abc import Callable

from csi_driver.attach.attacher import Attacher, AttachSettings
from csi_driver.base.sealing import KeyRing
from csi_driver.cli.shared_directory import SharedDirectory
from csi_driver.config import Settings, StoreKind
from csi_driver.node.ports import NodeLedger
from csi_driver.node.registrar import Registrar
from csi_driver.node.requests import NodeSettings
from csi_driver.node.service import NodeService

LOG = logging.getLogger("csi_driver.serve")

_FIRST_TRY_SECONDS = 3.0
"""How long a node of a cluster waits for its first registration before it serves."""


def make_node(settings: Settings, keys: Callable[[], KeyRing]) -> NodeService:
    """The node service of this process, which is kept registered where the controller finds it.

    A node of a cluster serves while the API server is away, and registers later.

    :raises CinderCSIError: the state directory cannot be used.
    """
    ledger = _ledger(settings)
    service = NodeService(
        NodeSettings(
            node_id=settings.node_id,
            state_dir=settings.state_dir / "node",
            driver_name=settings.driver_name,
            topology={settings.topology_key: settings.node_id},
            max_volumes=settings.max_volumes,
        ),
        ledger,
        keys,
        Attacher(AttachSettings(lock_path=settings.state_dir / "locks")),
    )
    registrar = Registrar(service.registration, ledger)
    if settings.store is StoreKind.KUBERNETES:
        registrar.start(_FIRST_TRY_SECONDS)
    else:
        registrar.register()
        registrar.start()
    return service


def _ledger(settings: Settings) -> NodeLedger:
    if settings.store is not StoreKind.KUBERNETES:
        return SharedDirectory(settings.state_dir)
    from csi_driver.cli.cluster import connection
    from csi_driver.cli.cluster_ledger import ClusterLedger
    from csi_driver.kube.api import Api

    return ClusterLedger(Api(connection(settings)), settings.driver_name, settings.node_id)
