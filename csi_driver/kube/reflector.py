"""Keeps a copy of a collection current: lists it once, then follows its changes.

One :class:`Reflector` per collection, with a thread of its own, for the record store's
cache.  What it finds goes to a :class:`Sink`; the reflector itself keeps only the resource
version to go on from.  A watch ends often (the server ends it, the connection breaks, a
version expires): it goes on from the last version that an event or a bookmark named, and
only when that version is too old the collection is listed again.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from csi_driver.kube.api import Api, Object, Watch
from csi_driver.kube.errors import ApiBusy, ApiError, ApiExpired

LOG = logging.getLogger(__name__)

WATCH_SECONDS = 60
"""After so long the server ends a watch.  A frozen server is noticed soon after that."""

_FIRST_DELAY, _LONGEST_DELAY = 0.2, 3.0
"""Between two tries.  Short even when the server is long away: what is read is old meanwhile."""


class Sink(Protocol):
    """Where the objects of a collection go; called from the reflector's thread."""

    def replace(self, objects: Iterable[Object], resource_version: int) -> None:
        """These are all objects at that version.

        They come from the API server while they are iterated, which may raise ApiError: the
        sink then keeps what it had.
        """

    def changed(self, item: Object) -> None:
        """This object was made or changed."""

    def removed(self, item: Object) -> None:
        """This object is gone; its resource version is that of the removal."""


class Reflector:
    """The thread that follows one collection.

    :param query: selectors, as for :meth:`Api.list`.
    :param wait: waits so many seconds, or until the reflector is stopped; injected by tests.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        sink: Sink,
        query: Mapping[str, str] | None = None,
        *,
        wait: Callable[[float], Any] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._path = path
        self._sink = sink
        self.query = dict(query or {})
        self._stopped = threading.Event()
        self._synced = threading.Event()
        self._wait = wait or self._stopped.wait
        self._clock = clock
        self._version = ""
        self._watch: Watch | None = None
        self.error: ApiError | None = None
        """Why the collection cannot be followed now; None while it is."""
        self.out_of_touch_since: float | None = clock()
        """Since when (seconds since the epoch) changes may be missed; None while followed."""
        self._thread = threading.Thread(
            target=self._run, name=f"watch {path.rpartition('/')[2]}", daemon=True
        )

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """Stop following; returns when the thread has ended, or soon will."""
        self._stopped.set()
        watch = self._watch
        if watch is not None:
            watch.stop()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def synced(self, seconds: float) -> bool:
        """Wait until the collection was read once; False when that takes longer."""
        return self._synced.wait(seconds)

    # -- the thread ------------------------------------------------------------

    def _run(self) -> None:
        delay = _FIRST_DELAY
        expired = False
        while not self._stopped.is_set():
            try:
                if not self._version:
                    self._list()
                self._follow()
                delay, expired = _FIRST_DELAY, False
            except ApiExpired as error:
                LOG.info("%s is listed anew: %s", self._path, error.message)
                self._out_of_touch()
                self._version = ""
                if expired:  # again: a long list is a burden to a server that is slow already
                    self._wait(delay * random.uniform(0.5, 1.0))
                    delay = min(delay * 2, _LONGEST_DELAY)
                expired = True
            except ApiError as error:
                self._lost(error)
                least = error.retry_after if isinstance(error, ApiBusy) else 0.0
                self._wait(max(least, delay * random.uniform(0.5, 1.0)))
                delay = min(delay * 2, _LONGEST_DELAY)
            except Exception as error:
                # A defect must not end the thread: the copy would grow old unnoticed.
                LOG.exception("%s is listed anew after a defect", self._path)
                self._lost(ApiError(f"a defect in following {self._path}: {error!r}"))
                self._version = ""
                self._wait(_LONGEST_DELAY)

    def _list(self) -> None:
        objects, version = self._api.stream(self._path, self.query)
        self._sink.replace(objects, int(version))
        self._version = version
        self._synced.set()

    def _follow(self) -> None:
        self._watch = self._api.watch(self._path, self._version, self.query, seconds=WATCH_SECONDS)
        if self._stopped.is_set():
            self._watch.stop()
        self._found()
        for event in self._watch:
            item = event["object"]
            if event["type"] == "DELETED":
                self._sink.removed(item)
            elif event["type"] != "BOOKMARK":
                self._sink.changed(item)
            self._version = str(item["metadata"]["resourceVersion"])

    def _found(self) -> None:
        if self.error is not None:
            LOG.info("%s is followed again", self._path)
        self.error = None
        self.out_of_touch_since = None

    def _lost(self, error: ApiError) -> None:
        if self._stopped.is_set():
            return
        if self.error is None:
            LOG.warning("%s cannot be followed: %s", self._path, error)
        self._out_of_touch()
        self.error = error

    def _out_of_touch(self) -> None:
        if self.out_of_touch_since is None:
            self.out_of_touch_since = self._clock()
