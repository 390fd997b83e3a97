"""Decisions of the use cases on values alone: publishing, equal names, reach, tokens."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_driver.base.errors import InvalidRequest
from csi_driver.base.values import GIB, AccessMode, AccessType, Topology, VolumeCapability
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    Phase,
    Source,
    VolumeRecord,
)
from csi_driver.cinderlib.stats import BackendStats, PoolStats
from csi_driver.controller import errors, listing
from csi_driver.controller.attachments import find_mine, refuse_second_node
from csi_driver.controller.parameters import VOLUME_PARAMETERS, parse
from csi_driver.controller.pools import choose
from csi_driver.controller.values import CreateVolume, PublishVolume
from csi_driver.controller.volumes import (
    refuse_if_different,
    refuse_unreachable,
    wished,
)

# -- publishing to nodes --------------------------------------------------------


def wish(
    mode: AccessMode, node: str = "here", *, readonly: bool = False, **fields
) -> PublishVolume:
    fields = {"access_type": AccessType.BLOCK} | fields
    return PublishVolume(
        volume_id="v",
        node_id=node,
        readonly=readonly,
        capability=VolumeCapability(mode=mode, **fields),
    )


def connection(mode: AccessMode, node: str, *, readonly: bool = False, phase=Phase.ATTACHED):
    writes = not readonly and not mode.read_only
    return ConnectionRecord(
        id=f"v/{node}",
        volume_id="v",
        node_id=node,
        backend="main",
        phase=phase,
        cinder_id="c",
        created_at=1.0,
        attach_mode="rw" if writes else "ro",
        request={
            "access_type": "block",
            "mode": str(mode),
            "fs_type": "",
            "readonly": readonly,
        },
    )


@pytest.mark.parametrize("there", AccessMode)
@pytest.mark.parametrize("wanted", AccessMode)
@pytest.mark.parametrize("there_readonly", [False, True])
@pytest.mark.parametrize("wanted_readonly", [False, True])
def test_the_matrix_of_two_nodes(there, wanted, there_readonly, wanted_readonly):
    both_multi = there.startswith("MULTI_NODE") and wanted.startswith("MULTI_NODE")
    both_write = not (there_readonly or wanted_readonly or there.read_only or wanted.read_only)
    one_writer = AccessMode.MULTI_NODE_SINGLE_WRITER in (there, wanted)
    allowed = both_multi and not (both_write and one_writer)
    others = [connection(there, "there", readonly=there_readonly)]
    request = wish(wanted, readonly=wanted_readonly)
    if allowed:
        refuse_second_node(request, others)
    else:
        with pytest.raises(errors.PublishedElsewhere, match="there"):
            refuse_second_node(request, others)


@pytest.mark.parametrize("mode", AccessMode)
def test_the_first_node_is_never_refused(mode):
    refuse_second_node(wish(mode), [])


@pytest.mark.parametrize("phase", [Phase.ATTACHING, Phase.DETACHING])
def test_a_node_that_may_still_have_access_counts(phase):
    others = [connection(AccessMode.SINGLE_NODE_WRITER, "there", phase=phase)]
    with pytest.raises(errors.PublishedElsewhere, match="published to there"):
        refuse_second_node(wish(AccessMode.SINGLE_NODE_WRITER), others)


def test_every_node_that_has_the_volume_is_named():
    mode = AccessMode.MULTI_NODE_READER_ONLY
    others = [connection(mode, node) for node in ("n2", "n1")]
    with pytest.raises(errors.PublishedElsewhere, match="n1, n2"):
        refuse_second_node(wish(AccessMode.SINGLE_NODE_WRITER), others)


def test_the_connection_to_the_node_is_found_among_others():
    mode = AccessMode.MULTI_NODE_READER_ONLY
    mine = connection(mode, "here")
    assert find_mine(wish(mode), [connection(mode, "there"), mine]) is mine
    assert find_mine(wish(mode), [connection(mode, "there")]) is None


@pytest.mark.parametrize(
    "request_",
    [
        wish(AccessMode.SINGLE_NODE_WRITER, readonly=True),
        wish(AccessMode.SINGLE_NODE_MULTI_WRITER),
        wish(AccessMode.SINGLE_NODE_WRITER, access_type=AccessType.MOUNT),
        wish(AccessMode.SINGLE_NODE_WRITER, access_type=AccessType.MOUNT, fs_type="xfs"),
    ],
)
def test_published_there_in_another_way_is_incompatible(request_):
    with pytest.raises(errors.PublishedIncompatible, match="here"):
        find_mine(request_, [connection(AccessMode.SINGLE_NODE_WRITER, "here")])


def test_a_publication_that_did_not_end_well_may_be_asked_in_another_way():
    left = connection(AccessMode.SINGLE_NODE_WRITER, "here", phase=Phase.ATTACHING)
    assert find_mine(wish(AccessMode.SINGLE_NODE_WRITER, readonly=True), [left]) is left


# -- an equal name --------------------------------------------------------------

MOUNT = VolumeCapability(access_type=AccessType.MOUNT, mode=AccessMode.SINGLE_NODE_WRITER)
BLOCK = VolumeCapability(access_type=AccessType.BLOCK, mode=AccessMode.SINGLE_NODE_WRITER)

FIRST = CreateVolume(
    name="data", capabilities=(MOUNT,), required_bytes=2 * GIB, parameters={"backend": "fast"}
)


def request(**changes) -> CreateVolume:
    return CreateVolume(
        **{
            "name": FIRST.name,
            "capabilities": FIRST.capabilities,
            "required_bytes": FIRST.required_bytes,
            "parameters": FIRST.parameters,
        }
        | changes
    )


def wish_of(create: CreateVolume) -> dict:
    return wished(create, parse(create.parameters, VOLUME_PARAMETERS))


RECORD = VolumeRecord(
    id="v",
    name="data",
    backend="fast",
    phase=Phase.AVAILABLE,
    size_gib=2,
    cinder_id="c",
    created_at=1.0,
    request=wish_of(FIRST),
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"required_bytes": GIB},
        {"required_bytes": 3 * GIB // 2, "limit_bytes": 2 * GIB},
        {"required_bytes": 0},
        {"parameters": {"backend": "fast", "csi.storage.k8s.io/pvc/name": "data"}},
    ],
)
def test_a_compatible_request_is_the_same_volume(changes):
    same = request(**changes)
    refuse_if_different(RECORD, same, wish_of(same))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"required_bytes": 2 * GIB + 1}, "size"),
        ({"required_bytes": GIB, "limit_bytes": GIB}, "size"),
        ({"parameters": {}}, "parameters"),
        ({"parameters": {"backend": "slow"}}, "parameters"),
        ({"capabilities": (BLOCK,)}, "capabilities"),
        ({"source": Source(kind="volume", id="w")}, "source"),
        ({"source": Source(kind="volume", id="w"), "required_bytes": 9 * GIB}, "size .*source"),
    ],
)
def test_another_request_is_refused_and_told_what_differs(changes, named):
    other = request(**changes)
    with pytest.raises(errors.IncompatibleExists, match=f"'data' exists with another .*{named}"):
        refuse_if_different(RECORD, other, wish_of(other))


# -- topology -------------------------------------------------------------------


def topology(**segments: str) -> Topology:
    return Topology(segments=segments)


@pytest.mark.parametrize(
    ("requisite", "accessible"),
    [
        ((), (topology(zone="a"),)),
        ((topology(zone="a"),), ()),
        ((topology(zone="a"),), (topology(zone="a"),)),
        ((topology(zone="b"), topology(zone="a")), (topology(zone="a"),)),
        ((topology(zone="a"),), (topology(zone="b"), topology(zone="a", rack="1"))),
        ((topology(),), (topology(zone="a"),)),
    ],
)
def test_one_requisite_topology_that_reaches_is_enough(requisite, accessible):
    refuse_unreachable(requisite, accessible, "main")


@pytest.mark.parametrize(
    ("requisite", "accessible"),
    [
        ((topology(zone="b"),), (topology(zone="a"),)),
        ((topology(zone="a", rack="1"),), (topology(zone="a"),)),
        ((topology(zone="b"), topology(zone="c")), (topology(zone="a"), topology(zone="d"))),
    ],
)
def test_without_one_that_reaches_it_is_told_from_where_the_backend_is(requisite, accessible):
    with pytest.raises(errors.TopologyUnreachable, match=r"only from .*'zone': 'a'"):
        refuse_unreachable(requisite, accessible, "main")


# -- pools ----------------------------------------------------------------------


def stats(*pools: PoolStats) -> BackendStats:
    return BackendStats(name="main", vendor="", driver_version="", protocol="", pools=pools)


def pool(name: str, total: float | None, free: float | None = None) -> PoolStats:
    return PoolStats(name=name, total_gib=total, free_gib=total if free is None else free)


@pytest.mark.parametrize(
    ("pools", "wanted", "size", "allowed"),
    [
        ({"a": 10, "b": 20}, "", 20, True),
        ({"a": 10, "b": 20}, "", 21, False),
        ({"a": 10, "b": 20}, "a", 11, False),
        ({"a": 10, "b": None}, "", 1000, True),
        ({"a": 10, "b": None}, "a", 11, False),
        ({"a": 10.9}, "", 11, False),
    ],
)
def test_a_size_is_refused_when_no_pool_could_ever_hold_it(pools, wanted, size, allowed):
    told = stats(*(pool(name, total) for name, total in pools.items()))
    if allowed:
        assert choose(told, size, wanted) in pools
    else:
        with pytest.raises(errors.CapacityOutOfRange, match=r"largest volume has \d+ GiB"):
            choose(told, size, wanted)


def test_an_unknown_pool_is_answered_with_the_pools_there_are():
    with pytest.raises(InvalidRequest, match="Pools: a, b"):
        choose(stats(pool("b", 1), pool("a", 1)), 1, "c")


def test_of_the_pools_that_fit_the_one_with_the_most_room_is_taken():
    told = stats(pool("small", 10, 9), pool("full", 100, 1), pool("large", 100, 50))
    assert choose(told, 5) == "large"
    assert choose(told, 5, "full") == "full", "whether there is room now is for the backend to say"
    assert choose(stats(pool("a", 10), pool("endless", None)), 5) == "endless"
    assert choose(stats(), 5) == ""


# -- tokens of lists ------------------------------------------------------------


@given(st.uuids())
def test_the_id_of_a_record_is_a_token(identifier: uuid.UUID):
    assert listing._after(str(identifier)) == str(identifier)


@given(st.text(min_size=1))
def test_nothing_else_is(text):
    with pytest.raises(errors.BadToken):
        listing._after(text)


def test_tokens_are_written_as_we_write_them():
    token = str(uuid.uuid4())
    for other in (token.upper(), token.replace("-", ""), "{" + token + "}", "urn:uuid:" + token):
        if other != token:
            with pytest.raises(errors.BadToken):
                listing._after(other)


def test_a_page_has_a_token_only_when_there_is_more():
    records = [RECORD] * 3
    assert listing._cut(records, 0) == (records, "")
    assert listing._cut(records, 3) == (records, "")
    assert listing._cut(records, 2) == (records[:2], "v")
    with pytest.raises(InvalidRequest):
        listing._limit(-1)
