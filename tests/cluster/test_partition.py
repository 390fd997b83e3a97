"""A leader that is cut off from the API server while its backend works: no harm is done.

One driver call of every operation of the old leader is held on the backend.  The other replica
takes over and is asked the same again, as the sidecars do; then the held calls have their
effect.  In the end the backend has what the records say, and nothing else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from csi_driver.cli.cluster import DEPOSED_EXIT_CODE
from csi_driver.rpc.errors import NON_FINAL
from tests.cluster.accounts import add_node, install
from tests.cluster.apiserver import ApiServer
from tests.cluster.fault_proxy import PASS, FaultProxy, Verdict
from tests.cluster.kept import kept
from tests.cluster.plugin import make_keys, plugin
from tests.crash import requests
from tests.crash.bed import ROOT, Faults
from tests.crash.requests import NODE, Call
from tests.support import state
from tests.support.calls import Calls
from tests.support.driver_process import DriverProcess
from tests.support.messages import from_snapshot, from_volume
from tests.support.waiting import wait_until

GRACE_SECONDS = 25
"""How long the new leader reckons with the old one's calls: longer than the test holds them."""

HELD = {
    "create": "create_volume",
    "clone": "create_cloned_volume",
    "restore": "create_volume_from_snapshot",
    "snapshot": "create_snapshot",
    "delete": "delete_volume",
    "delete-snapshot": "delete_snapshot",
    "extend": "extend_volume",
    "publish": "initialize_connection",
    "unpublish": "terminate_connection",
    "revert": "revert_to_snapshot",
}
"""The operations, and the driver call of each that is held."""

AT_ONCE = set(HELD) - {"publish", "revert"}
"""What the new leader answers OK before the old one's calls have ended."""


@dataclass
class Replica:
    """A controller process, its client, and what is armed in it."""

    process: DriverProcess
    faults: Faults
    client: Calls = field(init=False)

    def __post_init__(self) -> None:
        self.client = Calls(self.process)


class Pair:
    """Two replicas over one array; the first leads, and speaks through the proxy."""

    def __init__(self, server: ApiServer, proxy: FaultProxy, directory: Path) -> None:
        self.server = server
        self._directory = directory
        self._driver = f"{directory.name}.partition.example.com"
        self._keys = make_keys(directory / "keys")
        self.array = directory / "array"
        self.array.mkdir()
        options = {"double_directory": str(self.array / "volumes")}
        shared = "tests.crash.disturbed_driver.SharedDriver"
        backends = [{"name": "array", "driver": shared, "options": options}]
        (directory / "backends.json").write_text(json.dumps(backends))
        self.node = self._plugin(directory / "n", "node")
        self.first, self.second = self._replica("1", proxy), self._replica("2", None)

    def _plugin(self, directory: Path, role: str, **options: object) -> DriverProcess:
        return plugin(
            *(self.server, directory, role, NODE), driver=self._driver, keys=self._keys, **options
        )

    def _replica(self, name: str, proxy: FaultProxy | None) -> Replica:
        directory = self._directory / name
        directory.mkdir()
        faults = Faults(directory / "faults")
        backends = self._directory / "backends.json"
        process = self._plugin(
            directory,
            "controller",
            proxy=proxy,
            arguments=(
                f"--takeover-grace={GRACE_SECONDS}",
                f"--takeover-attach-grace={GRACE_SECONDS}",
            ),
            environment={
                "CINDER_CSI_TEST_FAULT_DIR": str(faults.directory),
                "PYTHONPATH": str(ROOT),
            },
            command=(sys.executable, "-m", "tests.support.serve_backend", str(backends)),
        )
        return Replica(process, faults)

    def start(self) -> None:
        self.node.start()
        self.first.process.start()
        self.second.process.spawn()
        wait_until("it stands by", lambda: "Standing by" in self.second.process.logs())

    def stop(self) -> None:
        for process in (self.node, self.first.process, self.second.process):
            if process.is_running():
                process.kill()
        for replica in (self.first, self.second):
            replica.client.close()

    # -- what there is ---------------------------------------------------------------

    def kept(self, kind: str) -> list[dict[str, object]]:
        return kept(self.server, self._driver, kind)

    def files(self) -> set[str]:
        """The volumes and snapshots of the array."""
        return self._names("volumes")

    def strange_files(self) -> set[str]:
        return self.files() ^ state.files_of(self.kept("volume"), self.kept("snapshot"))

    def connected(self) -> set[str]:
        return self._names("connected")

    def done(self, replica: Replica) -> set[str]:
        """The driver calls of a replica that had their effect."""
        pid = f"@{replica.process.pid}"
        return {name.removesuffix(pid) for name in self._names("done") if name.endswith(pid)}

    def forget_done(self) -> None:
        for file in (self.array / "done").iterdir():
            file.unlink()

    def _names(self, directory: str) -> set[str]:
        return {path.name for path in (self.array / directory).iterdir()}


@pytest.fixture
def pair(
    apiserver: ApiServer, proxy: FaultProxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    install(apiserver)
    add_node(apiserver, NODE)
    pair = Pair(apiserver, proxy, tmp_path_factory.mktemp("p"))
    try:
        pair.start()
        yield pair
    finally:
        pair.stop()


@dataclass
class Work:
    """A call of every operation, on objects of their own.

    :ivar ids: of the volumes, by name.
    """

    client: Calls
    ids: dict[str, str] = field(default_factory=dict)
    calls: dict[str, Call] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("source", "doomed", "grown", "published", "unpublished", "reverted"):
            self.ids[name] = self.client.create(name).volume_id
        self.client.publish(self.ids["unpublished"], NODE)
        source = self.ids["source"]
        cut, old = (self.client.snapshot(source, name).snapshot_id for name in ("cut", "old"))
        before = self.client.snapshot(self.ids["reverted"], "before").snapshot_id
        self.calls = {
            "create": requests.create("new"),
            "clone": requests.create("copy", from_volume(source)),
            "restore": requests.create("restored", from_snapshot(cut)),
            "snapshot": requests.snapshot("newer cut", self.ids["published"]),
            "delete": requests.delete(self.ids["doomed"]),
            "delete-snapshot": requests.delete_snapshot(old),
            "extend": requests.expand(self.ids["grown"], 2),
            "publish": requests.publish(self.ids["published"]),
            "unpublish": requests.unpublish(self.ids["unpublished"]),
            "revert": requests.revert(self.ids["reverted"], before),
        }


@pytest.mark.parametrize("when", ["before", pytest.param("after", marks=pytest.mark.full)])
def test_what_an_old_leader_s_calls_do_late_does_no_harm(pair, proxy, when):
    first, second = pair.first, pair.second
    work = Work(first.client)
    begun = hold_all(pair, work, when)
    proxy.judge = lambda verb, path: Verdict(forward=False, lose=True)
    proxy.cut()
    wait_until("the other leads", second.client.probe)

    answers = {each: requests.until_ok(second.client, work.calls[each]) for each in AT_ONCE}
    refusals = (
        work.calls["publish"],
        requests.publish(work.ids["unpublished"]),
        requests.expand(work.ids["grown"], 3),
        work.calls["revert"],
        requests.publish(work.ids["reverted"]),
    )
    for call in refusals:
        error = requests.refused(second.client, call)
        assert error.code() is grpc.StatusCode.ABORTED
        assert "may still run on backend array, until" in error.details()

    first.faults.resume()
    wait_until("they had their effect", lambda: pair.done(first) >= set(HELD.values()))
    if when == "before":
        assert len(pair.strange_files()) == 4, "three volumes and a snapshot that came late"
        assert len(pair.connected()) == 1
    proxy.judge = lambda verb, path: PASS
    assert first.process.wait() == DEPOSED_EXIT_CODE
    assert {each.code() for each in begun} <= NON_FINAL

    for call in refusals:
        requests.until_ok(second.client, call)
    for each in ("create", "clone", "restore", "snapshot"):
        assert requests.until_ok(second.client, work.calls[each]) == answers[each]
    require_in_order(pair)
    delete_all(pair, second.client)


def hold_all(pair: Pair, work: Work, when: str) -> list[grpc.Future]:
    """Begin every call, and wait until each is held in its driver call.

    :returns: the calls, which are cancelled when nobody keeps them.
    """
    pair.forget_done()
    for operation in HELD.values():
        pair.first.faults.arm(f"driver/{operation}/{when}", "pause")
    begun = [requests.begin(pair.first.client, call) for call in work.calls.values()]
    wait_until("all are held", lambda: pair.first.faults.armed() == [])
    return begun


def require_in_order(pair: Pair) -> None:
    """When the old calls have ended, the array has what the records say."""
    wait_until("nothing is expected any more", lambda: not pair.kept("late_attempt"))
    assert pair.strange_files() == set()
    assert state.unfinished(pair.kept("volume"), pair.kept("snapshot")) == []
    assert pair.kept("orphan") == []
    volumes = {volume["id"]: volume for volume in pair.kept("volume")}
    assert {
        f"{volumes[each['volume_id']]['cinder_id']}@{NODE}" for each in pair.kept("connection")
    } == {f"{name.partition('@')[0]}@{NODE}" for name in pair.connected()}
    for volume in volumes.values():
        file = pair.array / "volumes" / f"volume-{volume['cinder_id']}"
        assert file.stat().st_size >> 30 == volume["size_gib"], volume["name"]


def delete_all(pair: Pair, client: Calls) -> None:
    for connection in pair.kept("connection"):
        requests.until_ok(client, requests.unpublish(connection["volume_id"]))
    for snapshot in pair.kept("snapshot"):
        requests.until_ok(client, requests.delete_snapshot(snapshot["id"]))
    for volume in pair.kept("volume"):
        requests.until_ok(client, requests.delete(volume["id"]))
    assert (pair.files(), pair.connected()) == (set(), set())
