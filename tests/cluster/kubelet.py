"""The part of kubelet, and of the attach controller, that a node's volumes need.

Kubelet itself is not run: what it would do to the API objects and call on the node plugin's
socket is done here, in its order and with what it would pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from csi_driver.kube.api import Object
from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc.client import Client
from tests.cluster import sidecars
from tests.cluster.apiserver import ApiServer
from tests.support.calls import WAIT
from tests.support.messages import mount

ATTACHMENTS = "/apis/storage.k8s.io/v1/volumeattachments"


class Kubelet:
    """Of one node with one plugin.

    :param socket: of the node plugin.
    :param pods: the directory for mounts, as ``/var/lib/kubelet``.
    """

    def __init__(self, server: ApiServer, node: str, driver: str, socket: Path, pods: Path) -> None:
        self._server = server
        self._node = node
        self._driver = driver
        self._pods = pods
        self._client = Client(str(socket))

    def close(self) -> None:
        """Close the channel to the plugin."""
        self._client.close()

    def register(self) -> None:
        """Node and CSINode, with what NodeGetInfo says of topology."""
        info = self._client.node.NodeGetInfo(pb.NodeGetInfoRequest(), timeout=WAIT)
        assert info.node_id == self._node
        segments = dict(info.accessible_topology.segments)
        (key,) = segments
        labels = {"kubernetes.io/hostname": self._node, **segments}
        self._server.apply(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": self._node, "labels": labels},
            },
            sidecars.csi_node(self._node, self._driver, key),
        )

    @contextlib.contextmanager
    def mounted(self, volume: Object, attachment: Object) -> Iterator[Mounted]:
        """A PersistentVolume at a Pod's path, once it is attached; undone at the end.

        :param attachment: the VolumeAttachment, attached.
        """
        csi = volume["spec"]["csi"]
        place = Mounted(
            self._client,
            csi["volumeHandle"],
            self._pods / "plugins" / volume["metadata"]["name"] / "globalmount",
            self._pods / "pods" / volume["metadata"]["name"] / "mount",
        )
        place.staging.mkdir(parents=True)
        place.path.parent.mkdir(parents=True)
        capability = mount(fs_type=csi.get("fsType", ""))
        context = attachment["status"].get("attachmentMetadata", {})
        node = self._client.node
        node.NodeStageVolume(
            pb.NodeStageVolumeRequest(
                volume_id=place.volume_id,
                publish_context=context,
                staging_target_path=str(place.staging),
                volume_capability=capability,
                volume_context=csi.get("volumeAttributes", {}),
            ),
            timeout=WAIT,
        )
        node.NodePublishVolume(
            pb.NodePublishVolumeRequest(
                volume_id=place.volume_id,
                publish_context=context,
                staging_target_path=str(place.staging),
                target_path=str(place.path),
                volume_capability=capability,
                volume_context=csi.get("volumeAttributes", {}),
            ),
            timeout=WAIT,
        )
        yield place
        node.NodeUnpublishVolume(
            pb.NodeUnpublishVolumeRequest(volume_id=place.volume_id, target_path=str(place.path)),
            timeout=WAIT,
        )
        node.NodeUnstageVolume(
            pb.NodeUnstageVolumeRequest(
                volume_id=place.volume_id, staging_target_path=str(place.staging)
            ),
            timeout=WAIT,
        )
        place.staging.rmdir()
        place.path.parent.rmdir()


class Mounted:
    """A volume that a Pod has at ``path``."""

    def __init__(self, client: Client, volume_id: str, staging: Path, path: Path) -> None:
        self._client = client
        self.volume_id = volume_id
        self.staging = staging
        self.path = path

    def expand(self, size: int) -> None:
        """NodeExpandVolume: the filesystem becomes as large as the device.

        :param size: bytes that the claim asks for.
        """
        self._client.node.NodeExpandVolume(
            pb.NodeExpandVolumeRequest(
                volume_id=self.volume_id,
                volume_path=str(self.path),
                staging_target_path=str(self.staging),
                capacity_range=pb.CapacityRange(required_bytes=size),
                volume_capability=mount(),
            ),
            timeout=WAIT,
        )
