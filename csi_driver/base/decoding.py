"""Makes msgspec structs safe to be decoded by several threads.

msgspec (0.22 still does) notes on a struct's class what its fields are before it has found
out all of them, and a thread that decodes the same type at that moment ends the process by
a segmentation fault.  So every module whose structs are decoded calls :func:`prepare` at
its end: modules are imported by one thread, and no other has their types before.
"""

from __future__ import annotations

import sys

import msgspec


def prepare(module: str) -> None:
    """Let msgspec find out now what the structs that a module defines consist of.

    :param module: the caller's ``__name__``.
    """
    for kind in list(vars(sys.modules[module]).values()):
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            msgspec.json.Decoder(kind)
