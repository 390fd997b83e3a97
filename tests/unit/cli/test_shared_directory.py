"""The ledger of one machine: both sides see one truth, and damage is told."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from csi_driver.base.values import (
    Confirmation,
    Formatting,
    FormattingState,
    NodeRegistration,
)
from csi_driver.cli.shared_directory import SharedDirectory
from csi_driver.controller.ports import NodeDirectory
from csi_driver.node.ports import LedgerUnavailable, NodeLedger

FORMATTED = Formatting(state=FormattingState.FORMATTED, fs_type="xfs", fs_uuid="u")


def registration(node_id: str = "node-1", **fields) -> NodeRegistration:
    return NodeRegistration(
        **{
            "node_id": node_id,
            "connector": {"host": "h", "ip": "192.0.2.1"},
            "topology": {"t": "v"},
        }
        | fields
    )


def confirmation(volume_id: str = "vol-1", identity: str = "wwn-1") -> Confirmation:
    return Confirmation(volume_id=volume_id, formatting=FORMATTED, identity=identity)


def node_side(directory: Path) -> NodeLedger:
    return SharedDirectory(directory)


def controller_side(directory: Path) -> NodeDirectory:
    return SharedDirectory(directory)


def test_the_controller_finds_what_a_node_told(tmp_path: Path):
    node_side(tmp_path).register(registration())
    node_side(tmp_path).confirm(confirmation())
    controller = controller_side(tmp_path)
    assert controller.node("node-1") == registration()
    assert controller.nodes() == [registration()]
    assert controller.confirmation("vol-1") == confirmation()


def test_before_anybody_told_anything_nothing_is_known(tmp_path: Path):
    controller = controller_side(tmp_path / "absent")
    assert controller.node("node-1") is None
    assert controller.nodes() == []
    assert controller.confirmation("vol-1") is None
    controller.forget("vol-1")


def test_a_later_word_replaces_the_earlier(tmp_path: Path):
    node = node_side(tmp_path)
    for maximum in (1, 2):
        node.register(registration(max_volumes=maximum))
        node.confirm(confirmation(identity=f"wwn-{maximum}"))
    assert controller_side(tmp_path).nodes() == [registration(max_volumes=2)]
    assert node.confirmation("vol-1") == confirmation(identity="wwn-2")


def test_a_forgotten_volume_is_forgotten_and_may_be_forgotten_again(tmp_path: Path):
    node_side(tmp_path).confirm(confirmation())
    for _ in range(2):
        controller_side(tmp_path).forget("vol-1")
        assert node_side(tmp_path).confirmation("vol-1") is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=256))
def test_any_id_is_kept_below_the_directory_under_a_name_of_its_own(tmp_path: Path, key: str):
    shared = SharedDirectory(tmp_path / "state")
    shared.confirm(confirmation(key))
    assert shared.confirmation(key) == confirmation(key)
    (file,) = (tmp_path / "state" / "confirmations").iterdir()
    assert file.suffix == ".json"
    assert list(tmp_path.iterdir()) == [tmp_path / "state"]
    shared.forget(key)


@pytest.mark.parametrize("key", ["..", ".", "../up", "a/b", "a\0b", "x" * 200, ".hidden", ""])
def test_an_id_that_is_no_plain_file_name_is_hashed(tmp_path: Path, key: str):
    shared = SharedDirectory(tmp_path)
    shared.confirm(confirmation(key))
    (file,) = (tmp_path / "confirmations").iterdir()
    assert file.name.startswith("sha256-")
    assert shared.confirmation(key) == confirmation(key)


def test_ids_that_look_alike_are_kept_apart(tmp_path: Path):
    shared = SharedDirectory(tmp_path)
    keys = ["a/b", "a_b", "a%2Fb", "A_B", "a.b", "x" * 200, "x" * 201]
    for key in keys:
        shared.confirm(confirmation(key))
    assert [shared.confirmation(key) for key in keys] == [confirmation(key) for key in keys]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"volume_id": 7}', b'{"node_id": "node-1"}']
)
def test_a_damaged_file_is_named_and_never_taken_for_an_absent_one(tmp_path: Path, content: bytes):
    shared = SharedDirectory(tmp_path)
    shared.register(registration())
    shared.confirm(confirmation())
    for file in (tmp_path / "nodes" / "node-1.json", tmp_path / "confirmations" / "vol-1.json"):
        file.write_bytes(content)
    with pytest.raises(LedgerUnavailable, match=r"vol-1\.json"):
        shared.confirmation("vol-1")
    for ask in (lambda: shared.node("node-1"), shared.nodes):
        with pytest.raises(LedgerUnavailable, match=r"node-1\.json"):
            ask()


def test_a_directory_that_cannot_be_used_is_told_on_every_way(tmp_path: Path):
    """A plain file is in the way: refused for root as for anybody."""
    for name in ("nodes", "confirmations"):
        (tmp_path / name).touch()
    shared = SharedDirectory(tmp_path)
    for write in (lambda: shared.register(registration()), lambda: shared.confirm(confirmation())):
        with pytest.raises(LedgerUnavailable, match="cannot be written"):
            write()


def test_files_are_readable_for_owner_and_group_only(tmp_path: Path):
    shared = SharedDirectory(tmp_path)
    shared.register(registration())
    assert (tmp_path / "nodes" / "node-1.json").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "nodes").stat().st_mode & 0o777 == 0o700


def test_nodes_and_controller_may_work_at_once(tmp_path: Path):
    nodes = [f"node-{number}" for number in range(8)]
    barrier = threading.Barrier(len(nodes))

    def tell(node_id: str) -> None:
        shared = SharedDirectory(tmp_path)
        barrier.wait()
        for round_ in range(10):
            shared.register(registration(node_id, max_volumes=round_))
            found = shared.nodes()
            assert all(known.connector == registration().connector for known in found)

    with ThreadPoolExecutor(len(nodes)) as pool:
        list(pool.map(tell, nodes))
    assert [known.node_id for known in SharedDirectory(tmp_path).nodes()] == nodes
    assert len(list((tmp_path / "nodes").iterdir())) == len(nodes)


def test_a_node_that_registers_later_is_found_though_the_directory_is_old(tmp_path: Path):
    node_side(tmp_path).register(registration("node-1"))
    os.utime(tmp_path / "nodes", (1, 1))
    controller = controller_side(tmp_path)
    assert controller.nodes() == controller.nodes() == [registration("node-1")]
    node_side(tmp_path).register(registration("node-1", max_volumes=9))
    node_side(tmp_path).register(registration("node-2"))
    assert controller.nodes() == [registration("node-1", max_volumes=9), registration("node-2")]


def test_nodes_that_have_not_changed_are_not_read_again(tmp_path: Path):
    node_side(tmp_path).register(registration())
    os.utime(tmp_path / "nodes", (1, 1))
    controller = controller_side(tmp_path)
    first = controller.nodes()
    (tmp_path / "nodes" / "node-1.json").write_bytes(b"not read")
    assert controller.nodes() == first
