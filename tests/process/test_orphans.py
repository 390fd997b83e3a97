"""`cinder-csi orphans` beside a running controller, after its death, and without one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest

from csi_driver.config import BackendSettings
from tests.support.calls import Calls
from tests.support.driver_process import COMMAND, DriverProcess

REPOSITORY = Path(__file__).parents[2]


def orphans(process: DriverProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "orphans", "--state-dir", process.state_directory, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def listed(process: DriverProcess) -> dict[str, list[dict[str, Any]]]:
    done = orphans(process, "--output", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)
    return found


@pytest.fixture
def blind(driver: Callable[..., DriverProcess], tmp_path: Path) -> Callable[..., DriverProcess]:
    """Makes a process whose backend finds only what has what its creation returned."""

    def make(*faults: str, environment: dict[str, str] | None = None) -> DriverProcess:
        backend = BackendSettings(
            name="array",
            driver="tests.doubles.driver.DoubleDriver",
            options={
                "double_directory": str(tmp_path / "array"),
                "double_by_provider": "true",
                "double_fail": ",".join(faults),
            },
        )
        path = tmp_path / "backends.json"
        path.write_bytes(msgspec.json.encode([backend]))
        return driver(
            command=(sys.executable, "-m", "tests.support.serve_backend", str(path)),
            environment={"PYTHONPATH": str(REPOSITORY), **(environment or {})},
        )

    return make


def test_an_orphan_is_listed_beside_the_controller_and_forgotten_without_it(blind):
    process = blind("create_volume:after:tests.doubles.faults.VendorError:1")
    process.start()
    with closing(Calls(process)) as calls, pytest.raises(grpc.RpcError):
        calls.create("data")
    [orphan] = listed(process)["orphans"]
    assert (orphan["kind"], orphan["backend"], orphan["name"]) == ("volume", "array", "data")
    cinder_id = orphan["cinder_id"]
    assert f"cinder-csi orphans --forget {cinder_id}" in process.logs()

    refused = orphans(process, "--forget", cinder_id)
    assert refused.returncode == 1
    assert f"in use by the process {process.pid}" in refused.stderr
    process.stop()
    process.start()
    assert "1 orphans may be left on array: cinder-csi orphans lists them" in process.logs()
    process.stop()

    unknown = orphans(process, "--forget", cinder_id, "--forget", "another")
    assert unknown.returncode == 1
    assert "No orphan has the Cinder id another; nothing was changed" in unknown.stderr
    forgotten = orphans(process, "--forget", cinder_id)
    assert forgotten.returncode == 0
    assert f"Orphan {cinder_id} (volume 'data' on backend array" in forgotten.stderr
    assert listed(process)["orphans"] == []


def test_what_a_killed_controller_left_is_listed_with_what_to_do(blind):
    process = blind(environment={"CINDER_CSI_TEST_FAULT": "create/available/write=kill"})
    process.start()
    pid = process.pid
    with closing(Calls(process)) as calls, pytest.raises(grpc.RpcError):
        calls.create("data")
    found = listed(process)
    [suspect], [pending] = found["suspects"], found["pending"]
    assert (suspect["kind"], suspect["name"], found["orphans"]) == ("volume", "data", [])
    assert (pending["operation"], pending["step"], pending["attempts"]) == ("create", "backend", 1)
    assert pending["owner"].split("/")[1] == str(pid)
    shown = orphans(process).stdout
    for text in ("Orphans: none", "Suspects: 1", "Pending operations: 1", suspect["cinder_id"]):
        assert text in shown
    assert f"Nothing while process {pending['owner']} runs" in shown


def test_a_store_in_memory_is_said_to_be_one(driver):
    process = driver(store="memory")
    process.start()
    done = orphans(process)
    assert (done.returncode, done.stdout) == (2, "")
    assert "keeps its records in memory (--store memory): only its log tells of them" in done.stderr


def test_a_directory_without_records_is_said_to_have_none(driver):
    done = orphans(driver())
    assert done.returncode == 2
    assert "has no record store" in done.stderr
    assert done.stderr.count("\n") == 1


def test_nothing_to_report_is_reported(driver):
    process = driver()
    process.start()
    with closing(Calls(process)) as calls:
        volume = calls.create("data")
        assert orphans(process).stdout.splitlines() == [
            "Orphans: none",
            "Suspects: none",
            "Pending operations: none",
        ]
        calls.delete(volume.volume_id)
