"""Immutable values that pass between rooms: capabilities, formatting, nodes.

Used by ``rpc`` (which makes them from protobuf messages), ``controller``,
``cinderlib`` (which stores them inside records) and ``node``.  They are msgspec
structs: frozen, typed, and encoded to JSON without code of our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from csi_driver.base import decoding

GIB = 1 << 30
"""Bytes in one GiB; Cinder counts sizes in whole GiB, CSI in bytes."""


class AccessMode(StrEnum):
    """CSI ``VolumeCapability.AccessMode.Mode``, by its specification name."""

    SINGLE_NODE_WRITER = "SINGLE_NODE_WRITER"
    SINGLE_NODE_READER_ONLY = "SINGLE_NODE_READER_ONLY"
    MULTI_NODE_READER_ONLY = "MULTI_NODE_READER_ONLY"
    MULTI_NODE_SINGLE_WRITER = "MULTI_NODE_SINGLE_WRITER"
    MULTI_NODE_MULTI_WRITER = "MULTI_NODE_MULTI_WRITER"
    SINGLE_NODE_SINGLE_WRITER = "SINGLE_NODE_SINGLE_WRITER"
    SINGLE_NODE_MULTI_WRITER = "SINGLE_NODE_MULTI_WRITER"

    @property
    def read_only(self) -> bool:
        """Whether no node may write."""
        return self in (AccessMode.SINGLE_NODE_READER_ONLY, AccessMode.MULTI_NODE_READER_ONLY)

    @property
    def multi_node(self) -> bool:
        """Whether more than one node may have the volume published at a time."""
        return self.startswith("MULTI_NODE")

    @property
    def multi_target(self) -> bool:
        """Whether one node may publish the volume at several target paths.

        CSI, NodePublishVolume: MULTI_NODE_* and SINGLE_NODE_MULTI_WRITER.
        """
        return self.multi_node or self is AccessMode.SINGLE_NODE_MULTI_WRITER


class AccessType(StrEnum):
    """How a workload sees the volume: a mounted filesystem or a raw block device."""

    MOUNT = "mount"
    BLOCK = "block"


class VolumeCapability(msgspec.Struct, frozen=True, kw_only=True):
    """CSI ``VolumeCapability``; ``fs_type`` and ``mount_flags`` are for mount only."""

    access_type: AccessType
    mode: AccessMode
    fs_type: str = ""
    mount_flags: tuple[str, ...] = ()
    volume_mount_group: str = ""


class FormattingState(StrEnum):
    """What is known of the bytes on a volume; decides whether mkfs may run.

    NEVER: no stage ever succeeded, nobody's data can be there.
    FORMATTED: holds the filesystem named beside it.
    RAW: was given out as a block device; never to be formatted.
    UNKNOWN: imported, of a restored record, or copied from a volume in its first use of which no
    node's word counts; never to be formatted.
    """

    NEVER = "never"
    FORMATTED = "formatted"
    RAW = "raw"
    UNKNOWN = "unknown"


class Formatting(msgspec.Struct, frozen=True, kw_only=True):
    """Formatting state of a volume.

    With NEVER, ``fs_uuid`` is the UUID that the first filesystem is to get and
    ``fs_type`` its type when one is decided ('' until then).
    """

    state: FormattingState = FormattingState.NEVER
    fs_type: str = ""
    fs_uuid: str = ""


class Confirmation(msgspec.Struct, frozen=True, kw_only=True):
    """What a node has proved about a volume and the ledger has stored.

    ``identity`` is the device identity learned at the first stage ('' if the
    device has none), required at every later stage.
    """

    volume_id: str
    formatting: Formatting
    identity: str = ""


class NodeRegistration(msgspec.Struct, frozen=True, kw_only=True):
    """What a node tells about itself when it starts or its facts change.

    ``connector`` holds os-brick's connector properties (host, ip, initiator, ...);
    ``topology`` the CSI topology segments; ``max_volumes`` 0 means no limit.
    """

    node_id: str
    connector: dict[str, Any]
    topology: dict[str, str]
    max_volumes: int = 0
    version: str = ""


class PublishContext(msgspec.Struct, frozen=True, kw_only=True):
    """What ControllerPublishVolume hands to NodeStageVolume, before sealing.

    ``connection`` is Cinder's connection info: ``{"driver_volume_type", "data"}``.
    ``size_bytes`` is the recorded size: the device may not be smaller.
    ``identity`` is '' while none is known.
    """

    volume_id: str
    node_id: str
    connection: dict[str, Any]
    size_bytes: int
    formatting: Formatting
    readonly: bool = False
    identity: str = ""


class Topology(msgspec.Struct, frozen=True, kw_only=True):
    """CSI ``Topology``: one set of segments (key -> value)."""

    segments: Mapping[str, str]


decoding.prepare(__name__)
