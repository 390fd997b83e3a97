"""Requests and answers of the controller, free of protobuf.  Made and read by ``rpc``."""

from __future__ import annotations

import msgspec

from csi_driver.base.values import Topology, VolumeCapability
from csi_driver.cinderlib.persistence.records import SnapshotRecord, Source, VolumeRecord


class CreateVolume(msgspec.Struct, frozen=True, kw_only=True):
    """CSI CreateVolumeRequest; sizes in bytes, 0 means not given.

    ``requisite`` are the topologies of which one must reach the volume; empty: any.
    """

    name: str
    capabilities: tuple[VolumeCapability, ...]
    required_bytes: int = 0
    limit_bytes: int = 0
    parameters: dict[str, str] = {}
    source: Source | None = None
    requisite: tuple[Topology, ...] = ()


class PublishVolume(msgspec.Struct, frozen=True, kw_only=True):
    """CSI ControllerPublishVolumeRequest."""

    volume_id: str
    node_id: str
    capability: VolumeCapability
    readonly: bool = False


class ExpandVolume(msgspec.Struct, frozen=True, kw_only=True):
    """CSI ControllerExpandVolumeRequest; sizes in bytes, 0 means not given."""

    volume_id: str
    required_bytes: int = 0
    limit_bytes: int = 0


class CreateSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """CSI CreateSnapshotRequest."""

    name: str
    volume_id: str
    parameters: dict[str, str] = {}


class VolumeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A volume as CSI tells it.

    ``accessible_from`` is empty for a volume that every node reaches.
    """

    volume: VolumeRecord
    accessible_from: tuple[Topology, ...] = ()
    published_to: tuple[str, ...] = ()


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a list; ``next_token`` is '' on the last one."""

    volumes: tuple[VolumeAnswer, ...] = ()
    snapshots: tuple[SnapshotRecord, ...] = ()
    next_token: str = ""


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """Free room in bytes; ``maximum_volume_size`` is that of one pool, None if not known."""

    available_bytes: int
    maximum_volume_bytes: int | None = None
