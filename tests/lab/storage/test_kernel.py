"""The lab kernel has what the other tests stand on, and its own root."""

import subprocess
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "module", ["dm_thin_pool", "dm_multipath", "iscsi_tcp", "iscsi_target_mod", "sd_mod", "xfs"]
)
def test_has(module: str) -> None:
    subprocess.run(["modprobe", module], check=True)


def test_keeps_what_tests_write_to_itself() -> None:
    roots = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    assert [kind for _, point, kind, *_ in roots if point == "/"] == ["overlay"]
