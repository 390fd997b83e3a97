"""The secrets that this process knows, so that no log line and no error shows one.

Whoever meets a secret says so (:meth:`Secrets.learn`): the loader of drivers for
passwords in their options, the sealing of records and of the publish_context, the
gRPC edge for the secrets of a request.  Whoever lets text out masks it: the log's
formatter, the error table, the command line, ``failures`` for what records keep.
Recognising a secret by its value works where a vendor's exception quotes a password
without saying that it is one; patterns (``password=...``) cannot.
"""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

MASK = "***"

SHORTEST = 6
"""Characters; shorter values are words that stand in every log, like "admin"."""

LIMIT = 50_000
"""Values that are remembered; beyond, those that were not seen for longest go."""

_LONG_WORD = 12

_NAMES = re.compile(
    r"pass(word|wd|phrase)|pswd|secret|token|credential|keyring|chap|psk"
    r"|provider_auth|(api|auth|access|private|encrypt\w*)_?key",
    re.IGNORECASE,
)


@functools.lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Whether what is called so is a secret, as Cinder's drivers call things."""
    return _NAMES.search(name) is not None


class Secrets:
    """Values to mask.  Thread-safe; masking takes no lock."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        # Protects _remembered, and the making of new tuples in _by_head.
        self._lock = threading.Lock()
        self._remembered: dict[str, bool] = {}
        # The first characters of a value -> all values that begin so, the longest first:
        # looking at a text costs the same however many secrets there are.
        self._by_head: dict[str, tuple[str, ...]] = {}

    def learn(self, *values: str, keep: bool = False) -> None:
        """Mask these values from now on, also as they look inside JSON, ``repr`` or a URL.

        :param keep: never forget them: for configuration, which is learned once.
        """
        for value in values:
            for form in _forms(value):
                with self._lock:
                    self._add(form, keep)

    def learn_named(self, value: Any) -> None:
        """Learn every text in ``value`` that stands under a name of a secret."""
        if isinstance(value, Mapping):
            for name, inner in value.items():
                if is_secret_name(str(name)):
                    self.learn(*_texts(inner))
                else:
                    self.learn_named(inner)
        elif isinstance(value, (list, tuple)):
            for inner in value:
                self.learn_named(inner)

    def mask(self, text: str) -> str:
        """The text with every known secret replaced by :data:`MASK`."""
        heads = self._by_head
        kept: list[str] = []
        done = 0
        for position in range(len(text) - SHORTEST + 1 if heads else 0):
            head = text[position : position + SHORTEST]
            if head not in heads or position < done:
                continue
            secret = next((s for s in heads.get(head, ()) if text.startswith(s, position)), "")
            if secret:
                kept += (text[done:position], MASK)
                done = position + len(secret)
        return "".join((*kept, text[done:]))

    def _add(self, form: str, keep: bool) -> None:
        keep = self._remembered.pop(form, False) or keep
        self._remembered[form] = keep  # at the end: seen last
        head = form[:SHORTEST]
        known = self._by_head.get(head, ())
        if form not in known:
            self._by_head[head] = tuple(sorted((*known, form), key=len, reverse=True))
        if len(self._remembered) > self._limit:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        oldest = next((form for form, keep in self._remembered.items() if not keep), None)
        if oldest is None:
            return
        del self._remembered[oldest]
        head = oldest[:SHORTEST]
        left = tuple(form for form in self._by_head[head] if form != oldest)
        if left:
            self._by_head[head] = left
        else:
            del self._by_head[head]


SECRETS = Secrets()
"""Those of this process: logging is one for a process too."""


def _forms(value: str) -> set[str]:
    """How a value may appear in a text, without what is too short to be told apart.

    Cinder's provider_auth is "CHAP user password", a Ceph keyring a small file: the
    secret is the last word of a text, or a long one.
    """
    words = value.split()
    parts = {value, *words[-1:], *(word for word in words if len(word) >= _LONG_WORD)}
    return {
        form
        for part in parts
        for form in (part, json.dumps(part)[1:-1], repr(part)[1:-1], quote(part, safe=""))
        if len(form) >= SHORTEST
    }


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)
