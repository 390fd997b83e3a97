"""Controller and node as two processes of one machine, and what a node must not load."""

from __future__ import annotations

import subprocess
from pathlib import Path

import grpc
import pytest

from csi_driver.rpc._generated import csi_pb2 as pb
from tests.support.calls import WAIT, Calls

FOREIGN = (
    "cinder",
    "csi_driver.cinderlib",
    "csi_driver.controller",
    "csi_driver.drivers",
    "csi_driver.kube",
    "csi_driver.rpc.controller",
    "kubernetes",
    "pydantic",
    "requests",
    "rich",
    "sqlalchemy",
)
"""What runs on every machine of a cluster loads none of these, nor anything below them."""


def imported(log: str) -> set[str]:
    """Names of modules, from what Python writes with PYTHONPROFILEIMPORTTIME."""
    lines = (line for line in log.splitlines() if line.startswith("import time:"))
    return {line.rpartition("|")[2].strip() for line in lines}


@pytest.fixture
def pair(driver):
    """A controller and a node that share a state directory, with clients of both."""
    node = driver("node", role="node", node_id="n1", environment={"PYTHONPROFILEIMPORTTIME": "1"})
    shared = ("--state-dir", str(node.state_directory))
    controller = driver("controller", role="controller", node_id="n1", arguments=shared)
    with node, controller, Calls(node) as on_node, Calls(controller) as on_controller:
        yield on_controller, on_node, node


def test_a_node_is_known_to_the_controller_as_it_is_to_kubernetes(pair):
    controller, node, _ = pair
    info = node.node.NodeGetInfo(pb.NodeGetInfoRequest(), timeout=WAIT)
    assert info.node_id == "n1"
    volume = controller.create("data")
    assert list(volume.accessible_topology) == [info.accessible_topology]
    controller.publish(volume.volume_id, "n1")


def test_each_serves_its_own_services_only(pair):
    controller, node, _ = pair
    for call, request in (
        (controller.node.NodeGetInfo, pb.NodeGetInfoRequest()),
        (node.controller.ListVolumes, pb.ListVolumesRequest()),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            call(request, timeout=WAIT)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_both_tell_the_same_of_the_plugin(pair):
    """CSI asks it of all instances of one version."""
    capabilities, info = pb.GetPluginCapabilitiesRequest(), pb.GetPluginInfoRequest()
    controller, node, _ = pair
    assert controller.identity.GetPluginCapabilities(
        capabilities
    ) == node.identity.GetPluginCapabilities(capabilities)
    assert controller.identity.GetPluginInfo(info) == node.identity.GetPluginInfo(info)


@pytest.mark.root
def test_a_volume_of_the_controller_is_used_on_the_node(pair, tmp_path: Path):
    controller, node, process = pair
    staging = tmp_path / "staging"
    staging.mkdir()
    volume_id = controller.create("data").volume_id
    for text in ("first", "second"):
        context = controller.publish(volume_id, "n1")
        node.stage(volume_id, context, str(staging))
        try:
            (staging / text).write_text(text)
            assert (staging / "first").read_text() == "first"
            assert subprocess.run(["mountpoint", "-q", staging], check=False).returncode == 0
        finally:
            node.unstage(volume_id, str(staging))
        controller.unpublish(volume_id, "n1")
    controller.delete(volume_id)
    assert_small(process.logs())


def test_a_node_that_serves_has_loaded_nothing_of_the_controller(pair):
    *_, process = pair
    assert_small(process.logs())


def assert_small(log: str) -> None:
    modules = imported(log)
    assert "csi_driver.node.service" in modules
    found = {name for name in modules for f in FOREIGN if name == f or name.startswith(f"{f}.")}
    assert found == set()
