"""API servers with controllers of the driver before them, and records to fill them with.

Used by ``kubernetes``.  The parts are those of the tests in ``tests/cluster``: Kubernetes'
own programs, service accounts with the manifests' roles, ``cinder-csi serve`` as a process.
The backend is the tests' driver double: the record store is measured here, not a disk.
"""

from __future__ import annotations

import contextlib
import datetime
import re
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import msgspec
import yaml

from csi_driver.base.values import Formatting, FormattingState, NodeRegistration
from csi_driver.cinderlib.persistence.kubernetes import objects
from csi_driver.cinderlib.persistence.kubernetes.resources import RESOURCES, VOLUME
from csi_driver.cinderlib.persistence.kubernetes.store import KubernetesStore
from csi_driver.cinderlib.persistence.records import VolumeRecord
from csi_driver.controller import ids
from csi_driver.kube import node_objects
from csi_driver.kube.api import Api
from csi_driver.kube.errors import ApiError
from csi_driver.kube.group import GROUP
from tests.bench.processes import ROOT, Subject
from tests.cluster.accounts import MANIFESTS, NAMESPACE, add_node
from tests.cluster.apiserver import ADMIN_TOKEN, ApiServer
from tests.cluster.binaries import Binaries
from tests.cluster.fault_proxy import FaultProxy
from tests.cluster.plugin import plugin
from tests.support.calls import Calls
from tests.support.driver_process import DriverProcess
from tests.support.waiting import wait_until

DRIVER = "bench.example.com"
NODE = "n1"
WRITERS = 24

BACKEND = {
    "name": "double",
    "volume_driver": "tests.doubles.driver.DoubleDriver",
    "options": {"double_total_gib": "1000000"},
}


@contextlib.contextmanager
def api_server(programs: Binaries, directory: Path) -> Iterator[ApiServer]:
    """An API server with the driver's definitions and roles, and one node."""
    directory.mkdir()
    server = ApiServer(programs, directory)
    try:
        server.start()
        for name in ("crds.yaml", "rbac.yaml"):
            server.kubectl("apply", "--server-side", "-f", str(MANIFESTS / name))
        server.kubectl("wait", "--for=condition=Established", "--all", "crd")
        wait_until("the records are served", lambda: serves_records(server))
        add_node(server, NODE)
        registration = NodeRegistration(
            node_id=NODE, connector={"host": NODE, "ip": "192.0.2.1"}, topology={}
        )
        server.admin.create(node_objects.NODES, node_objects.node_object(registration, DRIVER))
        yield server
    finally:
        server.stop()


def serves_records(server: ApiServer) -> bool:
    """Whether all kinds can be read: neither at once when they are defined nor after a start."""
    try:
        for resource in RESOURCES:
            server.admin.request("GET", resource.path, query={"limit": "1"})
    except ApiError:
        return False
    return True


def replica(
    server: ApiServer, directory: Path, keys: Path, proxy: FaultProxy | None = None
) -> DriverProcess:
    """A controller replica that is not started."""
    directory.mkdir()
    config = directory / "backends.yaml"
    config.write_text(yaml.safe_dump({"backends": [BACKEND]}))
    return plugin(
        server,
        directory,
        "controller",
        NODE,
        driver=DRIVER,
        keys=keys,
        proxy=proxy,
        arguments=("--config", str(config)),
        environment={"PYTHONPATH": str(ROOT)},
    )


@contextlib.contextmanager
def client(process: DriverProcess) -> Iterator[Subject]:
    """A started process as what is measured."""
    with Calls(process) as calls:
        yield Subject(process.pid, calls)


# -- requests ------------------------------------------------------------------------------

_COUNT = re.compile(r"apiserver_request_total\{([^}]*)\} (\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def requests(server: ApiServer) -> Counter[str]:
    """How often each verb was asked for objects of the driver, as the API server counts."""
    found: Counter[str] = Counter()
    for labels, value in _COUNT.findall(server.metrics()):
        told = dict(_LABEL.findall(labels))
        if told["group"] == GROUP:
            found[told["verb"]] += int(float(value))
    return found


def led_since(server: ApiServer) -> float:
    """When the leader took its Lease, in seconds since the epoch."""
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
    acquired = server.admin.get(f"{leases}/{DRIVER}")["spec"]["acquireTime"]
    return datetime.datetime.fromisoformat(acquired).timestamp()


# -- records -------------------------------------------------------------------------------


def volume_record(server: ApiServer, volume_id: str) -> VolumeRecord:
    """The record of a volume."""
    return objects.to_record(VolumeRecord, server.admin.get(f"{VOLUME.path}/{volume_id}"))


def fill(server: ApiServer, pattern: VolumeRecord, count: int) -> None:
    """Add records of volumes that are in use, as the driver and its nodes would leave them.

    :param pattern: the record of a volume that was made.
    """
    with closing(KubernetesStore(Api(server.connection(ADMIN_TOKEN)), DRIVER)) as store:
        made = [_in_use(pattern, store.installation_id, number) for number in range(count)]
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(store.put, made))


def add(server: ApiServer, pattern: VolumeRecord) -> str:
    """Add a record behind the controller's back; answers the volume's id."""
    made = _in_use(pattern, str(uuid.uuid4()), 0)
    now = datetime.datetime.now(datetime.UTC)
    server.admin.create(VOLUME.path, objects.to_object(made, 1, DRIVER, None, now))
    return made.id


def _in_use(pattern: VolumeRecord, installation: str, number: int) -> VolumeRecord:
    name, cinder_id = f"pvc-{uuid.uuid4()}", ids.new_cinder_id()
    volume_id = ids.object_id(installation, "volume", 1, name)
    return msgspec.structs.replace(
        pattern,
        id=volume_id,
        version=0,
        name=name,
        cinder_id=cinder_id,
        provider={
            "provider_location": f"192.0.2.10:3260,1 iqn.2010-10.org.openstack:{cinder_id} 0",
            "provider_id": f"array-{cinder_id}",
        },
        metadata={
            "csi.storage.k8s.io/pv/name": name,
            "csi.storage.k8s.io/pvc/name": f"data-database-{number % 100}",
            "csi.storage.k8s.io/pvc/namespace": f"team-{number // 100}",
        },
        formatting=Formatting(
            state=FormattingState.FORMATTED,
            fs_type="xfs",
            fs_uuid=ids.filesystem_uuid(volume_id),
        ),
        identity=f"naa.6{cinder_id.replace('-', '')[:31]}",
    )
