"""Faults happen where and when a test asks for them, once, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from csi_driver.base import faults
from csi_driver.base.errors import StateDirectoryError
from csi_driver.base.faults import Faults
from tests.support.waiting import wait_until


def in_directory(directory: Path) -> Faults:
    return Faults({"CINDER_CSI_TEST_FAULT_DIR": str(directory)})


def arm(directory: Path, point: str, action: str) -> Path:
    file = directory / point
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(action)
    return file


def test_without_the_environment_nothing_is_looked_for():
    assert faults._faults is None
    faults.reach("create/backend/write", StateDirectoryError)


def test_the_write_at_the_named_point_fails_once():
    asked = Faults({"CINDER_CSI_TEST_FAULT": "create/backend/write=fail"})
    asked.reach("create/backend/recorded", StateDirectoryError)
    with pytest.raises(StateDirectoryError, match="create/backend/write"):
        asked.reach("create/backend/write", StateDirectoryError)
    asked.reach("create/backend/write", StateDirectoryError)


def test_a_point_can_be_armed_at_any_time_and_is_gone_when_it_was_reached(tmp_path):
    asked = in_directory(tmp_path)
    asked.reach("create/backend/write", StateDirectoryError)
    armed = arm(tmp_path, "create/backend/write", "fail")
    asked.reach("create/backend/recorded")
    assert armed.exists()
    with pytest.raises(StateDirectoryError):
        asked.reach("create/backend/write", StateDirectoryError)
    assert not armed.exists()
    asked.reach("create/backend/write", StateDirectoryError)


def test_of_many_threads_at_a_point_one_fails(tmp_path):
    asked = in_directory(tmp_path)
    arm(tmp_path, "create/backend/write", "fail")
    together = threading.Barrier(8)
    failed = []

    def come_by() -> None:
        together.wait()
        try:
            asked.reach("create/backend/write", StateDirectoryError)
        except StateDirectoryError as error:
            failed.append(error)

    threads = [threading.Thread(target=come_by) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failed) == 1


def test_a_pause_lasts_until_its_file_is_removed(tmp_path):
    asked = in_directory(tmp_path)
    arm(tmp_path, "create/backend/write", "pause")
    paused = threading.Thread(target=asked.reach, args=("create/backend/write",))
    paused.start()
    wait_until("the pause", (tmp_path / "paused").exists)
    assert paused.is_alive()
    (tmp_path / "paused").unlink()
    paused.join()


def test_a_kill_is_one_that_nobody_can_catch(tmp_path):
    arm(tmp_path, "create/backend/write", "kill")
    code = "from csi_driver.base import faults; faults.reach('create/backend/write'); print('on')"
    environment = {**os.environ, "CINDER_CSI_TEST_FAULT_DIR": str(tmp_path)}
    for expected, output in ((-9, ""), (0, "on\n")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (expected, output)
