"""What the Node service asks of the node room, and what it gets back.

``rpc`` makes these from protobuf messages.  Two calls are equal when every field
is: an equal call joins the running one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from csi_driver.base.values import VolumeCapability


class StageRequest(msgspec.Struct, frozen=True, kw_only=True):
    """CSI NodeStageVolume.  ``publish_context`` is the sealed map of the controller."""

    volume_id: str
    publish_context: Mapping[str, str]
    staging_path: str
    capability: VolumeCapability
    volume_context: Mapping[str, str] = {}
    secrets: Mapping[str, str] = {}

    def __repr__(self) -> str:
        """Without mount flags and secrets: a request may end in a log."""
        return f"StageRequest({self.volume_id!r}, {self.staging_path!r})"


class PublishRequest(msgspec.Struct, frozen=True, kw_only=True):
    """CSI NodePublishVolume."""

    volume_id: str
    staging_path: str
    target_path: str
    capability: VolumeCapability
    readonly: bool = False
    publish_context: Mapping[str, str] = {}
    volume_context: Mapping[str, str] = {}

    def __repr__(self) -> str:
        """Without mount flags: a request may end in a log."""
        return f"PublishRequest({self.volume_id!r}, {self.target_path!r})"


class ExpandRequest(msgspec.Struct, frozen=True, kw_only=True):
    """CSI NodeExpandVolume; 0 bytes means no requirement or no limit."""

    volume_id: str
    volume_path: str
    staging_path: str = ""
    required_bytes: int = 0
    limit_bytes: int = 0
    capability: VolumeCapability | None = None

    def __repr__(self) -> str:
        """Without mount flags: a request may end in a log."""
        return f"ExpandRequest({self.volume_id!r}, {self.required_bytes} bytes)"


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """CSI VolumeUsage; ``unit`` is "BYTES" or "INODES".

    ``available`` and ``used`` stay 0 for a block device: only its user knows.
    """

    unit: str
    total: int
    available: int = 0
    used: int = 0


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """CSI NodeGetInfo; ``max_volumes`` 0 means no limit."""

    node_id: str
    max_volumes: int
    topology: dict[str, str]


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a node must be told.

    :param state_dir: survives a restart of the plugin and of the host.
    :param workers: how many volumes are worked on at a time.
    """

    node_id: str
    state_dir: Path
    driver_name: str
    topology: dict[str, str] = {}
    max_volumes: int = 0
    workers: int = 16
