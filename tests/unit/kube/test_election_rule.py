"""Who may take the Lease: found by walking every schedule of two replicas and their silences."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from csi_driver.kube.election import LEASE_SECONDS, RENEW_SECONDS, Move, Seen, decide


@dataclass
class Replica:
    name: str
    seen: Seen | None = None
    turn: int | None = None
    renewed_at: float = 0.0
    ended: bool = False

    def leads(self, now: float) -> bool:
        return not self.ended and self.turn is not None and now - self.renewed_at < RENEW_SECONDS


@dataclass
class Lease:
    holder: str = ""
    turn: int = 0
    renewals: int = 0
    replicas: list[Replica] = field(default_factory=lambda: [Replica("a"), Replica("b")])

    def step(self, replica: Replica, now: float) -> None:
        if replica.ended:
            return
        renewed = str(self.renewals)
        if replica.seen is None or (replica.seen.holder, replica.seen.renewed) != (
            self.holder,
            renewed,
        ):
            replica.seen = Seen(self.holder, self.turn, renewed, now)
        move = decide(replica.seen, replica.name, replica.turn, now)
        if move is Move.END:
            replica.ended = True
        elif move is not Move.WAIT:
            self.turn += move is Move.TAKE
            self.holder, self.renewals = replica.name, self.renewals + 1
            replica.turn, replica.renewed_at = self.turn, now
            replica.seen = Seen(replica.name, self.turn, str(self.renewals), now)


@given(
    st.lists(
        st.tuples(st.booleans(), st.floats(0, 1.5 * LEASE_SECONDS, allow_nan=False)), max_size=60
    )
)
def test_two_never_lead_at_a_time(schedule):
    lease, now = Lease(), 0.0
    for second, pause in schedule:
        now += pause
        lease.step(lease.replicas[second], now)
        assert sum(each.leads(now) for each in lease.replicas) <= 1


def test_without_a_lease_it_is_taken():
    assert decide(None, "a", None, 0.0) is Move.TAKE


def test_another_s_lease_is_waited_for_until_it_is_silent():
    seen = Seen("b", 3, "x", since=10.0)
    assert decide(seen, "a", None, 10.0 + LEASE_SECONDS - 0.1) is Move.WAIT
    assert decide(seen, "a", None, 10.0 + LEASE_SECONDS) is Move.TAKE


def test_a_lease_that_changed_hands_and_came_back_ends_the_first_holder():
    assert decide(Seen("a", 3, "x", 0.0), "a", 1, 0.0) is Move.END
    assert decide(None, "a", 1, 0.0) is Move.END
