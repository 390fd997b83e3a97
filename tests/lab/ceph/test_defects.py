"""Defects of Cinder's RBD driver, each of which was seen on a real cluster, and is not any more."""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

import csi_driver.cinderlib as cinderlib
from csi_driver.base.values import GIB
from csi_driver.cinderlib.failures import FailureKind, classify
from tests.lab.ceph.cluster import Cluster
from tests.lab.ceph.pool import Pool

Make = Callable[..., cinderlib.Backend]

REPLICATED = {"replication_enabled": "<is> True"}
"""Specs that the cluster refuses, after the image was made: the pool is not mirrored."""


def copies(volume: cinderlib.Volume, number: int) -> list[cinderlib.Volume]:
    return [volume.clone() for _ in range(number)]


# -- what was left for ever ------------------------------------------------------


@pytest.mark.parametrize("source_first", [True, False])
def test_a_clone_and_its_source_leave_nothing(
    make: Make, pool: Pool, clone_format: str, source_first: bool
) -> None:
    volume = make(clone_format).create_volume(1)
    clone = volume.clone()
    for one in (volume, clone) if source_first else (clone, volume):
        one.delete()

    assert pool.left() == set()


def test_a_clone_takes_its_snapshot_of_the_source_with_it(
    backend: cinderlib.Backend, pool: Pool
) -> None:
    volume = backend.create_volume(1)
    clone = volume.clone()
    assert pool.snapshots(volume.name_in_storage) == {f"{clone.name_in_storage}.clone_snap"}
    clone.delete()

    assert pool.snapshots(volume.name_in_storage) == set()
    volume.delete()


def test_a_source_whose_snapshot_lives_in_a_copy_s_snapshot_leaves_nothing(
    backend: cinderlib.Backend, pool: Pool
) -> None:
    """Cinder flattens the copy, does not get rid of the source so, and leaves it in the trash."""
    volume = backend.create_volume(1)
    cut = volume.create_snapshot()
    restored = cut.create_volume()
    clone = restored.clone()
    for one in (cut, volume, restored, clone):
        one.delete()

    assert pool.left() == set()


def test_siblings_that_are_deleted_at_once_leave_nothing(
    backend: cinderlib.Backend, pool: Pool
) -> None:
    for _ in range(3):
        volume = backend.create_volume(1)
        made = [*copies(volume, 6), volume]
        with ThreadPoolExecutor(len(made)) as threads:
            for done in [threads.submit(one.delete) for one in made]:
                done.result()
        assert pool.left() == set()


@pytest.mark.parametrize("step", ["_let_go", "_remove"])
@pytest.mark.parametrize("source_first", [True, False])
def test_a_deletion_that_was_interrupted_is_finished_by_its_repetition(
    backend: cinderlib.Backend, pool: Pool, monkeypatch: pytest.MonkeyPatch,
    step: str, source_first: bool,
) -> None:  # fmt: skip
    first = backend.create_volume(1)
    second = first.clone()
    third = second.clone()
    order = [first, second, third] if source_first else [third, second, first]
    done = getattr(backend.driver, step)

    def interrupted(*arguments: Any) -> Any:
        monkeypatch.setattr(backend.driver, step, done)
        if step == "_remove":
            done(*arguments)
        raise ConnectionError("the process ends here")

    for volume in order:
        monkeypatch.setattr(backend.driver, step, interrupted)
        try:
            volume.delete()
        except ConnectionError:
            volume.delete()
    monkeypatch.setattr(backend.driver, step, done)

    assert pool.left() == set()


def test_a_creation_that_was_killed_leaves_nothing_that_its_deletion_does_not_find(
    backend: cinderlib.Backend, pool: Pool
) -> None:
    volume = backend.create_volume(1)
    with pool.image(volume.name_in_storage) as image:
        header = f"rbd_header.{image.id()}"
        objects = f"rbd_object_map.{image.id()}"
    # librbd writes name and directory first: such an image is listed, and cannot be opened.
    for name in (header, objects):
        pool.ioctx.remove_object(name)
    assert volume.name_in_storage in pool.images()
    volume.delete()

    assert pool.left() == set()


@pytest.mark.parametrize("remover", ["clone", "source"])
def test_the_snapshot_for_a_clone_that_was_not_made_is_removed(
    backend: cinderlib.Backend, pool: Pool, monkeypatch: pytest.MonkeyPatch, remover: str
) -> None:
    volume = backend.create_volume(1)

    def killed() -> Any:
        raise ConnectionError("killed")

    with monkeypatch.context() as patch, pytest.raises(ConnectionError):
        patch.setattr(backend.driver, "RBDProxy", killed)
        volume.clone()
    (clone,) = (one for one in backend.volumes if one.id != volume.id)
    assert len(pool.snapshots(volume.name_in_storage)) == 1
    if remover == "clone":
        clone.delete()
        assert pool.snapshots(volume.name_in_storage) == set()
        volume.delete()
    else:
        volume.delete()
        assert pool.left() == set()
        clone.delete()


# -- what was lost, or passed for another thing ----------------------------------


def test_a_volume_with_snapshots_of_others_is_not_deleted(
    backend: cinderlib.Backend, pool: Pool
) -> None:
    """Cinder moves it into the trash, with the snapshots, and answers OK."""
    volume = backend.create_volume(1)
    with pool.image(volume.name_in_storage) as image:
        image.create_snap("by-hand")
    with pytest.raises(Exception, match=r"has snapshots: by-hand") as raised:
        volume.delete()
    assert classify(raised.value).kind is FailureKind.BUSY
    assert pool.images() == {volume.name_in_storage}

    with pool.image(volume.name_in_storage) as image:
        image.remove_snap("by-hand")
    volume.delete()


def test_an_image_that_is_open_is_busy_and_its_user_is_named(
    backend: cinderlib.Backend, pool: Pool
) -> None:
    volume = backend.create_volume(1)
    with (
        pool.image(volume.name_in_storage),
        pytest.raises(Exception, match=r"is open by 127\.0\.0\.1:0/\d+") as raised,
    ):
        volume.delete()
    assert classify(raised.value).kind is FailureKind.BUSY
    volume.delete()


def test_a_volume_that_is_gone_can_be_deleted(backend: cinderlib.Backend, pool: Pool) -> None:
    volume = backend.create_volume(1)
    snapshot = volume.create_snapshot()
    with pool.image(volume.name_in_storage) as image:
        image.unprotect_snap(snapshot.name_in_storage)
        image.remove_snap(snapshot.name_in_storage)
    snapshot.delete()
    pool.rbd.RBD().remove(pool.ioctx, volume.name_in_storage)
    volume.delete()


def test_an_image_that_exists_is_named_by_an_error_of_cinder(
    backend: cinderlib.Backend, pool: Pool
) -> None:
    from cinder import exception

    volume = cinderlib.Volume(backend, size=1)
    pool.rbd.RBD().create(pool.ioctx, volume.name_in_storage, GIB)
    with pytest.raises(exception.Duplicate, match=volume.name_in_storage) as raised:
        volume.create()
    assert classify(raised.value).kind is FailureKind.EXISTS
    volume.delete()


def test_the_extension_of_what_is_gone_says_so(backend: cinderlib.Backend, pool: Pool) -> None:
    volume = backend.create_volume(1)
    pool.rbd.RBD().remove(pool.ioctx, volume.name_in_storage)
    with pytest.raises(Exception, match="could not be found") as raised:
        volume.extend(2)
    assert classify(raised.value).kind is FailureKind.NOT_FOUND
    volume.delete()


def test_an_image_never_becomes_smaller(backend: cinderlib.Backend, pool: Pool) -> None:
    """After a lost answer a caller may ask for less than what was done."""
    volume = backend.create_volume(1)
    with pool.image(volume.name_in_storage) as image:
        image.resize(5 * GIB)
    volume.extend(3)

    assert pool.size(volume.name_in_storage) == 5 * GIB
    volume.delete()


# -- what hung, or ended the process ---------------------------------------------


def test_a_failure_after_an_image_was_made_does_not_end_the_process(
    backend: cinderlib.Backend, pool: Pool
) -> None:
    """Cinder's driver calls librbd with a client that was shut down: a segmentation fault."""
    from cinder.exception import ReplicationError

    volume = backend.create_volume(1)
    cut = volume.create_snapshot()
    for make in (
        lambda: backend.create_volume(1, extra_specs=REPLICATED),
        lambda: cut.create_volume(extra_specs=REPLICATED),
        lambda: volume.clone(extra_specs=REPLICATED),
    ):
        with pytest.raises(ReplicationError):
            make()

    cut.delete()
    for left in backend.volumes:
        left.delete()
    assert pool.left() == set()


def test_an_image_is_closed_when_its_clone_fails(
    backend: cinderlib.Backend, pool: Pool, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cinder leaves it open, and whoever collects it as garbage later waits for ever."""
    volume = backend.create_volume(1)
    frozen = cluster.frozen("osd")

    class Image(pool.rbd.Image):  # type: ignore[misc, name-defined]
        def create_snap(self, name: str) -> None:
            frozen.__enter__()
            super().create_snap(name)

    names = {name: getattr(pool.rbd, name) for name in dir(pool.rbd)}
    try:
        with monkeypatch.context() as patch, pytest.raises(pool.rbd.Error) as raised:
            patch.setattr(backend.driver, "rbd", SimpleNamespace(**{**names, "Image": Image}))
            volume.clone()
    finally:
        frozen.__exit__(None, None, None)
    assert classify(raised.value).kind in (FailureKind.TIMEOUT, FailureKind.UNAVAILABLE)
    del raised
    gc.collect()

    for left in (*(one for one in backend.volumes if one.id != volume.id), volume):
        left.delete()
    assert pool.left() == set()


def test_nothing_waits_for_ever_for_a_monitor(backend: cinderlib.Backend, cluster: Cluster) -> None:
    """Cinder asks it by the ``ceph`` command, which waits for minutes."""
    volume = backend.create_volume(1)
    with cluster.frozen("mon"), pytest.raises(Exception, match="ceph cluster") as raised:
        volume.connect({"host": "node1"})
    assert classify(raised.value).kind in (FailureKind.TIMEOUT, FailureKind.UNAVAILABLE)
    volume.delete()
