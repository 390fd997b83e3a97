"""Records of a cluster exported, lost, and imported: the plugin goes on as if nothing had been."""

from __future__ import annotations

import itertools
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from csi_driver.base import sealing
from csi_driver.base.values import GIB, Confirmation, Formatting, FormattingState
from csi_driver.cinderlib.persistence import export_file
from csi_driver.cinderlib.persistence.copying import copy_records, differences
from csi_driver.cinderlib.persistence.factory import open_store
from csi_driver.cinderlib.persistence.kubernetes.resources import FINALIZER, RESOURCES
from csi_driver.cinderlib.persistence.kubernetes.store import KubernetesStore
from csi_driver.cinderlib.persistence.memory import MemoryStore
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    KeyValueRecord,
    LateAttemptRecord,
    OrphanRecord,
    Phase,
    Record,
    SnapshotRecord,
    TombstoneRecord,
    VolumeRecord,
)
from csi_driver.cinderlib.persistence.sealed import SealedStore
from csi_driver.cinderlib.persistence.store import RecordConflict
from csi_driver.kube import node_objects
from csi_driver.kube.api import Api
from csi_driver.kube.group import DRIVER_LABEL, collection, of_driver
from tests.cluster.accounts import MANIFESTS, NAMESPACE, add_node, install, token
from tests.cluster.apiserver import ADMIN_TOKEN, ApiServer
from tests.cluster.binaries import Binaries
from tests.cluster.fault_proxy import PASS, FaultProxy, Verdict
from tests.cluster.plugin import make_keys, plugin
from tests.cluster.rows import row
from tests.support import leftovers
from tests.support.calls import Calls
from tests.support.driver_process import COMMAND, DriverProcess
from tests.support.waiting import WAIT, wait_until

NODE = "n1"
KINDS = [each.plural for each in RESOURCES]
LEDGER = ["cindernodes", "cinderconfirmations"]


@pytest.fixture(scope="module")
def cluster(apiserver: ApiServer) -> ApiServer:
    install(apiserver)
    add_node(apiserver, NODE)
    return apiserver


class Command:
    """``cinder-csi records`` as an administrator runs it."""

    def __init__(self, server: ApiServer, driver: str, keys: Path) -> None:
        self._in_cluster = [
            *("--store", "kubernetes", "--driver-name", driver),
            f"--kubeconfig={server.kubeconfig}",
        ]
        self._keys = [f"--keys-dir={keys}"]

    def __call__(self, name: str, *arguments: str | Path, code: int = 0) -> str:
        done = subprocess.run(
            self.line(name, *arguments), check=False, capture_output=True, text=True, timeout=WAIT
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def line(self, name: str, *arguments: str | Path) -> list[str]:
        keys = [] if name == "export" else self._keys
        return [str(COMMAND), "records", name, *map(str, arguments), *self._in_cluster, *keys]


class Installation:
    """A driver's controller and node, and their records."""

    def __init__(self, server: ApiServer, directory: Path, driver: str) -> None:
        self.server = server
        self.driver = driver
        self.directory = directory
        self.keys = make_keys(directory / "keys")
        self.records = Command(server, driver, self.keys)

    def plugin(self, role: str, proxy: FaultProxy | None = None) -> DriverProcess:
        return plugin(
            self.server,
            self.directory / role[:1],
            role,
            NODE,
            driver=self.driver,
            keys=self.keys,
            proxy=proxy,
        )

    def wipe(self, kinds: list[str]) -> None:
        """What ``kubectl delete`` of everything does, and somebody who takes finalizers off."""
        admin = self.server.admin
        for plural in kinds:
            for item in admin.list(collection(plural), of_driver(self.driver))[0]:
                path = f"{collection(plural)}/{item['metadata']['name']}"
                admin.patch(path, {"metadata": {"finalizers": None}})
                admin.delete(path)

    def wipe_all(self) -> None:
        self.wipe([*KINDS, "cinderconfirmations"])
        self.server.admin.delete(f"{collection('cinderinstallations')}/{self.driver}")

    def count(self, plural: str) -> int:
        return len(self.server.admin.list(collection(plural), of_driver(self.driver))[0])

    def installations(self) -> set[str]:
        """The ids that the driver's CinderInstallation has: one or none."""
        found = self.server.admin.list(collection("cinderinstallations"))[0]
        mine = [each for each in found if each["metadata"]["name"] == self.driver]
        return {each["spec"]["installationID"] for each in mine}

    def confirmed(self, volume_id: str) -> str:
        path = f"{collection('cinderconfirmations')}/{volume_id}"
        return str(self.server.admin.get(path)["spec"]["state"])


@pytest.fixture
def installation(
    cluster: ApiServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    directory = tmp_path_factory.mktemp("i")
    yield Installation(cluster, directory, f"{directory.name}.records.example.com")
    leftovers.release(directory)


# -- the danger: records that are older than the data ------------------------------------


@pytest.mark.root
def test_data_outlives_the_loss_of_all_records(installation: Installation, tmp_path: Path):
    """Once from a backup of before the volume was formatted, once from one of after."""
    records, driver = installation.records, installation.driver
    staging = tmp_path / "staging"
    staging.mkdir()
    before, after = tmp_path / "before", tmp_path / "after"
    controller, node = installation.plugin("controller"), installation.plugin("node")
    with node, Calls(node) as on_node:
        with controller, Calls(controller) as on_controller:
            volume_id = on_controller.create("data").volume_id
            records("export", "--while-running", before)
            old = on_controller.publish(volume_id, NODE)
            on_node.stage(volume_id, old, str(staging))
            (staging / "file").write_text("precious")
            on_node.unstage(volume_id, str(staging))
            records("export", "--while-running", after)
            refused = records("export", tmp_path / "not", code=1)
            assert f"A controller of {driver} works on the records: {NODE}/" in refused
        for file, word in ((before, "unknown"), (after, "formatted")):
            installation.wipe_all()
            _refused_beside_volumes(installation, controller)
            records("import", file)
            assert "No problems" in records("check")
            assert installation.confirmed(volume_id) == word
            # As kubelet does after a reboot: with what it kept, of before the volume was formatted.
            on_node.stage(volume_id, old, str(staging))
            assert (staging / "file").read_text() == "precious"
            on_node.unstage(volume_id, str(staging))
            with controller, Calls(controller) as on_controller:
                assert on_controller.create("data").volume_id == volume_id
                context = on_controller.publish(volume_id, NODE)
                assert (context == old) is (file is after)
                on_node.stage(volume_id, context, str(staging))
                assert (staging / "file").read_text() == "precious"
                on_node.unstage(volume_id, str(staging))
                if file is before:
                    continue
                on_controller.unpublish(volume_id, NODE)
                assert on_controller.published() == {volume_id: []}
                on_controller.delete(volume_id)
    assert {kind: installation.count(kind) for kind in KINDS[:5]} == dict.fromkeys(KINDS[:5], 0)
    assert installation.count("cinderconfirmations") == 0


def test_of_a_volume_with_a_word_that_does_not_count_it_is_not_said_that_it_is_blank(
    installation: Installation, tmp_path: Path
):
    """The records may move to where that word is not, and the volume may hold data."""
    controller = installation.plugin("controller")
    with controller, Calls(controller) as calls:
        used, fresh = calls.create("used").volume_id, calls.create("fresh").volume_id
    formatting = Formatting(state=FormattingState.FORMATTED, fs_type="ext4", fs_uuid="u")
    said = Confirmation(volume_id=used, formatting=formatting)
    word = node_objects.confirmation_object(said, NODE, installation.driver)
    installation.server.admin.create(node_objects.CONFIRMATIONS, word)
    file = tmp_path / "moved"
    installation.records("export", file)
    exported = export_file.parse(file.read_bytes(), "moved").records
    states = {each.id: each.formatting.state for each in exported if isinstance(each, VolumeRecord)}
    assert states == {used: FormattingState.UNKNOWN, fresh: FormattingState.NEVER}


def _refused_beside_volumes(installation: Installation, controller: DriverProcess) -> None:
    """A controller refuses to begin new records while the cluster has volumes of its driver."""
    admin, driver = installation.server.admin, installation.driver
    volumes = "/api/v1/persistentvolumes"
    before = installation.installations()
    admin.create(volumes, persistent_volume(driver))
    try:
        controller.spawn()
        assert controller.wait() == 2
        assert f"1 PersistentVolumes of {driver}" in controller.logs()
        assert "Restore the records from a backup" in controller.logs()
        assert installation.installations() == before
    finally:
        _remove_volume(installation)


def _remove_volume(installation: Installation, suffix: str = "") -> None:
    """As the protection controller does, which does not run here."""
    path = f"/api/v1/persistentvolumes/{installation.driver}{suffix}"
    installation.server.admin.patch(path, {"metadata": {"finalizers": None}})
    installation.server.admin.delete(path)


def persistent_volume(driver: str) -> dict[str, Any]:
    """A PersistentVolume as the provisioner makes it."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": driver},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "csi": {"driver": driver, "volumeHandle": "v"},
        },
    }


# -- every record arrives ------------------------------------------------------------------


def some_of_every_kind(driver: str, volumes: int) -> list[Record]:
    """With ids of the driver's own: an object's name is one in the whole cluster."""
    common: dict[str, Any] = {"backend": "b", "created_at": 0.5, "phase": Phase.AVAILABLE}
    left: dict[str, Any] = {"kind": "volume", "backend": "b", "name": "n", "csi_id": "x"}
    secret = {"provider_auth": "CHAP user secret", "provider_id": "7"}
    made: list[Record] = [
        VolumeRecord(
            id=str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{n}.{driver}")),
            name=f"pvc-{n}",
            size_gib=1,
            cinder_id=f"c{n}",
            provider=secret,
            request={"parameters": {"a": None}, "list": [1, "b"]},
            **common,
        )
        for n in range(volumes)
    ]
    first = made[0].id
    attached = {**common, "phase": Phase.ATTACHED, "volume_id": first, "cinder_id": "c"}
    return [
        *made,
        SnapshotRecord(id="s", name="n", volume_id=first, size_gib=1, cinder_id="s", **common),
        ConnectionRecord(id=f"{first}/n1", node_id="n1", connector={"host": "h"}, **attached),
        ConnectionRecord(id=f"{first}/n2", node_id="n2", **attached),
        TombstoneRecord(id="t", incarnation=7, deleted_at=1.5),
        OrphanRecord(id="o", reason="r", since=1.0, **left),
        LateAttemptRecord(
            id="l", call="clone", owner="h/1", since=1.0, look_at=2.0, objects=secret, **left
        ),
        KeyValueRecord(id="k", value={"secret": [1, None]}),
    ]


def test_records_move_from_sqlite_into_a_cluster_and_back(installation, tmp_path: Path):
    """More than a page of them, and each object as a controller would have made it."""
    source, target = tmp_path / "source", tmp_path / "target"
    for directory in (source, target):
        directory.mkdir()
        (directory / "keys").symlink_to(installation.keys)
    with closing(open_store("db", source)) as store:
        for record in some_of_every_kind(installation.driver, 510):
            store.put(record)
        installation_id = store.installation_id
    name = ["--driver-name", installation.driver]
    own = [str(COMMAND), "records"]
    subprocess.run([*own, "export", tmp_path / "a", "--state-dir", source, *name], check=True)
    told = installation.records("import", "--moving", tmp_path / "a")
    assert "510 volume, 1 snapshot, 2 connection" in told
    first = some_of_every_kind(installation.driver, 1)[0].id
    item = installation.server.admin.get(f"{collection('cindervolumes')}/{first}")
    assert item["metadata"]["finalizers"] == [FINALIZER]
    assert item["metadata"]["labels"] == {DRIVER_LABEL: installation.driver}
    assert row(installation.server, "cindervolumes", first)["ATTACHED TO"] == "n1, n2"

    installation.records("export", tmp_path / "b")
    subprocess.run(
        [*own, "import", tmp_path / "b", "--moving", "--state-dir", target, *name], check=True
    )
    ring = sealing.load(installation.keys / "records.json")
    api = Api(installation.server.connection(ADMIN_TOKEN))
    with (
        closing(SealedStore(KubernetesStore(api, installation.driver), lambda: ring)) as there,
        closing(open_store("db", source)) as here,
        closing(open_store("db", target)) as back,
    ):
        assert there.installation_id == back.installation_id == installation_id
        assert differences(here, there) == []
        assert differences(here, back) == []


def test_a_new_store_takes_an_installation_over_for_good(installation):
    """As the object library does when its store is exchanged."""
    connection = installation.server.connection(ADMIN_TOKEN)
    with closing(MemoryStore()) as source:
        source.put(TombstoneRecord(id="t", incarnation=7))
        with closing(KubernetesStore(Api(connection), installation.driver)) as target:
            assert target.fresh
            copy_records(source, target)
            assert target.installation_id == source.installation_id
        with closing(KubernetesStore(Api(connection), installation.driver)) as again:
            assert not again.fresh
            assert again.installation_id == source.installation_id
            assert differences(source, again) == []
            again.adopt(source.installation_id)
            with pytest.raises(RecordConflict, match=f"is that of {source.installation_id}"):
                again.adopt("another")


# -- beside a controller ---------------------------------------------------------------------


def test_the_account_for_backups_may_export_and_nothing_else(installation, tmp_path: Path):
    server = installation.server
    server.apply(*yaml.safe_load_all((MANIFESTS / "backup.yaml").read_text()))
    path = tmp_path / "kubeconfig"
    server.write_kubeconfig(path, token(server, "cinder-csi-backup", NODE), NAMESPACE)
    line = [
        f"--kubeconfig={path}" if "--kubeconfig" in each else each
        for each in installation.records.line("export", "--while-running", "-")
    ]
    controller = installation.plugin("controller")
    with controller, Calls(controller) as calls:
        volume_id = calls.create("data").volume_id
        done = subprocess.run(line, check=True, capture_output=True, text=True)
    assert volume_id in done.stdout
    line.remove("--while-running")
    refused = subprocess.run(line, check=False, capture_output=True, text=True)
    assert "leases" in refused.stderr
    assert "forbidden" in refused.stderr


@pytest.mark.root
def test_a_pod_exports_by_its_service_account_alone(installation, tmp_path: Path):
    """As the CronJob of docs/backup.md does: no kubeconfig, no keys, no state directory."""
    server = installation.server
    server.apply(*yaml.safe_load_all((MANIFESTS / "backup.yaml").read_text()))
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text(token(server, "cinder-csi-backup", NODE))
    (account / "namespace").write_text(NAMESPACE)
    (account / "ca.crt").write_bytes((server.directory / "ca.crt").read_bytes())
    controller = installation.plugin("controller")
    with controller, Calls(controller) as calls:
        calls.create("data")
    begin = _documented("cinder-csi records export --while-running --store kubernetes")
    command = begin[: begin.index("'")].replace("/backup/", f"{tmp_path}/")
    # A mount namespace of its own, with what kubelet puts there.
    mount = "mount -t tmpfs none /run && mkdir -p {0} && cp {1}/* {0}".format(
        "/run/secrets/kubernetes.io/serviceaccount", account
    )
    subprocess.run(
        ["unshare", "--mount", "sh", "-euc", f"{mount} && {command} --driver-name $DRIVER"],
        check=True,
        env={
            "PATH": f"{COMMAND.parent}:/usr/sbin:/usr/bin:/bin",
            "DRIVER": installation.driver,
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(server.port),
        },
    )
    (made,) = tmp_path.glob("20*")
    assert made.stat().st_mode & 0o777 == 0o600
    assert "volume                1" in installation.records("check", made)


def test_the_documented_commands_empty_a_cluster_for_an_import(
    installation, programs: Binaries, tmp_path: Path
):
    """They leave the installation, and what nodes proved."""
    controller = installation.plugin("controller")
    with controller, Calls(controller) as calls:
        volume_id = calls.create("data").volume_id
        calls.snapshot(volume_id, "cut")
        installation.records("export", "--while-running", tmp_path / "file")
    server = installation.server
    before = {each: installation.count(each) for each in KINDS}
    assert before["cindervolumes"] == before["cindersnapshots"] == 1
    script = _documented("for kind in").replace("csi.cinderlib.io", installation.driver)
    path = f"{programs.directory}:/usr/bin:/bin"
    # kubectl keeps a cache in the home directory.
    environment = {"PATH": path, "KUBECONFIG": str(server.kubeconfig), "HOME": str(tmp_path)}
    subprocess.run(["bash", "-euc", script], check=True, env=environment)
    assert {installation.count(each) for each in KINDS} == {0}
    _refused_beside_volumes(installation, controller)
    installation.records("import", tmp_path / "file")
    assert {each: installation.count(each) for each in KINDS} == before
    item = server.admin.get(f"{collection('cindervolumes')}/{volume_id}")
    listed = server.kubectl(*_documented("kubectl get clvol -o custom-columns").split()[1:])
    assert item["status"]["cinderID"] in listed


def _documented(begin: str) -> str:
    """The commands of docs/backup.md that begin so, to the end of their block or span."""
    page = (MANIFESTS.parent / "docs" / "backup.md").read_text()
    found = page[page.index(begin) :]
    return found[: found.index("`")].strip()


def test_a_check_names_volumes_without_record(installation):
    admin, driver = installation.server.admin, installation.driver
    controller = installation.plugin("controller")
    with controller, Calls(controller) as calls:
        volume_id = calls.create("data").volume_id
        admin.create("/api/v1/persistentvolumes", persistent_volume(driver))
        extended = persistent_volume(driver)
        extended["metadata"]["name"] += "-2"
        extended["spec"] |= {"capacity": {"storage": "5Gi"}}
        extended["spec"]["csi"]["volumeHandle"] = volume_id
        admin.create("/api/v1/persistentvolumes", extended)
        try:
            told = installation.records("check", code=1)
        finally:
            _remove_volume(installation)
            _remove_volume(installation, "-2")
    assert f"The PersistentVolume {driver} (v) has no record" in told
    assert f"The PersistentVolume {driver}-2 ({volume_id}) has {5 * GIB} bytes" in told
    assert "volume                1" in told
    assert "not compared" not in told


# -- broken off, and refused --------------------------------------------------------------------


def test_an_import_that_was_killed_is_finished_by_the_next(installation, tmp_path: Path):
    """Until then no controller starts, and no other file is taken."""
    directory = tmp_path / "source"
    directory.mkdir()
    (directory / "keys").symlink_to(installation.keys)
    with closing(open_store("db", directory)) as store:
        for record in some_of_every_kind(installation.driver, 40):
            store.put(record)
        name = ["--state-dir", directory, "--driver-name", installation.driver]
    export = [str(COMMAND), "records", "export", *map(str, name)]
    subprocess.run([*export, str(tmp_path / "file")], check=True)
    with closing(open_store("db", directory)) as store:
        store.put(KeyValueRecord(id="more", value=1))
    subprocess.run([*export, str(tmp_path / "other")], check=True)

    _kill_amid(installation, tmp_path / "file", tmp_path / "kubeconfig")
    assert 0 < installation.count("cindervolumes") < 40
    controller = installation.plugin("controller")
    controller.spawn()
    assert controller.wait() == 2
    assert "Run cinder-csi records import again" in controller.logs()
    assert "An import was not finished" in installation.records("check", code=1)
    refused = installation.records("import", tmp_path / "other", code=1)
    assert "Another import was begun" in refused
    # A key that only the missing half needs.
    assert "was not finished" in _prune(installation)
    told = installation.records("import", tmp_path / "file")
    assert "of them were there already" in told
    assert installation.count("cindervolumes") == 40
    assert "No problems" in installation.records("check")
    again = installation.records("import", tmp_path / "file", code=1)
    assert "has records already: 40 volume" in again


def _prune(installation: Installation) -> str:
    """What ``cinder-csi keys prune`` says when it refuses."""
    line = [
        *(str(COMMAND), "keys", "prune", "--ring", "records", "--store", "kubernetes"),
        *(f"--keys-dir={installation.keys}", f"--kubeconfig={installation.server.kubeconfig}"),
        *("--driver-name", installation.driver),
    ]
    done = subprocess.run(line, check=False, capture_output=True, text=True)
    assert done.returncode == 2, done.stdout
    return done.stderr


def _kill_amid(installation: Installation, file: Path, kubeconfig: Path) -> None:
    """Import through a proxy that holds up the tenth volume, and kill the importer there."""
    proxy = FaultProxy(installation.server)
    reached, go_on = threading.Event(), threading.Event()
    numbers = itertools.count(1)  # of the volumes; threads ask at a time

    def judge(verb: str, path: str) -> Verdict:
        if verb != "POST" or not path.endswith("/cindervolumes"):
            return PASS
        if next(numbers) < 10:
            return PASS
        reached.set()
        return Verdict(forward=False, lose=True, until=go_on)

    proxy.judge = judge
    url = proxy.connection().server
    installation.server.write_kubeconfig(kubeconfig, ADMIN_TOKEN, url=url)
    line = installation.records.line("import", file)
    line = [f"--kubeconfig={kubeconfig}" if "--kubeconfig" in each else each for each in line]
    process = subprocess.Popen(line)
    try:
        assert reached.wait(WAIT)
        wait_until("a volume is there", lambda: installation.count("cindervolumes") > 0)
    finally:
        process.kill()
        process.wait()
        go_on.set()
        proxy.close()


def test_a_cluster_of_another_installation_is_left_alone(installation, tmp_path: Path):
    controller = installation.plugin("controller")
    with controller, Calls(controller) as calls:
        calls.create("data")
        installation.records("export", "--while-running", tmp_path / "file")
        refused = installation.records("import", tmp_path / "file", code=1)
        assert "works on the records" in refused
    with closing(KubernetesStore(Api(installation.server.connection(ADMIN_TOKEN)), "x.y")) as other:
        assert other.fresh
    foreign = Command(installation.server, "x.y", installation.keys)
    assert "--driver-name" in foreign("import", tmp_path / "file", code=2)
    installation.wipe(KINDS)
    path = f"{collection('cinderinstallations')}/{installation.driver}"
    was = installation.server.admin.get(path)["spec"]["installationID"]
    installation.server.admin.patch(path, {"spec": {"installationID": "other"}})
    refused = installation.records("import", tmp_path / "file", code=1)
    assert f"is other, the records are of {was}" in refused
    assert installation.count("cindervolumes") == 0
    assert installation.count("cinderkeyvalues") == 0


def test_what_is_not_there_is_refused_and_not_made(installation, tmp_path: Path):
    for name in ("export", "check"):
        arguments = [tmp_path / "file"] if name == "export" else []
        told = installation.records(name, *arguments, code=2)
        assert "has no records of the driver" in told
    admin = installation.server.admin
    names = [each["metadata"]["name"] for each in admin.list(collection("cinderinstallations"))[0]]
    assert installation.driver not in names


def test_a_standby_ends_when_the_records_became_another_installation_s(installation):
    """It would work on with ids of records that are gone."""
    first = installation.plugin("controller")
    second = plugin(
        installation.server,
        installation.directory / "2",
        "controller",
        NODE,
        driver=installation.driver,
        keys=installation.keys,
    )
    with first, Calls(first) as calls:
        calls.create("data")
        second.spawn()
        try:
            wait_until("the standby stands by", lambda: "Standing by" in second.logs())
            path = f"{collection('cinderinstallations')}/{installation.driver}"
            installation.server.admin.patch(path, {"spec": {"installationID": "other"}})
            first.stop()
            assert second.wait() == 1
        finally:
            if second.is_running():
                second.kill()
        assert "is not the one that was there when this process started" in second.logs()
        first.start()
