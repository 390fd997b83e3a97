"""The node's state files: what is written is read, names are safe, damage is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_driver.base.values import AccessMode, AccessType, VolumeCapability
from csi_driver.node.errors import NodeStateDamaged
from csi_driver.node.state import NodeState, PublishedTarget, StagedVolume, Step, file_name

CAPABILITY = VolumeCapability(
    access_type=AccessType.MOUNT, mode=AccessMode.SINGLE_NODE_WRITER, mount_flags=("noatime",)
)


def staged(volume_id: str = "vol-1") -> StagedVolume:
    return StagedVolume(
        volume_id=volume_id,
        staging_path="/staging",
        publish_context={"sealed": "x"},
        capability=CAPABILITY,
        readonly=False,
        step=Step.STAGED,
        boot_id="boot",
        device_info={"path": "/dev/loop9"},
        targets=(PublishedTarget(target_path="/t", capability=CAPABILITY, readonly=True),),
    )


def test_a_volume_that_was_written_is_read_back(tmp_path):
    state = NodeState(tmp_path / "volumes")
    state.write(staged())
    assert state.read("vol-1") == staged()


def test_an_unknown_volume_has_no_state_and_can_be_removed(tmp_path):
    state = NodeState(tmp_path / "volumes")
    assert state.read("vol-1") is None
    state.remove("vol-1")


def test_a_removed_volume_has_no_state(tmp_path):
    state = NodeState(tmp_path)
    state.write(staged())
    state.remove("vol-1")
    assert state.read("vol-1") is None
    assert list(tmp_path.iterdir()) == []


def test_state_files_are_for_their_owner_only(tmp_path):
    NodeState(tmp_path).write(staged())
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", [b"", b"{", b'{"volume_id": 1}', b"\xff\xfe"])
def test_a_damaged_file_is_named_and_can_be_set_aside(tmp_path, content):
    state = NodeState(tmp_path)
    path = tmp_path / file_name("vol-1")
    path.write_bytes(content)
    with pytest.raises(NodeStateDamaged, match=path.name):
        state.read("vol-1")
    aside = state.set_aside("vol-1")
    assert state.read("vol-1") is None
    assert aside.read_bytes() == content


def test_a_file_of_another_volume_is_not_believed(tmp_path):
    state = NodeState(tmp_path)
    state.write(staged("vol-2"))
    (tmp_path / file_name("vol-2")).rename(tmp_path / file_name("vol-1"))
    with pytest.raises(NodeStateDamaged, match="vol-2"):
        state.read("vol-1")


def test_a_target_is_replaced_by_path_and_removed_by_path():
    writable = PublishedTarget(target_path="/t", capability=CAPABILITY, readonly=False)
    volume = staged().with_target(writable)
    assert volume.targets == (writable,)
    assert volume.without_target("/t").targets == ()


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=128))
def test_any_volume_id_gives_a_plain_file_name(volume_id):
    name = file_name(volume_id)
    assert "/" not in name
    assert len(name.encode()) <= 255
    assert name not in (".", "..")


@pytest.mark.parametrize(("one", "other"), [("a/b", "a%2Fb"), ("x" * 120 + "1", "x" * 120 + "2")])
def test_different_ids_get_different_names(one, other):
    assert file_name(one) != file_name(other)
