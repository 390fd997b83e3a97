"""Records of one machine are lost and brought back: from before a mkfs, and from after it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_driver.base.values import FormattingState
from tests.support import leftovers, state
from tests.support.calls import Calls
from tests.support.driver_process import COMMAND, DriverProcess


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[DriverProcess]:
    yield DriverProcess(tmp_path)
    leftovers.release(tmp_path)


def records(driver: DriverProcess, name: str, *arguments: str | Path, code: int = 0) -> str:
    done = subprocess.run(
        [COMMAND, "records", name, *arguments, "--state-dir", driver.state_directory],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


@pytest.mark.root
@pytest.mark.parametrize("ledger", ["kept", "lost"])
def test_data_outlives_the_loss_of_all_records(
    driver: DriverProcess, tmp_path: Path, ledger: str
) -> None:
    staging = tmp_path / "staging"
    staging.mkdir()
    before, after = tmp_path / "before", tmp_path / "after"
    with driver, Calls(driver) as calls:
        volume_id = calls.create("data").volume_id
        records(driver, "export", "--while-running", before)
        old = calls.publish(volume_id, "node-1")
        calls.stage(volume_id, old, str(staging))
        (staging / "file").write_text("precious")
        calls.unstage(volume_id, str(staging))
        assert "is in use by the process" in records(driver, "export", after, code=1)
        records(driver, "export", "--while-running", after)
    for file in (before, after):
        shutil.rmtree(driver.state_directory / "records")
        if ledger == "lost":
            shutil.rmtree(driver.state_directory / "confirmations")
        records(driver, "import", file)
        assert "No problems" in records(driver, "check")
        (record,) = state.records(driver.state_directory, "volume")
        known = FormattingState.UNKNOWN if file is before else FormattingState.FORMATTED
        assert record["formatting"]["state"] == known
        with driver, Calls(driver) as calls:
            # What kubelet kept, of before the volume was formatted, and what the controller says.
            for context in (old, calls.publish(volume_id, "node-1")):
                calls.stage(volume_id, context, str(staging))
                assert (staging / "file").read_text() == "precious"
                calls.unstage(volume_id, str(staging))
            calls.unpublish(volume_id, "node-1")
            if file is after:
                calls.delete(volume_id)
                assert not state.backend_files(driver.state_directory)
