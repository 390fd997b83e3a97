"""Waiting for what Kubernetes' objects become, by watching them as controllers do."""

from __future__ import annotations

import time
from collections.abc import Callable

from csi_driver.kube.api import Api, Object
from csi_driver.kube.errors import ApiError, ApiNotFound

PATIENCE_SECONDS = 90.0
"""After so long something that never comes fails its test."""

_LOOK_SECONDS = 5
"""After so long a watch ends, and ``alive`` is asked again."""


def until(
    api: Api,
    path: str,
    what: str,
    true: Callable[[Object | None], bool],
    *,
    alive: Callable[[], None] = lambda: None,
) -> Object | None:
    """Follow one object until it is as wanted; the object then, None when it is gone.

    :param path: of the object, as ``/api/v1/nodes/n1``.
    :param what: is waited for, as the failure tells it.
    :param true: of the object, or of None while it is not there.
    :param alive: raises when those are gone who would bring it about.
    """
    collection, _, name = path.rpartition("/")
    only = {"fieldSelector": f"metadata.name={name}"}
    deadline = time.monotonic() + PATIENCE_SECONDS
    item: Object | None = None
    while time.monotonic() < deadline:
        alive()
        found, version = api.list(collection, only)
        item = found[0] if found else None
        if true(item):
            return item
        try:
            for event in api.watch(collection, version, only, seconds=_LOOK_SECONDS):
                if event["type"] == "BOOKMARK":
                    continue
                item = None if event["type"] == "DELETED" else event["object"]
                if true(item):
                    return item
        except ApiError:
            pass  # the list tells what the watch does not
    raise AssertionError(f"{path}: {what}: not within {PATIENCE_SECONDS:g} s, it is {item}")


def look(api: Api, path: str) -> Object | None:
    """An object as it is now; None when there is none."""
    try:
        return api.get(path)
    except ApiNotFound:
        return None
