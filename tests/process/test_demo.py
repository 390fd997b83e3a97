"""`cinder-csi demo`, as a person would run it: with root and without."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from csi_driver.cli.demo import STEPS

DEMO = [sys.executable, "-m", "csi_driver.cli", "demo", "--directory"]
WITHOUT_ROOT = ["unshare", "--user", "--"]
"""A user namespace without a mapping: no root, no capability."""


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "160"}
    return subprocess.run(
        command, check=False, env=environment, capture_output=True, text=True, timeout=240
    )


@pytest.mark.root
def test_it_walks_a_whole_life_and_proves_that_nothing_is_left(tmp_path: Path) -> None:
    done = run([*DEMO, str(tmp_path)])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 records, 0 files, 0 mounts, 0 loop devices" in done.stdout
    for _, title in STEPS:
        assert f"ok  {title}" in done.stdout
    assert "filesystem grown to 1.9" in done.stdout
    assert "A volume's life" in done.stdout, "the closing table"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
def test_without_root_it_goes_up_to_the_attach_and_says_what_root_would_add(
    tmp_path: Path,
) -> None:
    assert shutil.which("unshare"), "util-linux is a prerequisite"
    done = run([*WITHOUT_ROOT, *DEMO, str(tmp_path)])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok  ControllerPublishVolume" in done.stdout
    assert "ok  CreateVolume from the snapshot, larger" in done.stdout
    assert "NodeStageVolume" not in done.stdout
    assert "sudo make demo" in done.stdout
    assert "0 records, 0 files" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_used_is_said_in_one_line(tmp_path: Path) -> None:
    done = run([*DEMO, str(tmp_path / "absent")])
    assert done.returncode == 1
    assert "No temporary directory can be made" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
