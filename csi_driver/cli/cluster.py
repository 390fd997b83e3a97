"""What a process of a cluster has besides: the API server, and a place in the election.

Used by ``serving`` and the assemblies when the records are in Kubernetes.  Every controller
replica serves its socket and watches the records; the one that holds the Lease works, the
others answer controller calls with who does.  Loads no client library: a node process uses
it too.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from csi_driver.base.errors import CinderCSIError, ConfigurationError
from csi_driver.config import Settings
from csi_driver.kube.api import Api
from csi_driver.kube.connection import Connection, in_cluster
from csi_driver.kube.election import Elector, Standing
from csi_driver.kube.errors import AWAY, ApiError, NotLeading

LOG = logging.getLogger("csi_driver.serve")

T = TypeVar("T")

DEPOSED_EXIT_CODE = 75
"""Of a process that led and was replaced (EX_TEMPFAIL): kubelet starts it again."""

_LOOK_SECONDS = 0.2
_LONGEST_DELAY = 5.0

_WAIT_FOR_SERVER = "Check that the API server can be reached from this Pod; the call may be retried"


def connection(settings: Settings) -> Connection:
    """How the API server is reached by a process with these settings.

    :raises ConfigurationError: it cannot be.
    """
    return connection_by(settings.kubeconfig)


def connection_by(kubeconfig: Path | None) -> Connection:
    """How the API server is reached: by the kubeconfig that is named, else as a Pod.

    :raises ConfigurationError: it cannot be.
    """
    if kubeconfig is None:
        return in_cluster()
    from csi_driver.kube.kubeconfig import from_kubeconfig

    return from_kubeconfig(kubeconfig)


class Replica:
    """This process as one of the controller's replicas.

    :param name: of the replica: the Pod's name, where people look for it.
    """

    def __init__(self, api: Api, driver: str, name: str) -> None:
        self._elector = Elector(api, driver, f"{name}/{uuid.uuid4().hex[:8]}")
        self._prepared = False
        self._ending = threading.Event()

    def start(self) -> bool:
        """Take part in the election from now on.

        The process ends at once should it lead and another replica take over: what it knows
        is old then.  Its backend calls that still run were recorded before they began, and
        the new leader takes care of them.

        :returns: whether this replica leads at once, because no other does.
        """
        self._elector.start()
        threading.Thread(target=self._end_when_deposed, name="deposed", daemon=True).start()
        return self._elector.first_look() is Standing.LEADING

    def wait_to_lead(self, stopped: Callable[[], bool]) -> bool:
        """Wait until this replica leads; False when the process was stopped before.

        For one that follows the records already.
        """
        self._prepared = True
        LOG.info("Standing by: %s", self._elector.explain())
        while not stopped():
            if self._elector.wait_to_lead(_LOOK_SECONDS) is Standing.LEADING:
                return True
        return False

    def once_there(self, work: Callable[[], T], stopped: Callable[[], bool]) -> T | None:
        """Do what needs the API server, as soon as that answers; None when stopped before.

        A process that ended instead would be started again later and later.

        :raises CinderCSIError: of ``work``, for any other reason.
        """
        problem, delay = "", _LOOK_SECONDS
        while not stopped():
            try:
                return work()
            except CinderCSIError as error:
                if not isinstance(error.__cause__, AWAY):
                    raise
                if str(error) != problem:
                    LOG.warning("%s; tried again until it works", error)
                problem = str(error)
            until = time.monotonic() + delay
            while not stopped() and time.monotonic() < until:
                self._ending.wait(_LOOK_SECONDS)
            delay = min(2 * delay, _LONGEST_DELAY)
        return None

    def is_leading(self) -> bool:
        """Whether this replica leads at this moment."""
        return self._elector.standing is Standing.LEADING

    def admit(self, method: str, effect: bool) -> str:
        """Let a call of the controller pass while this replica leads.

        A leader that cannot reach the API server still answers what changes nothing: nobody
        else wrote a record as long as it is not replaced, so its cache is the truth, or was
        a moment ago.

        :param effect: whether the call changes something.
        :returns: what the caller should know of the answer, '' for nothing.
        :raises NotLeading: it does not pass.
        """
        standing = self._elector.standing
        if standing is Standing.LEADING:
            return ""
        why = self._elector.explain()
        if standing is not Standing.UNCERTAIN:
            raise NotLeading(f"{method} is not served here: {why}")
        if effect:
            raise NotLeading(f"{method} is not begun now: {why}", advice=_WAIT_FOR_SERVER)
        return f"from the cache, because {why}"

    def may_write(self) -> None:
        """Return when records may be written; waits while the API server is away.

        :raises NotLeading: never again.
        """
        if self._elector.wait_to_lead() is not Standing.LEADING:
            raise NotLeading(f"Nothing is recorded any more: {self._elector.explain()}")

    @property
    def standing(self) -> Standing:
        """Where this replica stands in the election."""
        return self._elector.standing

    def explain(self) -> str:
        """One sentence on who leads."""
        return self._elector.explain()

    @property
    def is_prepared(self) -> bool:
        """Whether this replica follows the records, so that leading takes a moment only."""
        return self._prepared

    def can_take_over(self) -> bool:
        """Whether this replica sees the Lease, and so would notice that nobody holds it."""
        return self._elector.sees_the_lease

    def is_alive(self) -> bool:
        """Whether this replica takes part in the election as it should."""
        return self._elector.is_alive()

    def stop(self) -> None:
        """Leave the election; the Lease is free for another at once."""
        self._ending.set()
        self._elector.stop()

    def _end_when_deposed(self) -> None:
        while not self._ending.wait(_LOOK_SECONDS):
            if self._elector.standing is Standing.DEPOSED:
                LOG.error("Ending at once: %s", self._elector.explain())
                logging.shutdown()
                os._exit(DEPOSED_EXIT_CODE)


def refuse_lost_records(api: Api, driver: str) -> None:
    """Refuse to start without records while the cluster has volumes of this driver.

    Every id would be unknown, and ControllerUnpublishVolume would answer OK for attachments
    that exist.  For a store that has no record.

    :raises ConfigurationError: there are such volumes.
    """
    try:
        found = [
            item["metadata"]["name"]
            for item in api.list("/api/v1/persistentvolumes")[0]
            if (item["spec"].get("csi") or {}).get("driver") == driver
        ]
    except ApiError as error:
        raise ConfigurationError(
            f"There is no record, and whether there are volumes already is not known: {error}"
        ) from error
    if found:
        raise ConfigurationError(
            f"The cluster has {len(found)} PersistentVolumes of {driver} ({', '.join(found[:3])},"
            " ...) and no record of any",
            advice="Restore the records from a backup: cinder-csi records import, docs/backup.md",
        )
