"""What a driver process keeps in its state directory, seen from outside, also while it runs."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from csi_driver.cinderlib.persistence.factory import database_path
from csi_driver.drivers.directory_mark import MARK

PATIENCE_SECONDS = 120.0
"""After so long with something pending a test fails."""


def records(state: Path, kind: str) -> list[dict[str, Any]]:
    """The records of a kind in the ``db`` store; read by SQLite's own means, without a lock."""
    with _open(database_path(state)) as connection:
        rows = connection.execute(f"SELECT body FROM {kind}_records").fetchall()
    return [json.loads(body) for (body,) in rows]


def count(state: Path, kind: str) -> int:
    """How many records of a kind the ``db`` store has."""
    with _open(database_path(state)) as connection:
        (number,) = connection.execute(f"SELECT count(*) FROM {kind}_records").fetchone()
    return int(number)


def objects(state: Path) -> list[dict[str, Any]]:
    """The records of volumes, snapshots and connections."""
    return [
        record for kind in ("volume", "snapshot", "connection") for record in records(state, kind)
    ]


def pending(state: Path) -> list[dict[str, Any]]:
    """The records with an operation in progress, or with attempts of unknown outcome."""
    return unfinished(objects(state))


def unfinished(*kinds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of some records that have an operation in progress or suspects."""
    return [r for records in kinds for r in records if r.get("operation") or r.get("suspects")]


def wait_until_nothing_is_pending(state: Path) -> None:
    """Until the running process has finished what an earlier one left and nobody asks for."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    waiting = threading.Event()
    while left := pending(state):
        if time.monotonic() > deadline:
            raise AssertionError(f"still pending: {left}")
        waiting.wait(0.1)


def backend_files(state: Path) -> set[str]:
    """What is in the embedded backend's directory, but for its lock and mark; hidden files too."""
    return {path.name for path in (state / "volumes").iterdir()} - {".lock", MARK}


def expected_files(state: Path) -> set[str]:
    """The files that the records of volumes and snapshots stand for."""
    return files_of(records(state, "volume"), records(state, "snapshot"))


def files_of(volumes: list[dict[str, Any]], snapshots: list[dict[str, Any]]) -> set[str]:
    """The files that these records stand for."""
    return {f"volume-{each['cinder_id']}" for each in volumes} | {
        f"snapshot-{each['cinder_id']}" for each in snapshots
    }


def lock_files(state: Path) -> set[str]:
    """Lock files of the drivers, which go with the objects that they are named after."""
    return {path.name for path in (state / "cinder" / "locks").rglob("*") if path.is_file()}


@contextlib.contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        yield connection
