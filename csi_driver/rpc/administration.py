"""The service for administrators, beside CSI on the controller's socket.

Its client is ``cinder-csi revert``.  Who reaches the socket may delete every volume by CSI
already, so it asks for no more than that.  Calls go through the same gate: a replica that
does not lead answers who does.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from csi_driver.base.turns import lending, outcome
from csi_driver.rpc import fields
from csi_driver.rpc._generated import administration_pb2 as pb
from csi_driver.rpc._generated import administration_pb2_grpc as pb_grpc
from csi_driver.rpc.handlers import rpc

if TYPE_CHECKING:
    from csi_driver.rpc.controller import Controller
    from csi_driver.rpc.unary import UnaryServer

LOG = logging.getLogger(__name__)


class Administration(pb_grpc.AdministrationServicer):
    """What CSI has no call for.

    :param controller: whose service does the work.
    """

    def __init__(self, controller: Controller) -> None:
        self.gate = controller.gate
        self._controller = controller

    @rpc(effect=True)
    def RevertVolume(self, request: Any) -> Any:
        """Put a volume back to a snapshot; the caller may go, the work goes on."""
        volume_id = fields.required(request.volume_id, "volume_id")
        snapshot_id = fields.required(request.snapshot_id, "snapshot_id")
        LOG.warning("Asked to revert volume %s to snapshot %s", volume_id, snapshot_id)
        with lending():
            future = self._controller.service.reverts.revert(volume_id, snapshot_id)
        outcome(future)
        return pb.RevertVolumeResponse()


def add_to_server(controller: Controller, server: UnaryServer) -> None:
    """Serve it."""
    pb_grpc.add_AdministrationServicer_to_server(Administration(controller), server)
