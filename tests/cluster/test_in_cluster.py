"""A controller as in a Pod: found its way by the service account, whose token is replaced."""

from __future__ import annotations

import pytest

from csi_driver.kube.group import collection, of_driver
from tests.cluster.accounts import add_node, end, install
from tests.cluster.apiserver import ApiServer
from tests.cluster.plugin import make_keys
from tests.cluster.pod import in_pod
from tests.support.calls import Calls
from tests.support.waiting import wait_until

DRIVER = "incluster.example.com"


@pytest.mark.root
def test_a_leader_leads_on_with_the_token_that_it_gets(
    apiserver: ApiServer, tmp_path_factory: pytest.TempPathFactory
):
    install(apiserver)
    add_node(apiserver, "n1")
    directory = tmp_path_factory.mktemp("i")
    keys = make_keys(directory / "keys")
    process, account = in_pod(
        apiserver, directory / "c", "controller", "n1", driver=DRIVER, keys=keys
    )
    with process, Calls(process) as calls:
        volume_id = calls.create("data").volume_id
        end(apiserver, account.renew())
        calls.delete(volume_id)
        assert apiserver.admin.list(collection("cindervolumes"), of_driver(DRIVER))[0] == []
        lease = f"/apis/coordination.k8s.io/v1/namespaces/cinder-csi/leases/{DRIVER}"
        renewed = apiserver.admin.get(lease)["spec"]["renewTime"]
        wait_until(
            "the Lease is renewed",
            lambda: apiserver.admin.get(lease)["spec"]["renewTime"] != renewed,
        )
    assert "could not renew" not in process.logs()
    assert "Traceback" not in process.logs()
