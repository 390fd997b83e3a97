"""Cinder's XtremIO driver, unchanged, against a simulated array: a volume's life and its errors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

import csi_driver.cinderlib as cinderlib
from csi_driver.cinderlib.exceptions import BackendSetupFailed, OperationNotSupported
from csi_driver.cinderlib.failures import FailureKind
from csi_driver.cinderlib.persistence.records import Phase
from csi_driver.cinderlib.runtime.rows import Row
from tests.simulators.conftest import XTREMIO, connector, failure_of, xtremio_options
from tests.simulators.xtremio import XtremIO

pytestmark = [
    pytest.mark.usefixtures("library"),
    pytest.mark.filterwarnings("ignore:Unverified HTTPS request"),  # the driver's default
]

VERSIONS = ["3.0.3-11", "4.0.27-1", "4.2.1-5"]
"""One for each client that the driver has."""


def backend(array: XtremIO, **options: Any) -> cinderlib.Backend:
    return cinderlib.Backend("xtremio", **xtremio_options(array, **options))


def test_the_example_of_the_documents(xms: XtremIO) -> None:
    """As it stands but for the address; the driver checks no certificate unless told to."""
    xtremio = cinderlib.Backend(
        volume_driver="cinder.volume.drivers.dell_emc.xtremio.XtremIOISCSIDriver",
        san_ip=xms.address,
        xtremio_cluster_name="xtremio_cluster",
        san_login="xtremio_user",
        san_password="xtremio_password",
        volume_backend_name="xtremio",
    )

    assert xtremio.initialized
    assert xtremio.id == "xtremio"
    assert xtremio.create_volume(1).status == "available"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_whole_life(version: str, start: Callable[[XtremIO], XtremIO]) -> None:
    array = start(XtremIO(version))
    xtremio = backend(array, xtremio_clean_unused_ig=True)

    volume = xtremio.create_volume(1, name="data")
    in_array = volume._record.cinder_id
    assert array.names() == {in_array}
    array.write(in_array, "first")
    snapshot = volume.create_snapshot("cut")
    array.write(in_array, "second")
    restored = snapshot.create_volume(size=3)
    clone = volume.clone(size=2)
    volume.extend(4)

    def named(thing: Any) -> str:
        return str(thing._record.cinder_id)

    contents = {named(t): array.contents[named(t)] for t in (volume, snapshot, restored, clone)}
    assert list(contents.values()) == ["second", "first", "first", "second"]
    assert array.names() == set(contents)
    sizes = [array.size_gib(named(thing)) for thing in (volume, snapshot, restored, clone)]
    assert sizes == [4, 1, 3, 2]

    first = volume.connect(connector("n1"))
    second = volume.connect(connector("n2"))
    assert array.mapped_to(in_array) == {connector(host)["initiator"] for host in ("n1", "n2")}
    data = first.conn_info["data"]
    assert (first.protocol, data["target_lun"]) == ("iscsi", 1)
    assert data["target_portals"] == ["192.0.2.10:3260", "192.0.2.11:3260"]
    assert second.conn_info["data"]["target_lun"] == 1, "each host counts for itself"
    first.disconnect()
    assert array.mapped_to(in_array) == {connector("n2")["initiator"]}
    second.disconnect()

    for thing in (clone, restored, snapshot, volume):
        thing.delete()
    assert array.everything() == {}


def test_statistics(xms: XtremIO) -> None:
    xtremio = backend(xms)
    xtremio.create_volume(7)

    stats = xtremio.manager.stats(refresh=True)

    (pool,) = stats.pools
    assert (stats.vendor, stats.protocol) == ("Dell EMC", "iSCSI")
    assert (pool.name, pool.total_gib, pool.provisioned_gib) == ("xtremio", 1000, 7)
    assert (pool.thin, pool.multiattach) == (True, True)


def test_chap_is_told_to_the_host(xms: XtremIO) -> None:
    xms.chap = "initiator"
    volume = backend(xms).create_volume(1)

    first = volume.connect(connector("n1")).conn_info["data"]

    assert (first["auth_method"], first["auth_username"]) == ("CHAP", "chap_user")
    assert len(first["auth_password"]) == 12
    again = backend(xms).create_volume(1).connect(connector("n1")).conn_info["data"]
    assert again["auth_password"] == first["auth_password"], "a host has one password"


def test_certificates_are_checked_on_demand(xms: XtremIO, tmp_path: Any) -> None:
    checked = backend(xms, driver_ssl_cert_verify=True, driver_ssl_cert_path=str(xms.certificate))
    assert checked.create_volume(1).status == "available"
    checked.close()

    with pytest.raises(BackendSetupFailed, match="CERTIFICATE_VERIFY_FAILED"):
        backend(xms, driver_ssl_cert_verify=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"san_password": "no"}, "Bad response from XMS"),
        ({"san_ip": "127.0.0.1:1"}, "Connection refused"),
    ],
)
def test_a_wrong_configuration_is_told_at_once(
    xms: XtremIO, wrong: dict[str, str], message: str
) -> None:
    with pytest.raises(BackendSetupFailed, match=message):
        backend(xms, **wrong)


def test_another_cluster_is_not_taken_for_ours(xms: XtremIO) -> None:
    from cinder import exception

    xtremio = cinderlib.Backend  # the driver looks at the first cluster while it is set up
    with pytest.raises((BackendSetupFailed, exception.NotFound)):
        xtremio("other", **xtremio_options(xms, xtremio_cluster_name="other")).create_volume(1)
    assert xms.everything() == {}


def test_an_array_of_old_is_refused(start: Callable[[XtremIO], XtremIO]) -> None:
    with pytest.raises(BackendSetupFailed, match="Invalid XtremIO version"):
        backend(start(XtremIO("2.4.1-11")))


def test_the_library_warns_of_what_cinder_does_not_support(
    xms: XtremIO, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        backend(xms)
    assert "XtremIOISCSIDriver unsupported" in caplog.text
    assert "enable_unsupported_driver" in caplog.text


def test_csi_asks_for_consent_to_what_cinder_does_not_support(xms: XtremIO) -> None:
    from csi_driver.cinderlib.exceptions import UnsupportedDriver
    from csi_driver.cinderlib.runtime import drivers

    with pytest.raises(UnsupportedDriver, match="XtremIOISCSIDriver") as raised:
        drivers.refuse_unsupported("xtremio", xtremio_options(xms))
    assert "enable_unsupported_driver" in str(raised.value)
    consent = xtremio_options(xms, enable_unsupported_driver="true")
    drivers.refuse_unsupported("xtremio", consent)
    cinderlib.Backend("xtremio", **consent)


@pytest.mark.usefixtures("no_initiator")
def test_the_driver_cannot_revert_and_the_refusal_says_so(xms: XtremIO) -> None:
    volume = backend(xms).create_volume(1)
    snapshot = volume.create_snapshot("cut")
    before = xms.everything()

    with pytest.raises(OperationNotSupported, match="cannot revert") as raised:
        volume.revert(snapshot)
    assert "new volume from the snapshot" in str(raised.value)
    assert xms.everything() == before


@pytest.mark.parametrize("version", VERSIONS)
def test_what_was_there_is_taken_over_and_given_back(
    version: str, start: Callable[[XtremIO], XtremIO]
) -> None:
    array = start(XtremIO(version))
    xtremio = backend(array)
    xtremio.driver.client.req("volumes", "POST", {"vol-name": "theirs", "vol-size": "3g"})
    array.write("theirs", "precious")

    volume = xtremio.manage_volume({"source-name": "theirs"})

    cinder_id = volume._record.cinder_id
    assert (volume.size, array.names()) == (3, {cinder_id})
    volume.unmanage()
    (name,) = array.names()
    assert name == f"volume-{cinder_id}-unmanged", "as the driver spells it"
    assert array.contents[name] == "precious"
    with pytest.raises(Exception, match="invalid backend reference nothing"):
        xtremio.manage_volume({"source-name": "nothing"})


def test_groups_as_the_driver_makes_them(xms: XtremIO) -> None:
    """Consistency groups on the array: a cut through two volumes, and a group made of it."""
    xtremio = backend(xms)
    driver = xtremio.driver
    volumes = [xtremio.create_volume(1)._record.cinder_id for _ in range(2)]
    group, copy = Row(id="g-1", status="available"), Row(id="g-2", status="available")
    cut = Row(id="c-1", group_id=group.id)
    driver.create_group(None, group)
    driver.update_group(None, group, add_volumes=[Row(id=each) for each in volumes])
    for each in volumes:
        xms.write(each, f"content of {each}")

    driver.create_group_snapshot(None, cut, [])
    for each in volumes:
        xms.write(each, "later")
    made = [Row(id=f"copy-{n}", name_id=f"copy-{n}", size=1) for n in range(2)]
    snapshots = [Row(volume_id=each, volume_size=1) for each in volumes]
    driver.create_group_from_src(None, copy, made, group_snapshot=cut, snapshots=snapshots)

    assert [xms.contents[each.id] for each in made] == [f"content of {v}" for v in volumes]
    assert xms.names("consistency-groups") == {"g-1", "g-2"}
    driver.delete_group_snapshot(None, cut, [])
    driver.delete_group(None, copy, made)
    assert xms.everything() == {"volumes": set(volumes), "consistency-groups": {"g-1"}}


# -- errors ----------------------------------------------------------------------------


def test_a_name_that_exists_is_told(xms: XtremIO) -> None:
    xtremio = backend(xms)
    record = xtremio.create_volume(1)._record

    kind, message = failure_of(lambda: xtremio.manager.create_volume(record))

    assert "Volume by this name already exists" in message
    assert kind is FailureKind.UNCLASSIFIED, "whose it is, nobody can tell"
    assert xms.names() == {record.cinder_id}


@pytest.mark.parametrize(
    ("method", "resource", "action"),
    [
        ("POST", "volumes", lambda x, v: x.create_volume(1)),
        ("POST", "snapshots", lambda x, v: v.create_snapshot("cut")),
        ("POST", "snapshots", lambda x, v: v.clone()),
        ("PUT", "volumes", lambda x, v: v.extend(2)),
        ("POST", "lun-maps", lambda x, v: v.connect(connector("n1"))),
        ("DELETE", "volumes", lambda x, v: v.delete()),
    ],
)
def test_an_array_that_is_busy_is_unavailable_for_now(
    xms: XtremIO, method: str, resource: str, action: Callable[[Any, Any], Any]
) -> None:
    xtremio = backend(xms)
    volume = xtremio.create_volume(1)
    xms.refuse(method, resource, "system_is_busy", times=5)  # as often as the driver tries

    kind, message = failure_of(lambda: action(xtremio, volume))

    assert (kind, message) == (FailureKind.UNAVAILABLE, "System is busy, retry operation")


def test_an_array_that_is_busy_for_a_moment_is_asked_again(xms: XtremIO) -> None:
    xms.refuse("POST", "volumes", "system_is_busy", times=4)

    assert backend(xms).create_volume(1).status == "available"


@pytest.mark.parametrize("version", VERSIONS)
def test_too_many_snapshots_are_no_room(version: str, start: Callable[[XtremIO], XtremIO]) -> None:
    volume = backend(start(XtremIO(version, snapshot_limit=1))).create_volume(1)
    snapshot = volume.create_snapshot("one")
    snapshot.create_volume()

    for action in (lambda: volume.create_snapshot("two"), volume.clone, snapshot.create_volume):
        kind, message = failure_of(action)
        assert kind is FailureKind.NO_SPACE
        assert "Exceeded the limit of snapshots per volume" in message


def test_no_room_for_a_larger_copy_leaves_no_copy(start: Callable[[XtremIO], XtremIO]) -> None:
    array = start(XtremIO(provisionable_gib=3))
    volume = backend(array).create_volume(1)

    _, message = failure_of(lambda: volume.clone(size=5))

    assert "vol_size_exceeds_cluster_limit" in message
    assert array.names() == {volume._record.cinder_id}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_volume_that_is_gone_is_told_as_that(
    version: str, start: Callable[[XtremIO], XtremIO]
) -> None:
    array = start(XtremIO(version))
    volume = backend(array).create_volume(1)
    connection = volume.connect(connector("n1"))
    array.vanish(volume._record.cinder_id)

    assert failure_of(lambda: volume.extend(2))[0] is FailureKind.NOT_FOUND
    assert failure_of(lambda: volume.connect(connector("n2")))[0] is FailureKind.NOT_FOUND
    assert failure_of(connection.disconnect)[0] is FailureKind.NOT_FOUND


@pytest.mark.parametrize("version", VERSIONS)
def test_a_connect_that_fails_is_taken_back(
    version: str, start: Callable[[XtremIO], XtremIO]
) -> None:
    """Also when the array does not know the host yet."""
    array = start(XtremIO(version))
    volume = backend(array).create_volume(1)
    array.refuse("POST", "initiators", "internal_error")

    _, message = failure_of(lambda: volume.connect(connector("n1")))

    assert "internal_error" in message
    assert volume.connections == []
    assert volume.connect(connector("n1")).connected


def test_a_volume_that_the_array_shows_to_somebody_else_is_not_deleted(xms: XtremIO) -> None:
    xtremio = backend(xms)
    volume = xtremio.create_volume(1)
    connection = volume.connect(connector("n1"))
    connection._remove()  # the record alone: as if another program had mapped the volume

    _, message = failure_of(volume.delete)

    assert "vol_is_mapped" in message
    assert volume._record.phase is Phase.ERROR
    assert xms.names() == {volume._record.cinder_id}


def test_what_the_driver_uses_has_a_timeout(xms: XtremIO, monkeypatch: pytest.MonkeyPatch) -> None:
    import requests

    seen: list[Any] = []
    request = requests.request

    def spy(method: str, url: str, **options: Any) -> Any:
        seen.append(options.get("timeout"))
        return request(method, url, **options)

    monkeypatch.setattr(requests, "request", spy)
    backend(xms)

    assert seen
    assert None not in seen


def test_the_corrected_driver_keeps_its_name(xms: XtremIO) -> None:
    cls = type(backend(xms).driver)

    assert f"{cls.__module__}.{cls.__qualname__}" == XTREMIO
