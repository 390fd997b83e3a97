"""What a test is told when the driver process does not start."""

from pathlib import Path

import pytest

from tests.support.driver_process import DriverDidNotStart, DriverProcess


def test_a_process_that_ends_at_once_is_reported_with_its_output(tmp_path: Path) -> None:
    driver = DriverProcess(tmp_path, store="no-such-store")
    with pytest.raises(DriverDidNotStart, match=r"exited with code 2(?s:.)*no-such-store"):
        driver.start()


def test_a_process_that_did_not_start_is_not_running(tmp_path: Path) -> None:
    driver = DriverProcess(tmp_path, store="no-such-store")
    with pytest.raises(DriverDidNotStart):
        driver.start()
    with pytest.raises(RuntimeError, match="not running"):
        driver.stop()
