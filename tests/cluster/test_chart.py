"""The chart, by Helm itself: the same as the manifests, names as values, definitions upgraded."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from csi_driver.base.values import NodeRegistration
from csi_driver.cinderlib.persistence.kubernetes import definitions, schemas
from csi_driver.cinderlib.persistence.kubernetes.resources import SCHEMA, SCHEMA_ANNOTATION
from csi_driver.cinderlib.persistence.kubernetes.store import KubernetesStore
from csi_driver.cli.cluster_ledger import ClusterLedger
from csi_driver.kube.api import Object
from csi_driver.kube.election import Elector, Standing
from csi_driver.node.ports import LedgerUnavailable
from tests.cluster import accounts
from tests.cluster.apiserver import ApiServer
from tests.cluster.binaries import KUBERNETES, Binaries, CannotBuild, helm
from tests.support.waiting import wait_until
from tools.generate_manifests import CHART

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


class Helm:
    """The command, with a home of its own, on a cluster if there is one."""

    def __init__(self, program: Path, home: Path, kubeconfig: Path | None = None) -> None:
        self._program = program
        self._environment = {"HOME": str(home), "KUBECONFIG": str(kubeconfig or "/dev/null")}

    def __call__(self, *arguments: str | Path, fails: bool = False) -> str:
        done = subprocess.run(
            [self._program, *map(str, arguments)],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stderr if fails else done.stdout

    def template(self, name: str, namespace: str, *values: str) -> dict[tuple[str, str], Object]:
        """The objects of a release, by kind and name, without the labels that Helm wants."""
        rendered = self(
            *("template", name, CHART, "--namespace", namespace),
            f"--kube-version={KUBERNETES}",
            *values,
        )
        return by_name(yaml.safe_load_all(rendered))


def by_name(objects: Iterator[Object]) -> dict[tuple[str, str], Object]:
    found = {}
    for each in objects:
        metadata = each["metadata"]
        labels = {
            key: value
            for key, value in metadata.pop("labels", {}).items()
            if not key.startswith(("app.kubernetes.io/", "helm.sh/"))
        }
        found[each["kind"], metadata["name"]] = each | {"metadata": metadata | labels}
    return found


@pytest.fixture(scope="session")
def program() -> Path:
    try:
        return helm()
    except CannotBuild as error:
        pytest.skip(str(error))


@pytest.fixture
def alone(program: Path, tmp_path: Path) -> Helm:
    return Helm(program, tmp_path)


@pytest.fixture(scope="module")
def server(programs: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A cluster in which nothing of ours was installed."""
    server = ApiServer(programs, tmp_path_factory.mktemp("charted"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


def test_helm_makes_of_the_chart_what_the_manifests_have(alone):
    manifests = by_name(
        each
        for name in ("rbac.yaml", "csidriver.yaml")
        for each in yaml.safe_load_all((accounts.MANIFESTS / name).read_text())
    )
    del manifests["Namespace", "cinder-csi"]
    assert alone.template("cinder-csi", "cinder-csi") == manifests


def test_helm_finds_nothing_wrong(alone):
    alone("lint", "--strict", CHART)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("driverName=Not_A_Domain", "/driverName"),
        ("driverNam=misspelt", "driverNam"),
        ("serviceAccounts.node=UPPER", "/serviceAccounts/node"),
        (f"nameOverride={'long' * 11}", "/nameOverride"),
        ("keySecrets.controller=", "/keySecrets/controller"),
    ],
)
def test_values_that_cannot_be_right_are_refused(alone, value, told):
    refused = alone("template", CHART, f"--kube-version={KUBERNETES}", "--set", value, fails=True)
    assert told in refused


def test_two_releases_share_no_name(alone):
    first = alone.template("first", "one", "--set=driverName=first.example.com")
    second = alone.template("second", "two", "--set=driverName=second.example.com")
    assert first.keys() & second.keys() == set()


def test_definitions_are_installed_once_and_upgraded_as_documented(
    program: Path, server: ApiServer, tmp_path: Path
):
    helm = Helm(program, tmp_path, server.kubeconfig)

    def installed() -> set[str]:
        found = [server.admin.get(f"{CRDS}/{name}") for name in definitions.names()]
        return {each["metadata"]["annotations"][SCHEMA_ANNOTATION] for each in found}

    notes = helm("install", "v1", CHART, "--namespace=kube-public", "--set=nameOverride=v1")
    assert "cinder-csi-controller-keys" in notes
    assert installed() == {str(SCHEMA)}

    newer = tmp_path / "newer"
    shutil.copytree(CHART, newer)
    for path in (newer / "crds").iterdir():
        item = yaml.safe_load(path.read_text())
        item["metadata"]["annotations"][SCHEMA_ANNOTATION] = str(SCHEMA + 1)
        path.write_text(f"---\n{yaml.safe_dump(item)}")
    helm("upgrade", "v1", newer, "--namespace=kube-public", "--set=nameOverride=v1")
    assert installed() == {str(SCHEMA)}, "Helm changes no definition"
    shown = helm("show", "crds", newer)
    server.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=shown)
    assert installed() == {str(SCHEMA + 1)}

    helm("uninstall", "v1", "--namespace=kube-public")
    assert installed() == {str(SCHEMA + 1)}, "records outlive a release"


def test_accounts_of_other_names_may_do_the_same(program: Path, server: ApiServer, tmp_path: Path):
    server.kubectl("create", "namespace", "storage")
    helm = Helm(program, tmp_path, server.kubeconfig)
    values = (
        "--set=driverName=array.example.com",
        "--set=nameOverride=array",
        "--set=namespaceOverride=storage",
        "--set=serviceAccounts.node=attacher",
        "--set=keySecrets.node=rings",
    )
    # As for a second release: the definitions are there, and may be newer than the chart's.
    server.apply(*schemas.definitions())
    notes = helm("install", "other", CHART, "--skip-crds", "--namespace=default", *values)
    assert "-n storage create secret generic rings" in notes
    accounts.add_node(server, "node-a")

    on_node = accounts.api_of(server, "attacher", "node-a", "storage")

    def register(node: str) -> str:
        """Why it may not; '' when it may."""
        connector = {"host": node, "ip": "10.0.0.1", "multipath": False}
        told = NodeRegistration(
            node_id=node, connector=connector, topology={}, version=str(uuid.uuid4())
        )
        try:
            ClusterLedger(on_node, "array.example.com", node).register(told)
        except LedgerUnavailable as error:
            return str(error)
        return ""

    # The API server takes a moment to learn of a new policy.
    refusal = "node-a may not write for node-b"
    wait_until("the policy is in force", lambda: refusal in register("node-b"))
    assert register("node-a") == ""

    api = accounts.api_of(server, "array-controller", "node-a", "storage")
    elector = Elector(api, "array.example.com", "replica")
    elector.start()
    assert elector.wait_to_lead(60) is Standing.LEADING
    with closing(KubernetesStore(api, "array.example.com")) as store:
        assert store.fresh
    elector.stop()
