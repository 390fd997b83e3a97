"""Keeps a node registered: at start, when its facts change, and when its entry was lost.

Made by ``cli``.  A node serves whether it is registered or not: what it has must be
unstaged with every store out of reach, so a ledger that does not answer delays the
registration only.  The facts (initiator, address, multipath, version, most volumes) change
without telling anybody, so they are looked at every five minutes; the ledger hears of them when
they changed, and otherwise every ten minutes, in case somebody removed the entry.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from csi_driver.base.errors import CinderCSIError
from csi_driver.base.values import NodeRegistration
from csi_driver.node.ports import NodeLedger

LOG = logging.getLogger(__name__)

LOOK_SECONDS = 300.0
"""How often the facts are looked at; os-brick may log a line at each look."""

REPEAT_SECONDS = 600.0
"""After so long the ledger is told what it should know already; it writes only a change."""

_FIRST_DELAY, _LONGEST_DELAY = 1.0, 30.0


class Registrar:
    """Registers a node, in a thread that ends with the process; the node stays registered.

    Only that thread uses what it remembers.

    :param facts: tells how this node is reached now.
    :param clock: seconds, monotonic; injected by tests, as ``spread`` is, which makes of a
        delay one that other nodes do not have at the same time.
    """

    def __init__(
        self,
        facts: Callable[[], NodeRegistration],
        ledger: NodeLedger,
        *,
        clock: Callable[[], float] = time.monotonic,
        spread: Callable[[float], float] = lambda delay: delay * random.uniform(0.5, 1.0),
    ) -> None:
        self._facts = facts
        self._ledger = ledger
        self._tried = threading.Event()
        self._clock = clock
        self._spread = spread
        self._known: NodeRegistration | None = None
        self._told_at = 0.0
        self._delay = _FIRST_DELAY
        self._problem = ""
        self._thread = threading.Thread(target=self._run, name="registration", daemon=True)

    def register(self) -> None:
        """Register now, unless the ledger knows; only before :meth:`start`.

        :raises LedgerUnavailable: it could not be stored.
        :raises ConnectorPropertiesFailed: this node cannot tell.
        """
        facts = self._facts()
        if facts == self._known and self._clock() - self._told_at < REPEAT_SECONDS:
            return
        self._ledger.register(facts)
        if facts != self._known:
            LOG.info("Registered: %s", _summary(facts))
        self._known, self._told_at = facts, self._clock()

    def start(self, seconds: float = 0.0) -> None:
        """Keep the node registered from now on.

        :param seconds: how long the first try is waited for, so that as a rule a node that
            is ready is known.
        """
        self._thread.start()
        self._tried.wait(seconds)

    def step(self) -> float:
        """Register if that is due; after how many seconds to look again."""
        try:
            self.register()
        except CinderCSIError as error:
            pause, self._delay = self._delay, min(self._delay * 2, _LONGEST_DELAY)
            if str(error) != self._problem:
                LOG.warning("%s; tried again until it works", error)
            self._problem = str(error)
            return self._spread(pause)
        self._delay, self._problem = _FIRST_DELAY, ""
        return self._spread(LOOK_SECONDS)

    def _run(self) -> None:
        while True:
            try:
                pause = self.step()
            except Exception:  # a defect; the thread must not end unnoticed
                LOG.exception("The registration of this node failed")
                pause = _LONGEST_DELAY
            self._tried.set()
            time.sleep(pause)


def _summary(facts: NodeRegistration) -> str:
    """What people look for in the log; no secret is among the facts."""
    connector = facts.connector
    limit = facts.max_volumes or "any number of"
    return (
        f"node {facts.node_id}, ip {connector.get('ip')}, initiator {connector.get('initiator')},"
        f" multipath {connector.get('multipath')}, {limit} volumes, version {facts.version}"
    )
