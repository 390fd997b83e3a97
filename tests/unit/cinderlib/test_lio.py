"""Cinder's LIO helper starts its tool without a password among the arguments."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from csi_driver.cinderlib.runtime import lio
from tests.support import cinder_process


@pytest.fixture(autouse=True)
def prepared() -> None:
    cinder_process.set_up()
    lio.keep_secrets_off_command_lines()


def test_arguments_go_to_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cinder.volume.targets.lio import LioAdm

    interpreter = tmp_path / "python"
    interpreter.write_text(
        f'#!/bin/sh\necho "$*" >{tmp_path}/arguments\ncat >{tmp_path}/input\necho said\n'
    )
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    told = LioAdm._execute(
        "cinder-rtstool", "create", "/dev/vg/lv", "iqn.x:1", "user", "secret", False, "-p3260"
    )
    assert told[0] == "said\n"
    assert "secret" not in (tmp_path / "arguments").read_text()
    given = json.loads((tmp_path / "input").read_text())
    assert given == [
        *("cinder-rtstool", "create", "/dev/vg/lv", "iqn.x:1"),
        *("user", "secret", "False", "-p3260"),
    ]


def test_the_tool_itself_takes_them_so() -> None:
    """Cinder's own tool, of the release that is installed."""
    from cinder.volume.targets.lio import LioAdm
    from oslo_concurrency.processutils import ProcessExecutionError

    LioAdm._execute("cinder-rtstool", "verify")
    with pytest.raises(ProcessExecutionError) as told:
        LioAdm._execute("cinder-rtstool", "add-initiator", "iqn.x:1", "user")
    assert "add-initiator" in told.value.stdout


def test_the_tool_does_not_load_eventlet(monkeypatch: pytest.MonkeyPatch) -> None:
    from cinder.volume.targets.lio import LioAdm

    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    _, imports = LioAdm._execute("cinder-rtstool", "verify")
    assert "| rtslib_fb" in imports
    assert "eventlet" not in imports


def test_other_programs_are_started_as_before() -> None:
    from cinder.volume.targets.lio import LioAdm

    assert LioAdm._execute("echo", "heard") == ("heard\n", "")
