"""Two never lead at a time: found by walking schedules of replicas, silences, lost answers
and hands that delete the Lease."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_driver.kube.election import (
    LEASE_SECONDS,
    RENEW_SECONDS,
    Elector,
    Move,
    Seen,
    Standing,
    decide,
)
from csi_driver.kube.errors import ApiConflict, ApiNotFound, ApiOutcomeUnknown


class Leases:
    """The one Lease, as an API server keeps it: a change names the version it was made on."""

    connection = SimpleNamespace(namespace="default")

    def __init__(self) -> None:
        self.now = 1000.0
        self.stored: dict[str, Any] | None = None
        self.lose_answer = False
        self._version = 0

    def clock(self) -> float:
        return self.now

    def request(self, verb: str, path: str, *, body: Any, answer_seconds: float) -> Any:
        if verb != "POST" and self.stored is None:
            raise ApiNotFound("no such Lease")
        if verb != "GET":
            self._change(verb, body)
            if self.lose_answer:
                self.lose_answer = False
                raise ApiOutcomeUnknown("the answer is lost")
        return copy.deepcopy(self.stored)

    def _change(self, verb: str, body: Any) -> None:
        known = None if self.stored is None else self.stored["metadata"]["resourceVersion"]
        if (verb == "POST") != (known is None) or body["metadata"].get("resourceVersion") != known:
            raise ApiConflict("somebody else was faster")
        self._version += 1
        self.stored = copy.deepcopy(body)
        self.stored["metadata"]["resourceVersion"] = str(self._version)

    def replica(self, name: str) -> Elector:
        api: Any = self
        return Elector(api, "lease", name, clock=self.clock)


REPLICAS = 3

pauses = st.floats(0, 1.5 * LEASE_SECONDS, allow_nan=False)
# What happens, to which replica, and how long after that nothing does.
events = st.tuples(
    st.sampled_from(["step"] * 6 + ["stop", "new", "lose answer", "delete"]),
    st.integers(0, REPLICAS - 1),
    pauses | st.just(0.0) | st.just(0.5),
)


@given(st.lists(events, max_size=60))
def test_two_never_lead_at_a_time(schedule):
    leases = Leases()
    replicas = [leases.replica(f"r{number}") for number in range(REPLICAS)]
    partitioned: list[Elector] = []
    for number, (event, which, pause) in enumerate(schedule):
        replica = replicas[which]
        if event == "step" and replica.standing is not Standing.DEPOSED:
            replica.step()
        elif event == "stop":
            replica.stop()
            replicas[which] = leases.replica(f"r{number}-{which}")
        elif event == "new":  # the old one lives on without ever reaching the API server again
            partitioned.append(replica)
            replicas[which] = leases.replica(f"r{number}-{which}")
        elif event == "lose answer":
            leases.lose_answer = True
        elif event == "delete":
            leases.stored = None
        _require_one_leader(leases, [*replicas, *partitioned])
        leases.now += pause
        _require_one_leader(leases, [*replicas, *partitioned])


def _require_one_leader(leases: Leases, replicas: list[Elector]) -> None:
    leading = [each.me for each in replicas if each.standing is Standing.LEADING]
    assert len(leading) <= 1, f"{leading} at {leases.now}"


@pytest.fixture
def leases() -> Leases:
    return Leases()


def test_the_first_of_all_leads_after_one_lease_duration(leases):
    first = leases.replica("first")
    first.step()
    assert first.standing is Standing.STANDBY
    assert "first made the Lease lease and leads in 6 s" in first.explain()
    leases.now += LEASE_SECONDS - 1
    first.step()
    assert first.standing is Standing.STANDBY
    leases.now += 1
    assert first.standing is Standing.LEADING


def test_a_new_replica_does_not_lead_beside_one_whose_lease_was_deleted(leases):
    """The leader is cut off, or between two renewals, and the other never saw the Lease."""
    old, new = leases.replica("old"), leases.replica("new")
    old.step()
    leases.now += LEASE_SECONDS
    old.step()
    assert old.standing is Standing.LEADING
    leases.stored = None
    new.step()
    assert (old.standing, new.standing) == (Standing.LEADING, Standing.STANDBY)
    leases.now += RENEW_SECONDS
    new.step()
    assert (old.standing, new.standing) == (Standing.UNCERTAIN, Standing.STANDBY)
    leases.now += LEASE_SECONDS - RENEW_SECONDS
    new.step()
    assert (old.standing, new.standing) == (Standing.UNCERTAIN, Standing.LEADING)
    old.step()
    assert old.standing is Standing.DEPOSED


def test_one_whose_own_new_lease_is_deleted_while_it_waits_begins_anew(leases):
    first = leases.replica("first")
    first.step()
    leases.now += LEASE_SECONDS - 1
    leases.stored = None
    first.step()
    first.step()
    leases.now += LEASE_SECONDS - 1
    first.step()
    assert first.standing is Standing.STANDBY
    leases.now += 1
    assert first.standing is Standing.LEADING


def test_one_that_does_not_lead_yet_leaves_no_free_lease_behind(leases):
    first, second = leases.replica("first"), leases.replica("second")
    first.step()
    first.stop()
    second.step()
    assert second.standing is Standing.STANDBY
    leases.now += LEASE_SECONDS
    second.step()
    assert second.standing is Standing.LEADING


def test_a_lease_of_its_own_that_it_does_not_remember_is_taken_for_new(leases):
    first = leases.replica("first")
    leases.lose_answer = True
    first.step()
    first.step()
    assert first.standing is Standing.STANDBY
    leases.now += LEASE_SECONDS
    first.step()
    assert first.standing is Standing.LEADING


def test_another_s_lease_is_waited_for_until_it_is_silent():
    seen = Seen("b", 3, "x", since=10.0)
    assert decide(seen, "a", None, 10.0 + LEASE_SECONDS - 0.1) is Move.WAIT
    assert decide(seen, "a", None, 10.0 + LEASE_SECONDS) is Move.TAKE


def test_a_lease_that_changed_hands_and_came_back_ends_the_first_holder():
    assert decide(Seen("a", 3, "x", 0.0), "a", 1, 0.0) is Move.END
    assert decide(None, "a", 1, 0.0) is Move.END
