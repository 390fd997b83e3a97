"""The CSI calls of the benchmark, by one client or by many at once."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from csi_driver.base.values import GIB
from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc.client import Client

MOUNT_XFS = pb.VolumeCapability(
    mount=pb.VolumeCapability.MountVolume(fs_type="xfs"),
    access_mode=pb.VolumeCapability.AccessMode(
        mode=pb.VolumeCapability.AccessMode.SINGLE_NODE_WRITER
    ),
)

_NAMES = itertools.count(1)


def create(client: Client) -> pb.Volume:
    """CreateVolume: 1 GiB, under a name that was never used."""
    request = pb.CreateVolumeRequest(
        name=f"pvc-{next(_NAMES)}",
        capacity_range=pb.CapacityRange(required_bytes=GIB),
        volume_capabilities=[MOUNT_XFS],
    )
    volume: pb.Volume = client.controller.CreateVolume(request).volume
    return volume


def delete(client: Client, volume_id: str) -> None:
    """DeleteVolume."""
    client.controller.DeleteVolume(pb.DeleteVolumeRequest(volume_id=volume_id))


def pair(client: Client) -> None:
    """CreateVolume and DeleteVolume."""
    delete(client, create(client).volume_id)


def probe(client: Client) -> None:
    """Probe."""
    client.identity.Probe(pb.ProbeRequest())


def repeat(call: Callable[[Client], object], client: Client, times: int, clients: int = 1) -> float:
    """Make a call ``times`` times, ``clients`` at once; answers the seconds it took."""
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(lambda count: _loop(call, client, count), [times // clients] * clients))
    return time.perf_counter() - started


def _loop(call: Callable[[Client], object], client: Client, times: int) -> None:
    for _ in range(times):
        call(client)


def milliseconds(call: Callable[[], object]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000
