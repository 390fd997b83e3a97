"""csi-sanity, the conformance test of CSI, against the real process and its default backend.

Mounted and raw volumes, each with the store in memory, in SQLite and in PostgreSQL; with Kubernetes
in tests/cluster/test_sanity.py. A spec that csi-sanity skips is one for a capability that the
driver does not declare: expected-skips.txt holds them all with the reasons, so that neither a lost
capability nor a new spec goes by unnoticed.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sanity.junit import Report, read_report
from tests.support import leftovers, postgresql
from tests.support.driver_process import DriverProcess

HERE = Path(__file__).parent
BUILD = HERE.parent.parent / "tools" / "csi-sanity.sh"
NO_GO = 3
SPECS = 103
GIB = 1024**3
SECRET = "correct-horse-battery-staple"
SECRETS_OF = (
    "CreateVolume",
    "DeleteVolume",
    "ControllerPublishVolume",
    "ControllerUnpublishVolume",
    "ControllerValidateVolumeCapabilities",
    "NodeStageVolume",
    "NodePublishVolume",
    "CreateSnapshot",
    "DeleteSnapshot",
    "ControllerExpandVolume",
    "ControllerModifyVolume",
    "ListSnapshots",
    "GetSnapshot",
)


@pytest.fixture(scope="module")
def csi_sanity() -> Path:
    """The program, built first where it is absent."""
    build = subprocess.run([BUILD], check=False, capture_output=True, text=True)
    if build.returncode == NO_GO:
        pytest.skip(build.stderr.strip())
    assert build.returncode == 0, build.stderr
    return Path(build.stdout.strip())


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a short path, whose mounts and loop devices do not outlive the test."""
    path = tmp_path_factory.mktemp("sanity")
    yield path
    leftovers.release(path)


@pytest.fixture
def database() -> Iterator[str]:
    """The URL of an empty PostgreSQL database."""
    with postgresql.running() as server:
        yield server.port_url(server.new_database())


def run_sanity(
    program: Path, endpoint: str, access_type: str, directory: Path, controller: str = ""
) -> Report:
    """One run. The seed fixes the order of the specs, so that a failure can be repeated.

    `controller` is the endpoint of the controller's services where another process has them.
    """
    secrets = directory / "secrets.yaml"
    secrets.write_text("".join(f"{call}Secret:\n  password: {SECRET}\n" for call in SECRETS_OF))
    report = directory / "report.xml"
    command = [
        str(program),
        f"--csi.endpoint={endpoint}",
        f"--csi.controllerendpoint={controller}",
        f"--csi.testvolumeaccesstype={access_type}",
        f"--csi.testvolumesize={1 * GIB}",
        f"--csi.testvolumeexpandsize={2 * GIB}",
        f"--csi.mountdir={directory / 'mount'}",
        f"--csi.stagingdir={directory / 'staging'}",
        f"--csi.secrets={secrets}",
        "--csi.testnodevolumeattachlimit",
        f"--ginkgo.junit-report={report}",
        "--ginkgo.seed=1",
        "--ginkgo.no-color",
    ]
    output = directory / "sanity.log"
    with output.open("wb") as log:
        subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    assert report.exists(), output.read_text()
    return read_report(report)


def expected_skips() -> dict[str, str]:
    lines = (HERE / "expected-skips.txt").read_text().splitlines()
    pairs = (line.split("  --  ") for line in lines if line and not line.startswith("#"))
    return {name.strip(): reason.strip() for name, reason in pairs}


@pytest.mark.root
@pytest.mark.parametrize("store", ["memory", "db", "postgresql"])
@pytest.mark.parametrize("access_type", ["mount", "block"])
def test_conformance(
    access_type: str,
    store: str,
    csi_sanity: Path,
    directory: Path,
    request: pytest.FixtureRequest,
) -> None:
    limit = ["--max-volumes-per-node", "5"]
    environment = {}
    if store == "postgresql":
        environment["CINDER_CSI_STORE_URL"] = request.getfixturevalue("database")
    with DriverProcess(
        directory,
        store="memory" if store == "memory" else "db",
        node_id="sanity",
        arguments=limit,
        environment=environment,
    ) as driver:
        report = run_sanity(csi_sanity, driver.endpoint, access_type, directory)
        left = leftovers.mounts_below(directory), leftovers.loop_devices_below(directory)
        exit_code = driver.stop()
    print(f"csi-sanity, {access_type}, {store}: {report}")

    if report.failed:
        specs = (f"{name}\n{why}\n" for name, why in report.failed.items())
        pytest.fail("\n".join([*specs, driver.logs()]), pytrace=False)
    assert report.skipped == expected_skips()
    assert len(report.passed) + len(report.skipped) == SPECS
    assert left == ([], []), "mounts and loop devices left by volumes that are gone"
    assert exit_code == 0, "SIGTERM ends the process in good order"
    assert SECRET not in driver.logs()
