"""The socket: where it may be, who may take it, and when it goes."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from csi_driver.base.errors import ConfigurationError, InvalidRequest
from csi_driver.base.values import NodeRegistration
from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc.client import Client
from csi_driver.rpc.handlers import Gate, Readiness
from csi_driver.rpc.identity import Identity
from csi_driver.rpc.node import Node
from csi_driver.rpc.server import Server, SocketInUse, claim_socket, socket_path

WAIT = 30.0

# -- endpoints ------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ["unix:///csi/csi.sock", "unix:/csi/csi.sock"])
def test_an_endpoint_names_a_socket(endpoint):
    assert socket_path(endpoint) == Path("/csi/csi.sock")


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "/csi/csi.sock",
        "tcp://127.0.0.1:9000",
        "unix:csi.sock",
        "unix://csi/csi.sock",
        "unix:////csi/csi.sock",
        "unix:///csi/csi",
        "unix:///csi/",
    ],
)
def test_anything_else_is_refused_with_an_example(endpoint):
    with pytest.raises(ConfigurationError, match=r"unix:///path/csi\.sock"):
        socket_path(endpoint)


def test_a_path_is_as_long_as_the_kernel_allows():
    longest = "/" + "x" * 101 + ".sock"
    assert len(str(socket_path(f"unix://{longest}"))) == 107
    with pytest.raises(ConfigurationError, match=r"more than 107 bytes.*shorter directory"):
        socket_path(f"unix:///x{longest[1:]}")
    with pytest.raises(ConfigurationError, match="more than 107 bytes"):
        socket_path("unix:///" + "ü" * 52 + ".sock")


# -- claiming -------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "csi.sock"


def test_a_free_place_is_claimed_and_its_directory_made(tmp_path: Path):
    claim_socket(tmp_path / "new" / "csi.sock")
    assert (tmp_path / "new").is_dir()


def test_the_socket_of_a_dead_process_is_removed(place: Path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place))
        dead.listen()
    claim_socket(place)
    assert not place.exists()


def test_the_socket_of_a_living_process_is_left_alone(place: Path):
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(place))
        living.listen()
        with pytest.raises(SocketInUse, match="--endpoint"):
            claim_socket(place)
        assert place.exists()


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
def test_what_is_no_socket_is_left_alone(place: Path, make):
    make(place)
    with pytest.raises(ConfigurationError, match="is no socket"):
        claim_socket(place)
    assert place.exists()


def test_a_link_is_not_followed(place: Path, tmp_path: Path):
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="is no socket"):
        claim_socket(place)


def test_a_place_below_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be made"):
        claim_socket(tmp_path / "file" / "csi.sock")


# -- serving --------------------------------------------------------------------


def identity_server(place: Path) -> tuple[Server, Gate]:
    gate = Gate()
    return Server(place, gate, Identity("csi.example.org", gate), None, None), gate


def test_identity_answers_from_the_start_to_the_end_and_the_socket_goes_last(place: Path):
    server, gate = identity_server(place)
    server.start()
    seen = []
    with Client(str(place)) as client:
        seen.append(client.identity.Probe(pb.ProbeRequest()).ready.value)
        gate.state = Readiness.READY
        seen.append(client.identity.Probe(pb.ProbeRequest()).ready.value)
        assert server.drain(1.0)
        seen.append(client.identity.Probe(pb.ProbeRequest()).ready.value)
        info = client.identity.GetPluginInfo(pb.GetPluginInfoRequest())
        assert info.name == "csi.example.org"
    assert place.exists()
    server.stop()
    assert seen == [False, True, False]
    assert not place.exists()


def test_identity_answers_before_the_request_has_come_as_it_needs_nothing_of_it(place: Path):
    server, _ = identity_server(place)
    server.start()
    unsent = threading.Event()

    def request() -> Iterator[pb.ProbeRequest]:
        unsent.wait()
        yield from ()

    with Client(str(place)) as client:
        probe = client.channel.stream_unary(
            "/csi.v1.Identity/Probe",
            request_serializer=pb.ProbeRequest.SerializeToString,
            response_deserializer=pb.ProbeResponse.FromString,
        )
        assert probe(request(), timeout=WAIT).HasField("ready")
        unsent.set()
    server.stop()


class Stuck:
    """A node whose NodeGetInfo waits for what does not come."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.freed = threading.Event()

    def info(self) -> NodeRegistration:
        self.asked.set()
        self.freed.wait()
        raise InvalidRequest("freed")


def test_identity_answers_while_every_thread_is_taken(place: Path, monkeypatch):
    monkeypatch.setattr("csi_driver.rpc.server._THREADS", 1)
    gate = Gate()
    gate.state = Readiness.READY
    node, stuck = Node(gate), Stuck()
    node.service = stuck
    server = Server(place, gate, Identity("csi.example.org", gate), None, node)
    server.start()
    with Client(str(place)) as client:
        waiting = client.node.NodeGetInfo.future(pb.NodeGetInfoRequest())
        assert stuck.asked.wait(WAIT)
        assert client.identity.Probe(pb.ProbeRequest(), timeout=WAIT).ready.value
        assert client.identity.GetPluginInfo(pb.GetPluginInfoRequest(), timeout=WAIT).name
        capabilities = client.identity.GetPluginCapabilities(
            pb.GetPluginCapabilitiesRequest(), timeout=WAIT
        )
        assert capabilities.capabilities
        stuck.freed.set()
        assert waiting.code() is grpc.StatusCode.INVALID_ARGUMENT
    server.stop()


def test_a_second_server_on_the_socket_is_refused_and_the_first_goes_on(place: Path):
    first, _ = identity_server(place)
    second, _ = identity_server(place)
    first.start()
    with pytest.raises(SocketInUse):
        second.start()
    with Client(str(place)) as client:
        client.identity.Probe(pb.ProbeRequest())
    first.stop()


def test_a_stopped_server_leaves_no_thread_of_its_calls(place: Path):
    gate = Gate()
    server = Server(place, gate, Identity("csi.example.org", gate), None, Node(gate))
    server.start()
    before = set(threading.enumerate())
    with Client(str(place)) as client:
        client.node.NodeGetCapabilities(pb.NodeGetCapabilitiesRequest())
        made = set(threading.enumerate()) - before
    server.stop()
    calls = [thread for thread in made if thread.name.startswith("rpc_")]
    assert calls
    for thread in calls:
        thread.join(WAIT)
        assert not thread.is_alive()


def test_grpc_knows_the_choices_that_are_made_for_it():
    """A release that does not would say so at every start, and calls would cost more."""
    program = "import csi_driver.rpc, grpc; grpc.insecure_channel('unix:/none').close()"
    ran = subprocess.run(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, check=True
    )
    assert "nknown" not in ran.stderr


def test_a_call_to_a_service_that_the_role_lacks_is_unimplemented(place: Path):
    server, _ = identity_server(place)
    server.start()
    with Client(str(place)) as client, pytest.raises(grpc.RpcError) as error:
        client.node.NodeGetInfo(pb.NodeGetInfoRequest())
    server.stop()
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
