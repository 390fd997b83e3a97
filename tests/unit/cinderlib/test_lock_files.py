"""Lock files of a deleted object go, whoever made them and whenever that was."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from csi_driver.cinderlib.runtime import bootstrap, locks
from tests.unit.cinderlib.conftest import Loaded

LONG_AGO = 1


@pytest.fixture
def directory(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where lock files are, as nobody has seen it yet."""
    monkeypatch.setattr(locks._names, "_known", None)
    return bootstrap.lock_directory()


@pytest.fixture
def cinder_id() -> str:
    return str(uuid.uuid4())


def test_the_directory_is_read_once_while_it_does_not_change(
    loaded: Loaded, directory: Path, cinder_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(directory, (LONG_AGO, LONG_AGO))
    locks.clean_volume(cinder_id, loaded.driver)
    monkeypatch.setattr(os, "scandir", lambda path: pytest.fail(f"{path} was read again"))
    locks.clean_volume(cinder_id, loaded.driver)
    locks.clean_snapshot(cinder_id, loaded.driver)


@pytest.mark.parametrize("clean", [locks.clean_volume, locks.clean_snapshot])
def test_a_lock_file_made_since_is_removed(
    loaded: Loaded, directory: Path, cinder_id: str, clean: Callable[[str, Any], None]
) -> None:
    os.utime(directory, (LONG_AGO, LONG_AGO))
    clean(cinder_id, loaded.driver)
    made = directory / f"cinder-{cinder_id}-work"
    made.touch()
    clean(cinder_id, loaded.driver)
    assert not made.exists()


def test_a_lock_file_made_long_ago_is_removed(
    loaded: Loaded, directory: Path, cinder_id: str
) -> None:
    made = directory / f"cinder-{cinder_id}-work"
    made.touch()
    os.utime(directory, (LONG_AGO, LONG_AGO))
    locks.clean_volume(str(uuid.uuid4()), loaded.driver)
    locks.clean_volume(cinder_id, loaded.driver)
    assert not made.exists()


def test_a_lock_file_made_in_the_same_tick_of_the_clock_is_removed(
    loaded: Loaded, directory: Path, cinder_id: str
) -> None:
    time = directory.stat().st_mtime_ns
    locks.clean_volume(cinder_id, loaded.driver)
    made = directory / f"cinder-{cinder_id}-work"
    made.touch()
    os.utime(directory, ns=(time, time))
    locks.clean_volume(cinder_id, loaded.driver)
    assert not made.exists()
