"""What nodes tell: seen by the controller, and never more than is a node's own to tell."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from csi_driver.base.values import Confirmation, Formatting, FormattingState, NodeRegistration
from csi_driver.cli.cluster_ledger import ClusterLedger
from csi_driver.cli.cluster_nodes import ClusterNodes
from csi_driver.kube import node_objects
from csi_driver.kube.api import Api
from csi_driver.kube.errors import ApiForbidden
from csi_driver.kube.group import collection
from csi_driver.node.ports import LedgerUnavailable
from tests.cluster.accounts import add_node, api_of, install
from tests.cluster.apiserver import ADMIN_TOKEN, ApiServer
from tests.support.waiting import wait_until

DRIVER = "nodes.example.com"
FORMATTED = Formatting(state=FormattingState.FORMATTED, fs_type="xfs", fs_uuid="u-1")


@pytest.fixture(scope="module")
def cluster(apiserver: ApiServer) -> ApiServer:
    install(apiserver)
    add_node(apiserver, "node-a")
    add_node(apiserver, "node-b")
    return apiserver


@pytest.fixture(scope="module")
def api_a(cluster: ApiServer) -> Api:
    """The plugin of node-a."""
    return api_of(cluster, "cinder-csi-node", "node-a")


@pytest.fixture(scope="module")
def ledgers(cluster: ApiServer, api_a: Api) -> dict[str, ClusterLedger]:
    api_b = api_of(cluster, "cinder-csi-node", "node-b")
    return {
        "node-a": ClusterLedger(api_a, DRIVER, "node-a"),
        "node-b": ClusterLedger(api_b, DRIVER, "node-b"),
    }


@pytest.fixture
def published() -> set[tuple[str, str]]:
    """The volumes and nodes that they are published to."""
    return set()


@pytest.fixture
def nodes(cluster: ApiServer, published: set[tuple[str, str]]) -> Iterator[ClusterNodes]:
    api = api_of(cluster, "cinder-csi-controller", "node-a")
    nodes = ClusterNodes(api, DRIVER, lambda volume, node: (volume, node) in published)
    yield nodes
    nodes.close()


def registration(node_id: str, **fields: object) -> NodeRegistration:
    connector = {"host": node_id, "ip": "10.0.0.1", "multipath": False}
    return NodeRegistration(node_id=node_id, connector=connector, topology={}, **fields)


def confirmation(formatting: Formatting = FORMATTED, identity: str = "") -> Confirmation:
    return Confirmation(volume_id=str(uuid.uuid4()), formatting=formatting, identity=identity)


def same_volume(first: Confirmation, formatting: Formatting, identity: str = "") -> Confirmation:
    return Confirmation(volume_id=first.volume_id, formatting=formatting, identity=identity)


def test_the_controller_sees_who_registered_and_what_changed(ledgers, nodes):
    ledgers["node-a"].register(registration("node-a"))
    ledgers["node-b"].register(registration("node-b"))
    wait_until("both nodes are known", lambda: len(nodes.nodes()) == 2)
    assert nodes.node("node-a") == registration("node-a")
    changed = registration("node-a", max_volumes=7, version="2")
    ledgers["node-a"].register(changed)
    wait_until("the change is known", lambda: nodes.node("node-a") == changed)
    assert nodes.node("node-c") is None


def test_a_registration_that_changes_nothing_writes_nothing(ledgers, api_a):
    ledgers["node-a"].register(registration("node-a", version="same"))
    before = dict(api_a.requests)
    ledgers["node-a"].register(registration("node-a", version="same"))
    assert api_a.requests["PUT"] == before.get("PUT", 0)
    assert api_a.requests["POST"] == before.get("POST", 0)


def test_what_a_node_confirmed_counts_while_it_has_the_volume(ledgers, nodes, published):
    said = confirmation()
    ledgers["node-a"].confirm(said)
    assert nodes.confirmation(said.volume_id) is None
    published.add((said.volume_id, "node-a"))
    assert nodes.confirmation(said.volume_id) == said
    assert ledgers["node-b"].confirmation(said.volume_id) == said


def test_a_confirmation_of_this_moment_is_known(ledgers, nodes, published):
    for _ in range(20):
        said = confirmation()
        published.add((said.volume_id, "node-a"))
        assert nodes.confirmation(said.volume_id) is None
        ledgers["node-a"].confirm(said)
        assert nodes.confirmation(said.volume_id) == said


def test_a_volume_is_known_as_formatted_though_the_watch_does_not_tell(ledgers, nodes, published):
    said = confirmation(Formatting(), identity="wwn:1")
    published.add((said.volume_id, "node-a"))
    ledgers["node-a"].confirm(said)
    wait_until("it is known", lambda: nodes._confirmations.get(said.volume_id))
    nodes.close()
    formatted = same_volume(said, FORMATTED, identity="wwn:1")
    ledgers["node-a"].confirm(formatted)
    assert nodes.confirmation(said.volume_id) == formatted


def test_a_forgotten_confirmation_is_gone_for_all(ledgers, nodes, published):
    said = confirmation()
    published.add((said.volume_id, "node-a"))
    ledgers["node-a"].confirm(said)
    nodes.forget(said.volume_id)
    nodes.forget(said.volume_id)
    assert nodes.confirmation(said.volume_id) is None
    assert ledgers["node-a"].confirmation(said.volume_id) is None


def test_a_word_that_counts_no_more_is_still_known_to_have_been_said(ledgers, nodes):
    """Who has the volume next goes by it, so a copy of the volume may hold somebody's data."""
    said = confirmation()
    assert not nodes.has_word(said.volume_id)
    ledgers["node-a"].confirm(said)
    assert nodes.confirmation(said.volume_id) is None
    assert nodes.has_word(said.volume_id)
    nodes.forget(said.volume_id)
    assert not nodes.has_word(said.volume_id)


def test_whether_there_is_a_word_is_asked_as_persistently_as_records_are_written(cluster):
    """It is asked when a copy is made: for a moment without API server none is thrown away."""
    made: list[object] = []

    def persistently(request: Callable[[], object]) -> object:
        made.append(request)
        return request()

    api = api_of(cluster, "cinder-csi-controller", "node-a")
    with closing(ClusterNodes(api, DRIVER, lambda volume, node: True, persistently)) as nodes:
        assert not nodes.has_word(str(uuid.uuid4()))
    assert len(made) == 1


def test_who_has_the_volume_says_again_what_another_said(ledgers, nodes, published):
    said = confirmation(identity="wwn:1")
    published.add((said.volume_id, "node-b"))
    ledgers["node-a"].confirm(said)
    wait_until("it is known", lambda: nodes._confirmations.get(said.volume_id))
    assert nodes.confirmation(said.volume_id) is None
    nodes.close()  # the watch does not tell what node-b says
    ledgers["node-b"].confirm(said)
    assert nodes.confirmation(said.volume_id) == said


def test_an_identity_may_be_learned_later(ledgers):
    said = confirmation()
    ledgers["node-a"].confirm(said)
    more = same_volume(said, FORMATTED, identity="wwn:1")
    ledgers["node-a"].confirm(more)
    assert ledgers["node-a"].confirmation(said.volume_id) == more
    with pytest.raises(LedgerUnavailable, match="not changed by a node"):
        ledgers["node-a"].confirm(same_volume(said, FORMATTED, identity="wwn:2"))


@pytest.mark.parametrize("state", [FormattingState.NEVER, FormattingState.UNKNOWN])
def test_what_is_not_formatted_may_become_it(ledgers, state):
    said = confirmation(Formatting(state=state), identity="wwn:1")
    ledgers["node-a"].confirm(said)
    after = same_volume(said, FORMATTED, identity="wwn:1")
    ledgers["node-a"].confirm(after)
    assert ledgers["node-a"].confirmation(said.volume_id) == after


@pytest.mark.parametrize(
    "changed",
    [
        Formatting(state=FormattingState.NEVER, fs_type="xfs", fs_uuid="u-1"),
        Formatting(state=FormattingState.FORMATTED, fs_type="ext4", fs_uuid="u-1"),
        Formatting(state=FormattingState.FORMATTED, fs_type="xfs", fs_uuid="u-2"),
    ],
)
def test_no_node_takes_a_filesystem_back(ledgers, changed):
    said = confirmation()
    ledgers["node-a"].confirm(said)
    with pytest.raises(LedgerUnavailable, match="not changed by a node"):
        ledgers["node-b"].confirm(same_volume(said, changed))
    assert ledgers["node-a"].confirmation(said.volume_id) == said


def test_a_node_cannot_speak_for_another(cluster, api_a, ledgers):
    ledgers["node-b"].register(registration("node-b"))
    impostor = ClusterLedger(api_a, DRIVER, "node-b")
    with pytest.raises(LedgerUnavailable, match="node-a may not write for node-b"):
        impostor.register(registration("node-b", version="forged"))
    with pytest.raises(LedgerUnavailable, match="node-a may not write for node-b"):
        impostor.confirm(confirmation())
    # Nor take its object over under its own name.
    path = f"{collection('cindernodes')}/node-b.{DRIVER}"
    item = api_a.get(path)
    item["spec"]["nodeID"] = "node-a"
    with pytest.raises(ApiForbidden, match="another node's"):
        api_a.replace(path, item)


def test_a_node_takes_no_other_s_name(api_a):
    """Else volumes of a node that has not registered yet would be attached to this one."""
    forged = node_objects.node_object(registration("node-a"), DRIVER)
    forged["metadata"]["name"] = node_objects.node_name("node-c", DRIVER)
    with pytest.raises(ApiForbidden, match="another node's or volume's"):
        api_a.create(node_objects.NODES, forged)
    forged = node_objects.confirmation_object(confirmation(), "node-a", DRIVER)
    forged["metadata"]["name"] = str(uuid.uuid4())
    with pytest.raises(ApiForbidden, match="another node's or volume's"):
        api_a.create(node_objects.CONFIRMATIONS, forged)


def test_what_is_told_under_another_s_name_does_not_count(cluster, nodes, published):
    forged = node_objects.node_object(registration("node-a"), DRIVER)
    forged["metadata"]["name"] = node_objects.node_name("node-d", DRIVER)
    cluster.admin.create(node_objects.NODES, forged)
    said, named = confirmation(), str(uuid.uuid4())
    published.add((named, "node-a"))
    forged = node_objects.confirmation_object(said, "node-a", DRIVER)
    forged["metadata"]["name"] = named
    cluster.admin.create(node_objects.CONFIRMATIONS, forged)
    wait_until("they are known", lambda: nodes._nodes.get(f"node-d.{DRIVER}"))
    assert nodes.node("node-d") is None
    assert nodes.confirmation(named) is None


def test_a_token_that_tells_no_node_writes_nothing(cluster):
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    path = "/api/v1/namespaces/cinder-csi/serviceaccounts/cinder-csi-node/token"
    token = cluster.admin.create(path, asked)["status"]["token"]
    ledger = ClusterLedger(Api(cluster.connection(token)), DRIVER, "node-a")
    with pytest.raises(LedgerUnavailable, match="tells no node"):
        ledger.register(registration("node-a", version="no node"))


@pytest.mark.parametrize(
    "request_of",
    [
        lambda api: api.list(collection("cinderconnections")),
        lambda api: api.get(collection("cindervolumes") + "/x"),
        lambda api: api.list(collection("cinderkeyvalues")),
        lambda api: api.list("/api/v1/secrets"),
        lambda api: api.delete(collection("cinderconfirmations") + "/x"),
        lambda api: api.delete(collection("cindernodes") + f"/node-a.{DRIVER}"),
    ],
)
def test_a_node_reads_no_record_and_deletes_nothing(
    api_a: Api, request_of: Callable[[Api], object]
):
    with pytest.raises(ApiForbidden):
        request_of(api_a)


def test_a_damaged_confirmation_is_said_to_be_one(cluster, ledgers, nodes):
    said = confirmation()
    ledgers["node-a"].confirm(said)
    path = f"{collection('cinderconfirmations')}/{said.volume_id}"
    item = cluster.admin.get(path)
    del item["spec"]["state"]
    cluster.admin.replace(path, item)
    with pytest.raises(LedgerUnavailable, match="is damaged"):
        ledgers["node-a"].confirmation(said.volume_id)
    assert nodes.has_word(said.volume_id)


def test_a_missing_definition_is_not_an_absent_confirmation(cluster):
    api = Api(cluster.connection(ADMIN_TOKEN))
    with pytest.raises(Exception, match="Install the custom resource definitions"):
        api.get(collection("cinderwidgets") + "/x")
