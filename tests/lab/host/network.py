"""A network for lab kernels: a namespace of its own with a bridge, and a tap device for each."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Network:
    """A namespace of the host and the tap devices in it."""

    namespace: str
    taps: tuple[str, ...]


@contextlib.contextmanager
def network(taps: int) -> Iterator[Network]:
    """Make a network; the namespace takes everything in it along when it goes."""
    made = Network(f"csi-lab-{os.getpid()}", tuple(f"tap{number}" for number in range(taps)))
    _ip("netns", "add", made.namespace)
    try:
        within = ("-n", made.namespace)
        _ip(*within, "link", "add", "bridge0", "type", "bridge")
        _ip(*within, "link", "set", "bridge0", "up")
        for tap in made.taps:
            _ip(*within, "tuntap", "add", tap, "mode", "tap")
            _ip(*within, "link", "set", tap, "master", "bridge0", "up")
        yield made
    finally:
        _ip("netns", "delete", made.namespace)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
