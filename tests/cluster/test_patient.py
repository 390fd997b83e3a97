"""Requests of commands that run once, against a server that has other things to do."""

from __future__ import annotations

import pytest

from csi_driver.kube.errors import ApiBusy, ApiOutcomeUnknown
from csi_driver.kube.patient import PATIENCE_SECONDS, PatientApi
from tests.cluster.fault_proxy import FaultProxy, Verdict

NAMESPACES = "/api/v1/namespaces"


class Clock:
    """Time that passes by waiting only."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waited: list[float] = []

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.now += seconds


def test_a_busy_server_is_asked_again_when_it_says(proxy: FaultProxy) -> None:
    clock = Clock()
    api = PatientApi(proxy.connection(), wait=clock.wait, clock=lambda: clock.now)
    proxy.once("GET", Verdict(forward=False, status=429, retry_after="3"))
    assert api.get(f"{NAMESPACES}/default")["metadata"]["name"] == "default"
    assert clock.waited == [3.0]
    proxy.once("GET", Verdict(lose=True))
    assert api.list(NAMESPACES)[0]


def test_a_write_is_repeated_only_if_it_had_no_effect(proxy: FaultProxy) -> None:
    clock = Clock()
    api = PatientApi(proxy.connection(), wait=clock.wait, clock=lambda: clock.now)
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "patient"}}
    proxy.once("POST", Verdict(forward=False, status=429))
    api.create(NAMESPACES, made)
    proxy.once("DELETE", Verdict(lose=True))
    with pytest.raises(ApiOutcomeUnknown):
        api.delete(f"{NAMESPACES}/patient")


def test_patience_ends(proxy: FaultProxy) -> None:
    clock = Clock()
    api = PatientApi(proxy.connection(), wait=clock.wait, clock=lambda: clock.now)
    proxy.judge = lambda verb, path: Verdict(forward=False, status=429, retry_after="1")
    with pytest.raises(ApiBusy):
        api.get(f"{NAMESPACES}/default")
    assert PATIENCE_SECONDS - 6 < clock.now <= PATIENCE_SECONDS
