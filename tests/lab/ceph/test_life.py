"""The object library on a real cluster: whole lives, with the bytes compared at each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import csi_driver.cinderlib as cinderlib
from csi_driver.base.masking import SECRETS
from csi_driver.base.values import GIB
from tests.lab.ceph.cluster import Cluster
from tests.lab.ceph.pool import Pool

FIRST, SECOND = b"first " * 1000, b"second" * 1000
CONNECTOR = {"host": "node1", "ip": "192.0.2.1", "initiator": "iqn.node1"}
FAR = GIB - 4096


def holds(pool: Pool, volume: cinderlib.Volume, near: bytes, far: bytes) -> bool:
    name = volume.name_in_storage
    return (pool.read(name, 6000), pool.read(name, 4096, FAR)) == (near, far)


def test_a_whole_life(
    make: Callable[..., cinderlib.Backend], pool: Pool, clone_format: str
) -> None:
    backend = make(clone_format)
    old, new, end = FIRST, SECOND, b"e" * 4096
    volume = backend.create_volume(1, name="data")
    assert pool.size(volume.name_in_storage) == GIB
    pool.write(volume.name_in_storage, old)
    pool.write(volume.name_in_storage, end, FAR)

    snapshot = volume.create_snapshot("cut")
    pool.write(volume.name_in_storage, new)
    restored = snapshot.create_volume()
    larger = snapshot.create_volume(size=3)
    clone = volume.clone()
    larger_clone = volume.clone(size=2)
    assert holds(pool, restored, old, end)
    assert holds(pool, larger, old, end)
    assert holds(pool, clone, new, end)
    assert holds(pool, larger_clone, new, end)
    assert pool.size(larger.name_in_storage) == 3 * GIB
    assert pool.size(larger_clone.name_in_storage) == 2 * GIB
    assert pool.read(larger.name_in_storage, 4096, 3 * GIB - 4096) == bytes(4096)

    snapshot.revert()
    assert holds(pool, volume, old, end)
    assert holds(pool, clone, new, end)
    snapshot.delete()
    assert restored.extend(2) == 2 * GIB == pool.size(restored.name_in_storage)
    assert holds(pool, restored, old, end)

    volume.delete()
    for left in (restored, larger):
        assert holds(pool, left, old, end)
    for left in (clone, larger_clone):
        assert holds(pool, left, new, end)
    for left in (clone, restored, larger_clone, larger):
        left.delete()
    assert pool.left() == set()


def test_a_copy_of_a_copy_outlives_the_others(
    make: Callable[..., cinderlib.Backend], pool: Pool, clone_format: str
) -> None:
    backend = make(clone_format)
    volume = backend.create_volume(1)
    pool.write(volume.name_in_storage, FIRST)
    chain = [volume]
    for _ in range(7):  # beyond rbd_max_clone_depth, which is 5
        chain.append(chain[-1].clone())
    for ancestor in chain[:-1]:
        ancestor.delete()

    assert pool.read(chain[-1].name_in_storage, 6000) == FIRST
    chain[-1].delete()
    assert pool.left() == set()


def test_a_clone_may_be_a_full_copy(make: Callable[..., cinderlib.Backend], pool: Pool) -> None:
    backend = make(rbd_max_clone_depth=0)
    volume = backend.create_volume(1, multiattach=True)
    pool.write(volume.name_in_storage, FIRST)
    clone = volume.clone(size=2)

    assert pool.snapshots(volume.name_in_storage) == set()
    with pool.image(clone.name_in_storage) as image:
        assert not image.features() & pool.rbd.RBD_FEATURE_EXCLUSIVE_LOCK
    volume.delete()
    assert pool.images() == {clone.name_in_storage}
    assert pool.read(clone.name_in_storage, 6000) == FIRST
    clone.delete()


def test_a_connection_holds_what_a_node_needs(backend: cinderlib.Backend, cluster: Cluster) -> None:
    volume = backend.create_volume(1)
    connection = volume.connect(CONNECTOR)
    data = connection.conn_info["data"]

    assert connection.protocol == "rbd"
    assert data["name"] == f"volumes/{volume.name_in_storage}"
    assert data["keyring"] == cluster.keyring.read_text()
    assert data["hosts"] == ["127.0.0.1"]
    assert f"127.0.0.1:{data['ports'][0]}" in cluster.ceph("mon", "dump")
    # Known as a secret since the backend was set up: no log line shows it.
    assert cluster.key not in SECRETS.mask(str(data))

    connection.disconnect()
    volume.delete()


def test_statistics_come_from_the_pool(backend: cinderlib.Backend) -> None:
    stats = backend.manager.stats(refresh=True)

    (pool,) = stats.pools
    assert stats.protocol == "ceph"
    assert stats.multiattach
    assert pool.thin
    assert pool.total_gib is not None
    assert 3 < pool.total_gib <= 4


def test_a_volume_for_several_nodes_has_no_exclusive_lock(
    backend: cinderlib.Backend, pool: Pool
) -> None:
    volume = backend.create_volume(1, multiattach=True)
    clone = volume.clone()
    for made in (volume, clone):
        with pool.image(made.name_in_storage) as image:
            assert not image.features() & pool.rbd.RBD_FEATURE_EXCLUSIVE_LOCK
    first = volume.connect(CONNECTOR)
    second = volume.connect({**CONNECTOR, "host": "node2"})
    for connection in (first, second):
        connection.disconnect()
    volume.delete()
    clone.delete()


def test_limits_of_the_array_are_set_on_the_image(backend: cinderlib.Backend, pool: Pool) -> None:
    volume = backend.create_volume(1, qos_specs={"consumer": "back-end", "total_iops_sec": "500"})
    with pool.image(volume.name_in_storage) as image:
        assert image.config_get("rbd_qos_iops_limit") == "500"
    volume.delete()


def manageable(backend: cinderlib.Backend, known: list[dict[str, str]]) -> dict[str, Any]:
    found = backend.get_manageable_volumes(known, None, 100, 0, ["size"], ["asc"])
    return {entry["reference"]["source-name"]: entry for entry in found}


def test_images_of_others_can_be_listed_and_taken_over(
    backend: cinderlib.Backend, pool: Pool
) -> None:
    for name, size in (("theirs", GIB), ("open", GIB + 1)):
        pool.rbd.RBD().create(pool.ioctx, name, size)
    volume = backend.create_volume(1)
    hidden = backend.create_volume(1)
    clone = hidden.clone()
    hidden.delete()
    with pool.image("open"):
        found = manageable(backend, [{"id": volume._record.cinder_id}])

    assert found["theirs"]["safe_to_manage"]
    assert found["open"]["size"] == 2
    assert found["open"]["reason_not_safe"] == "volume in use"
    assert found[volume.name_in_storage]["reason_not_safe"] == "already managed"
    assert found[f"{hidden.name_in_storage}.deleted"]["reason_not_safe"] == (
        "volume marked as deleted"
    )
    for name in ("theirs", "open"):
        pool.rbd.RBD().remove(pool.ioctx, name)
    clone.delete()
    volume.delete()


def test_deferred_deletion_is_named_as_without_effect(
    make: Callable[..., cinderlib.Backend], pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    backend = make(enable_deferred_deletion=True)
    assert "enable_deferred_deletion has no effect" in caplog.text
    volume = backend.create_volume(1)
    clone = volume.clone()
    for one in (volume, clone):
        one.delete()
    assert pool.left() == set()


def test_an_unknown_user_is_refused_with_what_the_cluster_said(
    make: Callable[..., cinderlib.Backend],
) -> None:
    with pytest.raises(cinderlib.BackendSetupFailed, match="rror connecting to ceph cluster"):
        make(rbd_user="nobody")
