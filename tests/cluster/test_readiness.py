"""`/readyz` and `/healthz` of a leader, a standby and a node, with and without an API server."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.cluster import outages
from tests.cluster.accounts import add_node, install
from tests.cluster.apiserver import ApiServer
from tests.cluster.fault_proxy import FaultProxy
from tests.cluster.plugin import make_keys, plugin
from tests.process.test_health import ask
from tests.support.calls import Calls
from tests.support.driver_process import DriverProcess
from tests.support.waiting import wait_until

DRIVER = "readiness.example.com"
NODE = "n1"


@dataclass
class Member:
    """A process with its own proxy and its port for kubelet."""

    process: DriverProcess
    proxy: FaultProxy
    port: int

    def says(self, code: int, *words: str) -> bool:
        """Whether /readyz answers so now."""
        found, text = ask(self.port, "/readyz")
        return found == code and all(each in text for each in words)

    def is_alive(self) -> bool:
        return ask(self.port, "/healthz") == (200, "alive")


@pytest.fixture
def members(
    apiserver: ApiServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Member]]:
    """A leader, a standby and a node."""
    install(apiserver)
    add_node(apiserver, NODE)
    directory = tmp_path_factory.mktemp("h")
    keys = make_keys(directory / "keys")
    made = {}
    with contextlib.ExitStack() as running:
        for name, role in (("leader", "controller"), ("standby", "controller"), ("node", "node")):
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            proxy = FaultProxy(apiserver)
            running.callback(proxy.close)
            process = plugin(
                apiserver,
                directory / name,
                role,
                NODE,
                driver=DRIVER,
                keys=keys,
                proxy=proxy,
                arguments=(f"--health-port={port}", "--health-address=127.0.0.1"),
            )
            if name == "standby":
                process.spawn()
                running.callback(process.stop)
            else:
                running.enter_context(process)
            made[name] = Member(process, proxy, port)
        yield made


def test_who_serves_or_could_is_ready_and_nobody_is_restarted(
    apiserver: ApiServer, members: dict[str, Member]
):
    leader, standby, node = (members[name] for name in ("leader", "standby", "node"))
    assert leader.says(200, "leading: ", "leads")
    wait_until("the other stands by", lambda: answers(standby, 200, "standby: ", "leads"))
    assert node.says(200, "serving")

    with outages.busy(apiserver, standby.proxy):
        wait_until("it could not take over", lambda: standby.says(503, "standby: ", "HTTP 429"))
        assert standby.is_alive()
    wait_until("it could again", lambda: standby.says(200, "standby: "))

    with contextlib.ExitStack() as away, Calls(leader.process) as calls:
        for each in members.values():
            away.enter_context(outages.busy(apiserver, each.proxy))
        wait_until("it cannot renew", lambda: leader.says(503, "uncertain: ", "could not renew"))
        assert all(each.is_alive() for each in members.values())
        assert node.says(200, "serving")
        assert calls.probe() is True  # the sidecars go on asking it
    wait_until("it leads on", lambda: leader.says(200, "leading: "))


def answers(member: Member, code: int, *words: str) -> bool:
    """As :meth:`Member.says`, of a process that may not listen yet."""
    with contextlib.suppress(OSError):
        return member.says(code, *words)
    return False
