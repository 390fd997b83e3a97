"""Who speaks to the API server in the tests: the service accounts of the manifests.

Tokens are those that kubelet would give: bound to a Pod, which is bound to a node.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import yaml

from csi_driver.kube.api import Api, Object
from csi_driver.kube.errors import ApiForbidden, ApiNotFound
from tests.cluster.apiserver import ApiServer
from tests.support.waiting import wait_until

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
NAMESPACE = "cinder-csi"


def manifests() -> list[Object]:
    """Accounts, roles, bindings and the admission policy, as the manifests have them."""
    return list(yaml.safe_load_all((MANIFESTS / "rbac.yaml").read_text()))


def install(server: ApiServer) -> None:
    """Let the API server have them."""
    server.apply(*manifests())


def free_lease(
    server: ApiServer, name: str, namespace: str = NAMESPACE, *, taken: bool = True
) -> None:
    """A Lease that nobody holds, as the last leader's good end leaves it.

    Who finds none waits before it leads; who finds this one leads at once.

    :param taken: free one that somebody holds, too.
    """
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    try:
        lease = server.admin.get(f"{leases}/{name}")
    except ApiNotFound:
        made = {"metadata": {"name": name}, "spec": {"holderIdentity": ""}}
        kind = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
        server.admin.create(leases, kind | made)
        return
    if taken:
        lease["spec"]["holderIdentity"] = ""
        server.admin.replace(f"{leases}/{name}", lease)


def add_node(server: ApiServer, name: str) -> None:
    """A Node of the cluster; no kubelet runs on it."""
    server.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})


@dataclass(frozen=True)
class Pod:
    """A Pod's object, and the token that is bound to it."""

    path: str
    token: str


def token(server: ApiServer, account: str, node: str, namespace: str = NAMESPACE) -> str:
    """The token of a Pod of a service account on a node."""
    return pod(server, account, node, namespace).token


def pod(server: ApiServer, account: str, node: str, namespace: str = NAMESPACE) -> Pod:
    """A Pod of a service account on a node; nothing runs in it."""
    pods = f"/api/v1/namespaces/{namespace}/pods"
    made = server.admin.create(
        pods,
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"generateName": f"{account}-"},
            "spec": {
                "nodeName": node,
                "serviceAccountName": account,
                "automountServiceAccountToken": False,
                "containers": [{"name": "plugin", "image": "none"}],
            },
        },
    )["metadata"]
    bound = {"apiVersion": "v1", "kind": "Pod", "name": made["name"], "uid": made["uid"]}
    asked = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"boundObjectRef": bound},
    }
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
    token = str(server.admin.create(path, asked)["status"]["token"])
    return Pod(f"{pods}/{made['name']}", token)


def end(server: ApiServer, pod: Pod) -> None:
    """Let a Pod be gone, and wait until nobody is known by its token any more."""
    server.admin.request("DELETE", pod.path, body={"gracePeriodSeconds": 0})
    api = Api(server.connection(pod.token, NAMESPACE))

    def is_refused() -> bool:
        try:
            api.get("/version")
        except ApiForbidden as error:
            return error.status == HTTPStatus.UNAUTHORIZED
        return False

    wait_until("the token of a Pod that is gone is refused", is_refused)


def api_of(server: ApiServer, account: str, node: str, namespace: str = NAMESPACE) -> Api:
    """What the plugin of a service account on a node uses."""
    return Api(server.connection(token(server, account, node, namespace), namespace))
