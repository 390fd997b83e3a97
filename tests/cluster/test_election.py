"""One replica leads, whatever happens to the others or to the API server; on a real one."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from csi_driver.kube.api import Api
from csi_driver.kube.election import LEASE_SECONDS, RENEW_SECONDS, Elector, Standing
from tests.cluster.apiserver import ADMIN_TOKEN, ApiServer

_names = itertools.count()


class Clock:
    """A monotonic clock that the test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def replica(apiserver: ApiServer, clock: Clock) -> Callable[[str], Elector]:
    name = f"lease-{next(_names)}"

    def make(me: str, **options: object) -> Elector:
        api = Api(apiserver.connection(ADMIN_TOKEN))
        return Elector(api, name, me, clock=clock, **options)

    return make


@pytest.fixture
def two(replica: Callable[[str], Elector]) -> tuple[Elector, Elector]:
    """The first leads, the second has seen that."""
    first, second = replica("first"), replica("second")
    first.step()
    second.step()
    assert (first.standing, second.standing) == (Standing.LEADING, Standing.STANDBY)
    return first, second


def test_the_second_knows_who_leads(two):
    first, second = two
    assert first.explain() == "first leads"
    assert second.explain() == "first leads"


def test_a_leader_that_renews_stays(two, clock):
    first, second = two
    for _ in range(10):
        clock.now += LEASE_SECONDS * 0.4
        first.step()
        second.step()
        assert (first.standing, second.standing) == (Standing.LEADING, Standing.STANDBY)


def test_a_silent_leader_begins_nothing_before_another_may_take_over(two, clock):
    first, second = two
    clock.now += RENEW_SECONDS
    second.step()
    assert (first.standing, second.standing) == (Standing.UNCERTAIN, Standing.STANDBY)
    clock.now += LEASE_SECONDS - RENEW_SECONDS
    second.step()
    assert (first.standing, second.standing) == (Standing.UNCERTAIN, Standing.LEADING)
    first.step()
    assert first.standing is Standing.DEPOSED
    assert first.explain() == "second leads now; first is ending"


def test_a_leader_that_nobody_replaced_goes_on(two, clock):
    first, _ = two
    clock.now += 100 * LEASE_SECONDS
    assert first.standing is Standing.UNCERTAIN
    first.step()
    assert first.standing is Standing.LEADING


def test_who_was_replaced_in_between_is_deposed_even_if_the_other_is_gone(two, clock):
    first, second = two
    clock.now += LEASE_SECONDS
    second.step()
    second.stop()
    first.step()
    assert first.standing is Standing.DEPOSED


def test_a_released_lease_is_taken_at_once(two):
    first, second = two
    first.stop()
    second.step()
    assert second.standing is Standing.LEADING


def test_a_deposed_leader_writes_nothing_over_the_other_s_lease(two, clock):
    first, second = two
    clock.now += LEASE_SECONDS
    second.step()
    for _ in range(3):
        first.step()
    first.stop()
    second.step()
    assert second.standing is Standing.LEADING
    assert second.explain() == "second leads"


def test_of_two_that_ask_at_once_one_leads(replica, clock):
    replicas = [replica(f"r{number}") for number in range(4)]
    for each in replicas:
        each.step()
    assert sorted(each.standing for each in replicas).count(Standing.LEADING) == 1


def test_an_api_server_that_is_frozen_is_waited_for(apiserver, two, clock):
    first, _ = two
    with apiserver.frozen():
        first.step()
        clock.now += RENEW_SECONDS
        assert first.standing is Standing.UNCERTAIN
        assert "has no answer" in first.explain() or "cannot be reached" in first.explain()
    first.step()
    assert first.standing is Standing.LEADING


def test_who_waits_to_lead_is_woken(replica):
    first = replica("first")
    first.start()
    assert first.wait_to_lead(30) is Standing.LEADING
    first.stop()
