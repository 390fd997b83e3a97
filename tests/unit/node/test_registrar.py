"""A node is registered at start and after every change, however long its ledger is away."""

from __future__ import annotations

import msgspec
import pytest

from csi_driver.base.values import NodeRegistration
from csi_driver.node.ports import LedgerUnavailable
from csi_driver.node.registrar import LOOK_SECONDS, REPEAT_SECONDS, Registrar
from tests.support.ledger import FailingLedger, MemoryLedger
from tests.support.waiting import wait_until

FACTS = NodeRegistration(
    node_id="n1",
    connector={"host": "n1", "ip": "10.0.0.1", "initiator": "iqn.1", "multipath": False},
    topology={"example.org/node": "n1"},
    max_volumes=8,
    version="1",
)


class Ledger(FailingLedger):
    """Counts what it stores; ``writes`` is how often it still does."""

    def __init__(self, writes: int = 100) -> None:
        super().__init__(writes=writes)
        self.stored: list[NodeRegistration] = []

    def register(self, registration: NodeRegistration) -> None:
        super().register(registration)
        self.stored.append(registration)


class Node:
    """A node whose facts and clock the test changes."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self.facts = FACTS
        self.now = 1000.0
        self.registrar = Registrar(
            lambda: self.facts, ledger, clock=lambda: self.now, spread=lambda delay: delay
        )

    def pass_by(self, seconds: float) -> None:
        """Let time pass as the thread would: one step at each of its looks."""
        until = self.now + seconds
        while self.now < until:
            self.now += self.registrar.step()


def changed(**fields: object) -> NodeRegistration:
    return msgspec.structs.replace(FACTS, connector={**FACTS.connector, **fields})


def test_a_node_registers_once_while_nothing_changes():
    ledger = Ledger()
    Node(ledger).pass_by(REPEAT_SECONDS - LOOK_SECONDS)
    assert ledger.stored == [FACTS]


@pytest.mark.parametrize(
    "after",
    [
        changed(initiator="iqn.2"),
        changed(ip="10.0.0.2"),
        changed(multipath=True),
        msgspec.structs.replace(FACTS, version="2"),
        msgspec.structs.replace(FACTS, max_volumes=9),
    ],
)
def test_a_changed_fact_is_told_at_the_next_look(after):
    ledger = Ledger()
    node = Node(ledger)
    node.pass_by(LOOK_SECONDS)
    node.facts = after
    node.pass_by(LOOK_SECONDS)
    assert ledger.stored == [FACTS, after]


def test_an_entry_that_somebody_removed_comes_back():
    ledger = Ledger()
    node = Node(ledger)
    node.pass_by(LOOK_SECONDS)
    ledger.registrations.clear()
    node.pass_by(REPEAT_SECONDS + LOOK_SECONDS)
    assert ledger.registrations == {"n1": FACTS}


def test_a_ledger_that_is_away_is_tried_ever_less_often_and_said_once(caplog):
    ledger = Ledger(writes=0)
    node = Node(ledger)
    pauses = [node.registrar.step() for _ in range(7)]
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    assert [each.getMessage() for each in caplog.records if each.levelname == "WARNING"] == [
        "The ledger is out of reach. Check the shared state directory or the API server;"
        " the call may be retried; tried again until it works"
    ]
    ledger.writes = 1
    assert node.registrar.step() == LOOK_SECONDS
    assert ledger.stored == [FACTS]


def test_after_a_success_an_outage_begins_with_the_short_pause_again():
    ledger = Ledger(writes=0)
    node = Node(ledger)
    for _ in range(5):
        node.registrar.step()
    ledger.writes = 1
    node.registrar.step()
    node.facts = changed(ip="10.0.0.2")
    assert node.registrar.step() == 1


def test_who_registers_at_once_is_told_why_it_does_not_work():
    with pytest.raises(LedgerUnavailable, match="out of reach"):
        Node(Ledger(writes=0)).registrar.register()


def test_a_defect_in_telling_the_facts_does_not_end_the_thread(caplog):
    def broken() -> NodeRegistration:
        raise ZeroDivisionError

    registrar = Registrar(broken, MemoryLedger(), spread=lambda delay: delay)
    registrar.start(seconds=60)
    wait_until("it is said", lambda: "registration of this node failed" in caplog.text)


def test_the_thread_registers():
    ledger = Ledger()
    Registrar(lambda: FACTS, ledger).start(seconds=60)
    assert ledger.stored == [FACTS]
