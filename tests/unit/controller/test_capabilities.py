"""The matrix of access types and modes: what can be had, and why not."""

from __future__ import annotations

import itertools

import pytest

from csi_driver.base.errors import InvalidRequest
from csi_driver.base.values import AccessMode, AccessType, VolumeCapability
from csi_driver.controller import capabilities


def capability(access_type=AccessType.MOUNT, mode=AccessMode.SINGLE_NODE_WRITER, **fields):
    return VolumeCapability(access_type=access_type, mode=mode, **fields)


SINGLE = {
    AccessMode.SINGLE_NODE_WRITER,
    AccessMode.SINGLE_NODE_READER_ONLY,
    AccessMode.SINGLE_NODE_SINGLE_WRITER,
    AccessMode.SINGLE_NODE_MULTI_WRITER,
}


@pytest.mark.parametrize("mode", AccessMode)
@pytest.mark.parametrize("access_type", AccessType)
@pytest.mark.parametrize("multiattach", [False, True])
def test_the_matrix_of_access_types_and_modes(access_type, mode, multiattach):
    many_readers = mode is AccessMode.MULTI_NODE_READER_ONLY
    can_be_had = mode in SINGLE or (
        multiattach and (access_type is AccessType.BLOCK or many_readers)
    )
    reason = capabilities.problem(capability(access_type, mode), multiattach=multiattach)
    assert (reason == "") == can_be_had
    if not can_be_had:
        assert mode in reason


def test_a_filesystem_that_two_nodes_would_destroy_is_refused_with_the_way_out():
    reason = capabilities.problem(
        capability(mode=AccessMode.MULTI_NODE_MULTI_WRITER), multiattach=True
    )
    assert "volumeMode Block" in reason


@pytest.mark.parametrize(
    ("fs_type", "known"), [("", True), ("ext4", True), ("xfs", True), ("btrfs", False)]
)
def test_only_filesystems_that_a_node_makes_are_supported(fs_type, known):
    reason = capabilities.problem(capability(fs_type=fs_type), multiattach=False)
    assert (reason == "") == known
    assert known or "ext4, xfs" in reason


def test_a_mount_group_is_refused():
    assert "fsGroup" in capabilities.problem(
        capability(volume_mount_group="1000"), multiattach=False
    )


def test_a_request_needs_a_capability_and_only_ones_that_can_be_had():
    with pytest.raises(InvalidRequest, match="missing"):
        capabilities.require((), multiattach=True)
    good, bad = capability(), capability(fs_type="ntfs")
    capabilities.require((good,), multiattach=False)
    with pytest.raises(InvalidRequest, match="ntfs"):
        capabilities.require((good, bad), multiattach=False)


def test_a_volume_is_used_by_mount_or_by_block():
    with pytest.raises(InvalidRequest, match="not by both"):
        capabilities.require((capability(), capability(AccessType.BLOCK)), multiattach=False)


@pytest.mark.parametrize("mode", AccessMode)
@pytest.mark.parametrize("readonly", [False, True])
def test_a_reader_never_writes(mode, readonly):
    reads_only = readonly or mode.endswith("READER_ONLY")
    assert capabilities.writes(mode, readonly) is not reads_only


def test_equal_wishes_are_equal_in_any_order_and_without_mount_flags():
    block = [
        capability(AccessType.BLOCK, mode)
        for mode in (AccessMode.SINGLE_NODE_WRITER, AccessMode.MULTI_NODE_READER_ONLY)
    ]
    mount = [capability(fs_type="xfs", mount_flags=("noatime",))]
    wishes = [capabilities.normalised(order) for order in itertools.permutations([*block, *mount])]
    assert all(wish == wishes[0] for wish in wishes)
    assert capabilities.normalised(mount) == capabilities.normalised([capability(fs_type="xfs")])
    assert capabilities.normalised(mount) != capabilities.normalised([capability(fs_type="ext4")])


def test_multiattach_is_wanted_when_one_mode_has_several_nodes():
    one, many = capability(), capability(mode=AccessMode.MULTI_NODE_READER_ONLY)
    assert not capabilities.wants_multiattach((one,))
    assert capabilities.wants_multiattach((one, many))
