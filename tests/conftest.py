"""Rules for all tests: which need root, and which may be skipped."""

import os
import sys
from pathlib import Path

import hypothesis
import pytest

from tests.support.skips import SkipPolicy

LAB = Path(__file__).with_name("lab")
EXPECTED_SKIPS = Path(__file__).with_name("expected-skips.txt")


def pytest_configure(config: pytest.Config) -> None:
    """Watch over the skips of every run; let no test depend on a fast machine or a full PATH."""
    hypothesis.settings.register_profile("any-machine", deadline=None)
    hypothesis.settings.load_profile("any-machine")
    # Debian leaves the directories of losetup and mkfs off the path of all but root.
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    config.pluginmanager.register(SkipPolicy(EXPECTED_SKIPS), "skip-policy")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Collect the lab only where it is named: it needs what `make lab-setup` installs."""
    return True if collection_path == LAB and not _names_lab(config) else None


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what a run of everything has left out."""
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        terminalreporter.write_line(
            "left out: tests/lab, on real storage: `make lab-setup` once, then `make lab`"
        )


def _names_lab(config: pytest.Config) -> bool:
    named = [Path(config.invocation_params.dir, arg.split("::")[0]) for arg in config.args]
    return any(path == LAB or LAB in path.parents for path in named)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs root where there is none."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root (loop devices, mounts)"))


def pytest_collection_finish() -> None:
    """No test module may import Cinder: what imports it first decides how it is set up.

    Import it inside a test, after ``tests.support.cinder_process.set_up()``.
    """
    imported = [name for name in ("cinder", "os_brick", "oslo_service") if name in sys.modules]
    if imported:
        raise pytest.UsageError(f"A test module imports {', '.join(imported)} when it is collected")
