"""Whether a slow backend makes anybody wait who need not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from csi_driver.rpc._generated import csi_pb2 as pb
from tests.bench import calls
from tests.bench.figures import Figure
from tests.bench.processes import serving, slow

CREATES_AT_ONCE = 16
CREATES_BESIDE = 40


def creates_at_once() -> Iterator[Figure]:
    """16 creates at once on a backend that takes 0.5 s for each."""
    with (
        TemporaryDirectory() as directory,
        serving(Path(directory), backend=slow(0.5)) as subject,
    ):
        calls.create(subject.client)
        took = calls.repeat(calls.create, subject.client, CREATES_AT_ONCE, CREATES_AT_ONCE)
    yield Figure(
        name=f"{CREATES_AT_ONCE} creates at once on a backend of 0.5 s",
        setting="all, db",
        value=took,
        unit="s",
        bound=0.8,
    )


def identity_beside_creates() -> Iterator[Figure]:
    """GetPluginInfo while 40 creates of 1 s run: the 99th percentile of its time."""
    with (
        TemporaryDirectory() as directory,
        serving(Path(directory), backend=slow(1.0)) as subject,
    ):
        request = pb.GetPluginInfoRequest()
        busy = threading.Thread(
            target=calls.repeat,
            args=(calls.create, subject.client, CREATES_BESIDE, CREATES_BESIDE),
        )
        took = []
        busy.start()
        while busy.is_alive():
            took.append(calls.milliseconds(lambda: subject.client.identity.GetPluginInfo(request)))
            time.sleep(0.002)
    yield Figure(
        name=f"99th percentile of GetPluginInfo beside {CREATES_BESIDE} creates of 1 s",
        setting="all, db",
        value=sorted(took)[int(len(took) * 0.99)],
        unit="ms",
        bound=50,
    )
