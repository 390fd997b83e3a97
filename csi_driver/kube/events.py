"""Kubernetes Events for what an administrator should know; best effort.

Used by the record store.  An Event never holds up what it tells of: it is queued, sent by a
thread of its own, and dropped when the API server does not take it.  The same word about the
same object is said once in ``QUIET_SECONDS``.
"""

from __future__ import annotations

import datetime
import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from csi_driver.base.masking import SECRETS
from csi_driver.kube.api import Api, Object
from csi_driver.kube.errors import ApiError

LOG = logging.getLogger(__name__)

NAMESPACE = "default"
"""Where Events about objects without a namespace belong (core/v1, Event)."""

QUIET_SECONDS = 600.0
_LONGEST_QUEUE = 200
_REMEMBERED = 2000


@dataclass(frozen=True)
class Notice:
    """What is to be told.

    :ivar reason: one word in CamelCase, for programs; ``message`` is for people.
    """

    item: Object
    reason: str
    message: str
    warning: bool = True


class Events:
    """The thread that tells; thread-safe.

    :param component: who tells it.
    :param clock: seconds of a monotonic clock; injected by tests.
    """

    def __init__(
        self, api: Api, component: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._api = api
        self._component = component
        self._clock = clock
        self._queue: queue.Queue[Notice | None] = queue.Queue(_LONGEST_QUEUE)
        # Only the thread uses it.
        self._said: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def tell(self, notice: Notice) -> None:
        """Say something about an object, soon; nothing happens when too much waits already."""
        try:
            self._queue.put_nowait(notice)
        except queue.Full:
            LOG.warning("An event about %s is dropped: too many wait", _name(notice.item))

    def close(self) -> None:
        """Drop what waits, and end."""
        while True:
            try:
                self._queue.get_nowait()
            except queue.Empty:
                break
        self._queue.put(None)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while (notice := self._queue.get()) is not None:
            if self._is_news(notice):
                try:
                    self._api.create(f"/api/v1/namespaces/{NAMESPACE}/events", self._event(notice))
                except ApiError as error:
                    LOG.warning("An event about %s is lost: %s", _name(notice.item), error)

    def _is_news(self, notice: Notice) -> bool:
        key = (notice.item["metadata"]["uid"], notice.reason, notice.message)
        now = self._clock()
        said = self._said.get(key)
        if said is not None and now - said < QUIET_SECONDS:
            return False
        self._said[key] = now
        self._said.move_to_end(key)
        if len(self._said) > _REMEMBERED:
            self._said.popitem(last=False)
        return True

    def _event(self, notice: Notice) -> Object:
        metadata = notice.item["metadata"]
        moment = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{metadata['name'][:200]}.", "namespace": NAMESPACE},
            "involvedObject": {
                "apiVersion": notice.item["apiVersion"],
                "kind": notice.item["kind"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
            "reason": notice.reason,
            "message": SECRETS.mask(notice.message)[:1000],
            "type": "Warning" if notice.warning else "Normal",
            "firstTimestamp": moment,
            "lastTimestamp": moment,
            "count": 1,
            "source": {"component": self._component},
        }


def _name(item: Object) -> str:
    return f"{item['kind']} {item['metadata']['name']}"
