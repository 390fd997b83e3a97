"""Which of several controller replicas works: the holder of a Lease.

:func:`decide` is the rule, pure; :class:`Elector` is the thread that applies it and tells
where this process stands.  Times are of this machine's own clock alone: when another
holder renewed is taken as the moment at which this process first saw it, so clocks need not
agree.

A leader that cannot renew its Lease stops beginning anything at ``RENEW_SECONDS``, well
before another may take over at ``LEASE_SECONDS``.  It goes on to lead if it can renew later
and nobody else held the Lease in between; if somebody did, this process has to end.

What keeps two from leading at once: a leader counts from before it sent its renewal, a
standby from after it read one, so the leader's time always ends first, by
``LEASE_SECONDS - RENEW_SECONDS`` at least.  A Lease that is not there may have been deleted
a moment ago, and its holder may lead until it notices: so who makes one leads only
``LEASE_SECONDS`` later, if it is still there then.  The first installation waits once.  The
clock goes on while the machine is suspended.
"""

from __future__ import annotations

import datetime
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from csi_driver.kube.api import Api, Object
from csi_driver.kube.errors import ApiConflict, ApiError, ApiNotFound

LOG = logging.getLogger(__name__)

LEASE_SECONDS = 6.0
"""After so long without renewal another replica takes over."""

RENEW_SECONDS = 4.0
"""After so long without renewal the leader begins nothing new."""

RETRY_SECONDS = 1.0
"""How often the Lease is looked at and renewed."""

_REQUEST_SECONDS = 1.2
"""How long a connection, and then an answer, is waited for: a renewal is one request, and
after one that had no answer a second fits before the deadline."""

_FIRST_LOOK_SECONDS = 4 * _REQUEST_SECONDS

_SOON_SECONDS = 0.2
"""How soon after a request that took long the next is made."""

STUCK_SECONDS = 30.0
"""After so long without a look at the Lease the thread that makes them is taken for dead."""


def boottime() -> float:
    """Seconds since the machine was started, also those in which it was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Standing(StrEnum):
    """Where this process stands.

    STANDBY: another leads, or nobody yet.  LEADING: this one.  UNCERTAIN: it led, and
    cannot renew now.  DEPOSED: it led, and another held the Lease since: it has to end.
    """

    STANDBY = "standby"
    LEADING = "leading"
    UNCERTAIN = "uncertain"
    DEPOSED = "deposed"


@dataclass(frozen=True)
class Seen:
    """The Lease as this process knows it.

    :ivar holder: '' when it was released or never held.
    :ivar turn: how often the holder changed: tells that another held it in between.
    :ivar renewed: the text of its renewal; any other text is a later renewal.
    :ivar since: when this text was first seen, seconds of the monotonic clock.
    """

    holder: str
    turn: int
    renewed: str
    since: float


class Move(StrEnum):
    """What to do with the Lease now."""

    WAIT = "wait"
    TAKE = "take"
    RENEW = "renew"
    END = "end"


def decide(seen: Seen | None, me: str, my_turn: int | None, now: float) -> Move:
    """What to do, from what was seen.

    :param seen: None when there is no Lease.
    :param my_turn: the turn in which this process leads or led; None when it never did.
    """
    if my_turn is not None:
        mine = seen is not None and seen.holder == me and seen.turn == my_turn
        return Move.RENEW if mine else Move.END
    if seen is None or not seen.holder or seen.holder == me:
        return Move.TAKE
    return Move.TAKE if now - seen.since >= LEASE_SECONDS else Move.WAIT


class Elector:
    """Takes part in the election; thread-safe.

    ``_changed`` protects the standing and what is known of the Lease, and wakes who waits.

    :param name: of the Lease, in the namespace of the API's connection.
    :param me: this process; unique, and telling people where it runs.
    :param wait: waits so many seconds, or until stopped; injected by tests, as ``clock`` is.
    """

    def __init__(
        self,
        api: Api,
        name: str,
        me: str,
        *,
        wait: Callable[[float], Any] | None = None,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._api = api
        self._leases = f"/apis/coordination.k8s.io/v1/namespaces/{api.connection.namespace}/leases"
        self.name = name
        self.me = me
        self._stopped = threading.Event()
        self._looked = threading.Event()
        self._wait = wait or self._stopped.wait
        self._clock = clock
        self._changed = threading.Condition()
        self._seen: Seen | None = None
        self._lease: Object | None = None
        self._looked_at = clock()
        self._turn: int | None = None
        self._renewed_at = 0.0
        self._leads_from = 0.0
        self._deposed = False
        self._said = Standing.STANDBY
        self._problem = ""
        self._sees = False
        self._thread = threading.Thread(target=self._run, name="election", daemon=True)

    # -- where this process stands ----------------------------------------------

    @property
    def standing(self) -> Standing:
        """Where it stands at this moment."""
        with self._changed:
            return self._standing()

    def explain(self) -> str:
        """One sentence on who leads, for answers and logs."""
        with self._changed:
            standing = self._standing()
            holder = self._seen.holder if self._seen else ""
            age = self._clock() - self._renewed_at
            waits = self._leads_from - self._clock() if self._turn is not None else 0.0
        if standing is Standing.LEADING:
            return f"{self.me} leads"
        if standing is Standing.UNCERTAIN:
            return (
                f"{self.me} could not renew its Lease {self.name} for {age:.0f} s"
                f" and begins nothing new: {self._problem}"
            )
        if standing is Standing.DEPOSED:
            return f"{holder or 'another replica'} leads now; {self.me} is ending"
        if waits > 0:
            return (
                f"{self.me} made the Lease {self.name} and leads in {waits:.0f} s: should one have"
                " been deleted, its holder may not know yet"
            )
        known = f"{holder} leads" if holder else "no replica leads yet"
        if self._problem:
            return f"{known}; the Lease {self.name} cannot be read: {self._problem}"
        return known

    @property
    def sees_the_lease(self) -> bool:
        """Whether the last look at the Lease was answered: a standby could take over."""
        with self._changed:
            return self._sees

    def is_alive(self) -> bool:
        """Whether it takes part, or has ended in good order."""
        with self._changed:
            if self._deposed or self._stopped.is_set() or not self._thread.ident:
                return True
            return self._clock() - self._looked_at < STUCK_SECONDS

    def wait_to_lead(self, seconds: float | None = None) -> Standing:
        """Wait until this process leads, or never will again; where it stands then."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._standing() in (Standing.LEADING, Standing.DEPOSED)
                    or self._stopped.is_set()
                ),
                timeout=seconds,
            )
            return self._standing()

    def first_look(self) -> Standing:
        """Wait until the Lease was looked at once; where this process stands then."""
        self._looked.wait(_FIRST_LOOK_SECONDS)
        return self.standing

    def _standing(self) -> Standing:
        if self._deposed:
            return Standing.DEPOSED
        if self._turn is None or self._clock() < self._leads_from:
            return Standing.STANDBY
        in_time = self._clock() - self._renewed_at < RENEW_SECONDS
        return Standing.LEADING if in_time else Standing.UNCERTAIN

    # -- taking part -------------------------------------------------------------

    def start(self) -> None:
        """Begin to take part."""
        self._thread.start()

    def stop(self) -> None:
        """Leave the election; a Lease that is held is released, so that another takes over.

        Not one that this process does not lead by yet: another would not wait.
        """
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=4 * _REQUEST_SECONDS)
        if self.standing not in (Standing.LEADING, Standing.UNCERTAIN):
            return
        try:
            self._release()
        except ApiError as error:
            LOG.warning("The Lease %s is not released: %s", self.name, error)

    def _release(self) -> None:
        lease = self._read()
        if lease is None or decide(_seen(lease, 0.0), self.me, self._turn, 0.0) is not Move.RENEW:
            return  # another's by now
        lease["spec"]["holderIdentity"] = ""
        self._request("PUT", self._path, lease)
        LOG.info("The Lease %s is released", self.name)

    def _run(self) -> None:
        while not self._stopped.is_set():
            began = self._clock()
            try:
                self.step()
            except Exception:  # a defect; without this thread nobody would lead
                LOG.exception("The Lease %s could not be looked at", self.name)
            if self.standing is Standing.DEPOSED:
                return
            self._wait(self._pause(began))

    def _pause(self, began: float) -> float:
        """Seconds to the next look; a standby looks as soon as the Lease may have run out."""
        now = self._clock()
        pause = RETRY_SECONDS - (now - began)
        with self._changed:
            if self._turn is None and self._seen is not None:
                pause = min(pause, LEASE_SECONDS - (now - self._seen.since))
        return max(_SOON_SECONDS, pause)

    def step(self) -> None:
        """Look at the Lease once, and do what is to be done with it."""
        answered = False
        try:
            self._look_and_move()
            answered = True
            self._problem = ""
        except ApiConflict:
            answered = True
            self._lease = None  # another replica was faster; the next look tells who
        except ApiError as error:
            self._lease = None  # what became of the request is not known
            self._problem = error.message
        finally:
            with self._changed:
                self._looked_at = self._clock()
                self._sees = answered
            self._looked.set()
        after = self.standing
        if after is not self._said:
            self._said = after
            LOG.log(logging.INFO if after is Standing.LEADING else logging.WARNING, self.explain())

    def _look_and_move(self) -> None:
        if self._lease is not None and self._seen is not None and self._turn is not None:
            # One request: what this process wrote last is there unless the answer is a conflict.
            try:
                self._write(self._lease, self._seen, Move.RENEW)
                return
            except (ApiConflict, ApiNotFound):
                self._lease = None
        lease = self._read()
        now = self._clock()  # after the answer: a renewal that it tells was begun before
        seen = self._observe(lease, now)
        move = decide(seen, self.me, self._turn, now)
        if move is Move.END:
            with self._changed:
                if now < self._leads_from:
                    self._turn = None  # it never led, and goes on to stand by
                else:
                    self._deposed = True
                self._changed.notify_all()
        elif move is not Move.WAIT:
            self._write(lease, seen, move)

    def _observe(self, lease: Object | None, now: float) -> Seen | None:
        """What is known of the Lease after a look at it; ``now`` is after the answer."""
        seen = _seen(lease, now) if lease is not None else None
        with self._changed:
            known = self._seen
            if seen and known and (seen.holder, seen.renewed) == (known.holder, known.renewed):
                return known
            self._seen = seen
        return seen

    def _write(self, lease: Object | None, seen: Seen | None, move: Move) -> None:
        now = self._clock()
        moment = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        turn = seen.turn if seen else 0
        # Made now, or by a request whose answer was lost: when, nobody knows.
        made = move is Move.TAKE and (seen is None or seen.holder == self.me)
        if move is Move.TAKE:
            turn += 1
        item = lease or {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.name},
            "spec": {},
        }
        item["spec"] |= {
            "holderIdentity": self.me,
            "leaseDurationSeconds": int(LEASE_SECONDS),
            "renewTime": moment,
            "leaseTransitions": turn,
        }
        if move is Move.TAKE:
            item["spec"]["acquireTime"] = moment
        if lease is None:
            written = self._request("POST", self._leases, item)
        else:
            written = self._request("PUT", self._path, item)
        self._lease = written
        with self._changed:
            # Since before the request was sent: another counts from later on.
            self._renewed_at = now
            if move is Move.TAKE:
                self._leads_from = self._clock() + LEASE_SECONDS if made else 0.0
            self._turn = turn
            self._seen = Seen(self.me, turn, moment, now)
            self._changed.notify_all()
        if made:
            LOG.info(self.explain())

    @property
    def _path(self) -> str:
        return f"{self._leases}/{self.name}"

    def _read(self) -> Object | None:
        try:
            return self._request("GET", self._path, None)
        except ApiNotFound:
            return None

    def _request(self, verb: str, path: str, body: Object | None) -> Object:
        return self._api.request(verb, path, body=body, answer_seconds=_REQUEST_SECONDS)


def _seen(lease: Object, now: float) -> Seen:
    spec = lease.get("spec") or {}
    return Seen(
        holder=spec.get("holderIdentity") or "",
        turn=int(spec.get("leaseTransitions") or 0),
        renewed=str(spec.get("renewTime") or ""),
        since=now,
    )
