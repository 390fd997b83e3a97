"""One controller after the other as processes: a leader that is cut off, and one that leaves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from csi_driver.cli.cluster import DEPOSED_EXIT_CODE
from csi_driver.kube.election import LEASE_SECONDS
from tests.cluster.accounts import NAMESPACE, add_node, install
from tests.cluster.apiserver import ApiServer
from tests.cluster.fault_proxy import PASS, FaultProxy, Verdict
from tests.cluster.plugin import make_keys, plugin, share_volumes
from tests.support.calls import Calls
from tests.support.driver_process import DriverProcess
from tests.support.waiting import wait_until

DRIVER = "failover.example.com"


@pytest.fixture
def pair(
    apiserver: ApiServer, proxy: FaultProxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[DriverProcess, DriverProcess]]:
    """The leader, which reaches the API server through the proxy, and a standby."""
    install(apiserver)
    add_node(apiserver, "n1")
    directory: Path = tmp_path_factory.mktemp("f")
    keys = make_keys(directory / "keys")
    first = plugin(
        apiserver, directory / "1", "controller", "n1", driver=DRIVER, keys=keys, proxy=proxy
    )
    second = plugin(apiserver, directory / "2", "controller", "n1", driver=DRIVER, keys=keys)
    share_volumes(directory / "1", directory / "2")
    with first:
        second.spawn()
        with Calls(second) as calls:
            wait_until("the standby stands by", lambda: calls.probe() is False)
            wait_until("it waits", lambda: "Standing by" in second.logs())
        try:
            yield first, second
        finally:
            second.stop()


def test_a_leader_that_is_cut_off_begins_nothing_and_ends_when_it_was_replaced(pair, proxy):
    first, second = pair
    with Calls(first) as on_first, Calls(second) as on_second:
        volume_id = on_first.create("data").volume_id
        proxy.judge = lambda verb, path: Verdict(forward=False, lose=True)
        proxy.cut()
        wait_until("the standby leads", on_second.probe)
        assert first.is_running()
        with pytest.raises(grpc.RpcError) as refused:
            on_first.create("other")
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "could not renew its Lease" in str(refused.value.details())
        assert on_second.create("data").volume_id == volume_id
        proxy.judge = lambda verb, path: PASS
        assert first.wait() == DEPOSED_EXIT_CODE
        on_second.delete(volume_id)


def test_a_lease_that_is_deleted_beside_a_leader_that_is_cut_off_is_not_led_by_at_once(
    pair, proxy, apiserver
):
    """By a replica that never saw the Lease: the standby that did is gone."""
    first, second = pair
    assert second.stop() == 0
    with Calls(first) as on_first:
        proxy.judge = lambda verb, path: Verdict(forward=False, lose=True)
        proxy.cut()
        apiserver.kubectl("delete", "lease", "-n", NAMESPACE, DRIVER)
        second.spawn()
        with Calls(second) as on_second:
            wait_until("it leads", on_second.probe)
        assert "made the Lease" in second.logs()
        with pytest.raises(grpc.RpcError) as refused:
            on_first.create("data")
    assert "could not renew its Lease" in str(refused.value.details())
    proxy.judge = lambda verb, path: PASS
    assert first.wait() == DEPOSED_EXIT_CODE


def test_a_leader_that_ends_in_good_order_is_followed_at_once(pair):
    first, second = pair
    with Calls(second) as on_second:
        assert first.stop() == 0
        left = time.monotonic()
        wait_until("the standby leads", on_second.probe)
        took = time.monotonic() - left
    assert "is released" in first.logs()
    print(
        f"takeover after SIGTERM: {took:.1f} s (without the release: {LEASE_SECONDS:g} s or more)"
    )
