"""One replica leads, whatever happens to the others or to the API server; on a real one."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator

import pytest

from csi_driver.kube.api import Api
from csi_driver.kube.election import (
    LEASE_SECONDS,
    RENEW_SECONDS,
    STUCK_SECONDS,
    Elector,
    Standing,
)
from tests.cluster.accounts import free_lease
from tests.cluster.apiserver import ADMIN_TOKEN, ApiServer
from tests.cluster.fault_proxy import PASS, FaultProxy, Verdict

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
    free_lease(apiserver, name, "default")

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


@pytest.fixture
def proxied(apiserver: ApiServer, clock: Clock) -> Iterator[tuple[Elector, Elector, FaultProxy]]:
    """The first leads; the second, behind a proxy, has seen that."""
    name = f"lease-{next(_names)}"
    free_lease(apiserver, name, "default")
    proxy = FaultProxy(apiserver)
    first = Elector(Api(apiserver.connection(ADMIN_TOKEN)), name, "first", clock=clock)
    second = Elector(Api(proxy.connection()), name, "second", clock=clock)
    first.step()
    second.step()
    yield first, second, proxy
    proxy.close()


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


def test_a_lease_that_somebody_deleted_is_not_taken_while_its_holder_may_lead(
    two, clock, apiserver
):
    first, second = two
    apiserver.kubectl("delete", "lease", "-n", "default", second.name)
    second.step()
    clock.now += LEASE_SECONDS - 1
    second.step()
    assert second.standing is Standing.STANDBY
    assert first.standing is Standing.UNCERTAIN
    clock.now += 1
    second.step()
    assert second.standing is Standing.LEADING
    first.step()
    assert first.standing is Standing.DEPOSED


def test_a_leader_whose_lease_was_deleted_ends(two, apiserver):
    first, _ = two
    apiserver.kubectl("delete", "lease", "-n", "default", first.name)
    first.step()
    assert first.standing is Standing.DEPOSED


def test_a_renewal_that_was_read_late_counts_from_after_the_reading(proxied, clock):
    """The answer to a standby's reading may tell a renewal made after it was asked."""
    first, second, proxy = proxied
    asked = clock.now

    def judge(verb: str, path: str) -> Verdict:
        clock.now = asked + 3  # the reading waits, and meanwhile the leader renews
        first.step()
        return PASS

    proxy.judge = judge
    second.step()
    proxy.judge = lambda verb, path: PASS
    clock.now = asked + LEASE_SECONDS
    second.step()
    assert (first.standing, second.standing) == (Standing.LEADING, Standing.STANDBY)


def test_a_standby_that_looked_just_before_the_lease_ran_out_looks_again_soon(proxied, clock):
    """Its first look took longer than the sixth, which therefore comes a moment too early."""
    first, _, proxy = proxied
    durations = [0.3]

    def judge(verb: str, path: str) -> Verdict:
        clock.now += durations.pop() if durations else 0.1
        return PASS

    def wait(seconds: float) -> None:
        if standby.standing is Standing.LEADING:
            ended.wait()
        else:
            clock.now += seconds

    ended = threading.Event()
    proxy.judge = judge
    began = clock.now
    standby = Elector(Api(proxy.connection()), first.name, "third", clock=clock, wait=wait)
    standby.start()
    assert standby.wait_to_lead(60) is Standing.LEADING
    ended.set()
    standby.stop()
    assert clock.now < began + LEASE_SECONDS + 1


def test_a_renewal_is_one_request(proxied):
    first, second, proxy = proxied
    first.stop()
    second.step()
    assert second.standing is Standing.LEADING
    proxy.seen.clear()
    for _ in range(3):
        second.step()
    assert [each.split()[0] for each in proxy.seen] == ["PUT"] * 3


def test_a_renewal_whose_answer_was_lost_is_made_again(proxied):
    first, second, proxy = proxied
    first.stop()
    second.step()
    proxy.once("PUT", Verdict(lose=True))
    second.step()
    second.step()
    assert second.standing is Standing.LEADING


def test_an_election_thread_that_hangs_is_noticed(replica, clock):
    leader = replica("first", wait=lambda seconds: blocked.wait(30))
    blocked = threading.Event()
    leader.start()
    leader.wait_to_lead(30)
    assert leader.is_alive()
    clock.now += STUCK_SECONDS
    assert not leader.is_alive()
    blocked.set()
    leader.stop()
    assert leader.is_alive()


def test_of_some_that_ask_at_once_one_leads(replica):
    replicas = [replica(f"r{number}") for number in range(4)]
    for each in replicas:
        each.step()
    assert sorted(each.standing for each in replicas).count(Standing.LEADING) == 1


def test_the_first_of_all_leads_after_one_lease_duration(replica, clock, apiserver):
    first, second = replica("first"), replica("second")
    apiserver.kubectl("delete", "lease", "-n", "default", first.name)
    for pause in (LEASE_SECONDS - 1, 1.0):
        for each in (first, second):
            each.step()
            assert each.standing is Standing.STANDBY
        clock.now += pause
    assert (first.standing, second.standing) == (Standing.LEADING, Standing.STANDBY)


def test_an_api_server_that_is_frozen_is_waited_for(apiserver, two, clock):
    first, _ = two
    with apiserver.frozen():
        first.step()
        clock.now += RENEW_SECONDS
        assert first.standing is Standing.UNCERTAIN
        assert "has no answer" in first.explain() or "cannot be reached" in first.explain()
    # The renewal that had no answer may be carried out now, between a look and a renewal: that
    # is a conflict, and the next look tells that it was our own.
    for _ in range(5):
        first.step()
        if first.standing is Standing.LEADING:
            return
    pytest.fail(first.explain())


def test_who_waits_to_lead_is_woken(replica):
    first = replica("first")
    first.start()
    assert first.wait_to_lead(30) is Standing.LEADING
    first.stop()
