"""csi-sanity with the records in Kubernetes; controller and node are two processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.accounts import add_node, install
from tests.cluster.apiserver import ApiServer
from tests.cluster.plugin import make_keys, plugin
from tests.sanity.test_csi_sanity import (  # noqa: F401 - two are fixtures
    SECRET,
    SPECS,
    csi_sanity,
    directory,
    expected_skips,
    run_sanity,
)
from tests.support import leftovers


@pytest.mark.root
@pytest.mark.parametrize("access_type", ["mount", "block"])
def test_conformance(
    access_type: str,
    apiserver: ApiServer,
    csi_sanity: Path,  # noqa: F811
    directory: Path,  # noqa: F811
) -> None:
    install(apiserver)
    add_node(apiserver, "sanity")
    driver, keys = f"sanity-{access_type}.example.com", make_keys(directory / "keys")
    node = plugin(
        *(apiserver, directory / "n", "node", "sanity"),
        driver=driver,
        keys=keys,
        arguments=("--max-volumes-per-node", "5"),
    )
    controller = plugin(
        apiserver, directory / "c", "controller", "sanity", driver=driver, keys=keys
    )
    with node, controller:
        report = run_sanity(
            csi_sanity, node.endpoint, access_type, directory, controller=controller.endpoint
        )
        left = leftovers.mounts_below(directory), leftovers.loop_devices_below(directory)
        exit_codes = controller.stop(), node.stop()
    print(f"csi-sanity, {access_type}, kubernetes: {report}")

    logs = controller.logs() + node.logs()
    if report.failed:
        specs = (f"{name}\n{why}\n" for name, why in report.failed.items())
        pytest.fail("\n".join([*specs, logs]), pytrace=False)
    assert report.skipped == expected_skips()
    assert len(report.passed) + len(report.skipped) == SPECS
    assert left == ([], []), "mounts and loop devices left by volumes that are gone"
    assert exit_codes == (0, 0), "SIGTERM ends the processes in good order"
    assert SECRET not in logs
