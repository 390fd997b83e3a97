"""The command as a user meets it: help, exit codes, one line for every mistake."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

from csi_driver import __version__
from csi_driver.cli.serve import serve

COMMAND = Path(sys.executable).with_name("cinder-csi")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments],
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "80"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def options() -> dict[str, str]:
    """Every option of serve and its environment variable, from the function itself."""
    hints = get_type_hints(serve, include_extras=True)
    return {
        "--" + name.replace("_", "-"): hints[name].__metadata__[0].envvar
        for name in inspect.signature(serve).parameters
    }


def test_help_names_the_commands_and_the_exit_codes():
    for arguments in (["--help"], ["-h"], []):
        shown = run(*arguments)
        assert shown.returncode == 0
        for text in ("serve", "demo", "Exit codes: 0 done, 1 failed, 2 wrong usage"):
            assert text in " ".join(shown.stdout.split())


def test_help_of_serve_names_every_option_with_its_environment_variable():
    text = run("serve", "--help").stdout
    for option, variable in options().items():
        assert f"  {option} " in text
        assert variable in text, "cut off at the width of the terminal"


def test_only_what_csi_reserves_begins_with_csi():
    variables = set(options().values())
    assert {name for name in variables if name.startswith("CSI_")} == {"CSI_ENDPOINT"}
    assert all(name.startswith(("CINDER_CSI_", "CSI_ENDPOINT")) for name in variables)


def test_the_version_is_told():
    assert run("--version").stdout == f"cinder-csi {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["sevre"], "Did you mean 'serve'?"),
        (["serve", "extra"], "extra"),
        (["serve", "--rool", "node"], "--role"),
        (["serve", "--role", "nodes"], "'all', 'controller', 'node'"),
        (["serve", "--store", "postgres"], "'memory', 'db'"),
        (["serve", "--log-level", "LOUD"], "'debug', 'info', 'warning', 'error'"),
        (["serve", "--max-volumes-per-node", "many"], "valid int"),
        (["serve", "--max-volumes-per-node", "-1"], "0 means no limit"),
        (["serve", "--drain-seconds", "-1"], "Seconds, 0 or more"),
        (["serve", "--drain-seconds", "nan"], "Seconds, 0 or more"),
        (["serve", "--endpoint", "tcp://127.0.0.1:1"], "unix:///path/csi.sock"),
        (["serve", "--node-id", "a b"], "letters, digits, dots and dashes"),
        (["serve", "--driver-name", "-x"], "domain name notation"),
        (["demo", "--directory"], "--directory"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, told, tmp_path):
    done = run(*arguments, CINDER_CSI_STATE_DIR=str(tmp_path / "state"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("cinder-csi: ")
    assert told in done.stderr
    assert not (tmp_path / "state").exists()


def test_a_wrong_environment_variable_is_named():
    done = run("serve", CINDER_CSI_ROLE="nodes")
    assert done.returncode == 2
    assert "CINDER_CSI_ROLE" in done.stderr


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "csi_driver.cli", "--version"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"cinder-csi {__version__}\n"
