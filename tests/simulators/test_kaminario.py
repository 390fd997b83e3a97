"""Cinder's Kaminario driver and krest, unchanged, against a simulated array.

Copies are made by the driver's own code: it attaches both sides to this host, where they are
loop devices, and runs ``dd``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import csi_driver.cinderlib as cinderlib
from csi_driver.cinderlib.exceptions import BackendSetupFailed, OperationNotSupported
from csi_driver.cinderlib.failures import FailureKind
from csi_driver.cinderlib.persistence.records import Phase
from tests.simulators.conftest import KAMINARIO, connector, failure_of, kaminario_options
from tests.simulators.kaminario import Kaminario
from tests.support import disks

pytestmark = [
    pytest.mark.usefixtures("library"),
    pytest.mark.filterwarnings("ignore:Unverified HTTPS request"),  # all that the driver can
]


def backend(array: Kaminario, **options: Any) -> cinderlib.Backend:
    return cinderlib.Backend("kaminario_iscsi", **kaminario_options(array, **options))


def named(volume: Any) -> str:
    return f"cv-{volume._record.cinder_id}"


def test_the_example_of_the_documents(k2: Kaminario) -> None:
    """As it stands but for the address and for ``cl``, which nothing there defines."""
    kaminario = cinderlib.Backend(
        volume_driver="cinder.volume.drivers.kaminario.kaminario_iscsi.KaminarioISCSIDriver",
        san_ip=k2.address,
        san_login="kaminario_user",
        san_password="kaminario_password",
        volume_backend_name="kaminario_iscsi",
    )

    assert kaminario.initialized
    assert kaminario.id == "kaminario_iscsi"
    assert kaminario.create_volume(1).status == "available"


@pytest.mark.root
@pytest.mark.usefixtures("attachable")
def test_a_whole_life(k2: Kaminario) -> None:
    kaminario = backend(k2)

    volume = kaminario.create_volume(1, name="data")
    assert k2.names() == {named(volume)}
    k2.write(named(volume), "first")
    snapshot = volume.create_snapshot("cut")
    k2.write(named(volume), "second")
    restored = snapshot.create_volume(size=3)
    clone = volume.clone(size=2)
    volume.extend(4)

    made = [volume, restored, clone]
    assert [k2.content(named(each)) for each in made] == ["second", "first", "second"]
    assert [k2.size_gib(named(each)) for each in made] == [4, 3, 2]
    assert k2.names() == {named(each) for each in made}
    assert k2.names("snapshots") == {f"cs-{snapshot._record.cinder_id}"}, "no view is left"
    assert k2.names("mappings") == k2.names("hosts") == set()
    assert loop_devices(k2) == []

    first = volume.connect(connector("n1"))
    second = volume.connect(connector("n2"))
    assert len(k2.mapped_to(named(volume))) == 2
    data = first.conn_info["data"]
    assert (data["target_portal"], data["target_iqn"]) == ("192.0.2.20:3260", k2.target)
    assert k2.exported(connector("n1")["initiator"], data["target_lun"]).name == named(volume)
    first.disconnect()
    assert len(k2.mapped_to(named(volume))) == 1
    second.disconnect()

    snapshot.delete()
    for each in (clone, restored, volume):
        each.delete()
    assert k2.everything() == {}


def loop_devices(array: Kaminario) -> list[str]:
    listed = disks.command("losetup", "--list", "--noheadings", "--output", "BACK-FILE")
    return [line for line in listed.splitlines() if str(array.file("")) in line]


def test_statistics(k2: Kaminario) -> None:
    kaminario = backend(k2)
    kaminario.create_volume(7)

    stats = kaminario.manager.stats(refresh=True)

    (pool,) = stats.pools
    assert (stats.vendor, stats.protocol) == ("Kaminario", "iSCSI")
    assert (pool.total_gib, pool.provisioned_gib, pool.thin) == (1000, 7, True)


def test_all_paths_are_told_without_discovery(k2: Kaminario) -> None:
    volume = backend(k2, disable_discovery=True).create_volume(1)

    data = volume.connect({**connector("n1"), "multipath": True}).conn_info["data"]

    assert data["target_portals"] == ["192.0.2.20:3260", "192.0.2.21:3260"], "not the WAN port"


def test_deduplication_is_chosen_by_the_specs(k2: Kaminario) -> None:
    kaminario = backend(k2)
    kaminario.create_volume(1)
    kaminario.create_volume(1, extra_specs={"kaminario:thin_prov_type": "nodedup"})

    groups = [g["is_dedup"] for g in k2._list("volume_groups") if g["name"].startswith("cvg-")]
    assert groups == [True, False]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"san_password": "no"}, "401"), ({"san_ip": "127.0.0.1:1"}, "Connection refused")],
)
def test_a_wrong_configuration_is_told_at_once(
    k2: Kaminario, wrong: dict[str, str], message: str
) -> None:
    """Without the ten minutes for which krest repeats a request by itself."""
    with pytest.raises(BackendSetupFailed, match=message):
        backend(k2, **wrong)


def test_an_array_of_old_is_refused(
    start: Callable[[Kaminario], Kaminario], tmp_path: Path
) -> None:
    with pytest.raises(BackendSetupFailed, match=r"should be >= 2\.2\.0"):
        backend(start(Kaminario(tmp_path / "k2", rest_api_version="2.1.0")))


@pytest.mark.usefixtures("no_initiator")
def test_a_revert_would_be_a_copy_and_is_refused_like_one(k2: Kaminario) -> None:
    volume = backend(k2).create_volume(1)
    snapshot = volume.create_snapshot("cut")
    before = k2.everything()

    with pytest.raises(OperationNotSupported, match="no iSCSI initiator name"):
        volume.revert(snapshot)
    assert k2.everything() == before
    assert volume.status == "available"


def test_what_was_there_is_taken_over_and_given_back(k2: Kaminario) -> None:
    kaminario = backend(k2)
    group = kaminario.driver.client.new("volume_groups", name="theirs", is_dedup=True).save()
    size = 3 << 20  # KiB
    kaminario.driver.client.new("volumes", name="theirs", size=size, volume_group=group).save()
    k2.write("theirs", "precious")

    volume = kaminario.manage_volume({"source-name": "theirs"})

    assert (volume.size, k2.names()) == (3, {named(volume)})
    assert k2.names("volume_groups") == {f"cvg-{volume._record.cinder_id}"}
    name = named(volume)
    volume.unmanage()
    assert k2.content(name) == "precious"


# -- copies ------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_initiator")
def test_without_iscsi_a_copy_is_refused_before_it_begins(k2: Kaminario) -> None:
    volume = backend(k2).create_volume(1)
    snapshot = volume.create_snapshot("cut")
    before = k2.everything()
    k2.forget_requests()

    for action in (volume.clone, snapshot.create_volume):
        with pytest.raises(OperationNotSupported, match="no iSCSI initiator name") as raised:
            action()
        assert "open-iscsi" in str(raised.value)
    assert k2.requests == []
    assert k2.everything() == before


def test_without_iscsiadm_a_copy_is_refused_before_it_begins(
    k2: Kaminario, monkeypatch: pytest.MonkeyPatch
) -> None:
    from os_brick.initiator.connectors.iscsi import ISCSIConnector

    monkeypatch.setattr(ISCSIConnector, "get_initiator", lambda self: "iqn.here")
    monkeypatch.setenv("PATH", "/nowhere")
    volume = backend(k2).create_volume(1)

    with pytest.raises(OperationNotSupported, match="no iscsiadm"):
        volume.clone()
    assert k2.names() == {named(volume)}


@pytest.mark.root
@pytest.mark.usefixtures("attachable")
def test_a_revert_copies_what_the_snapshot_holds(k2: Kaminario) -> None:
    """The library's copy, for the driver has none; both sides are attached to this host."""
    volume = backend(k2).create_volume(1)
    k2.write(named(volume), "first")
    snapshot = volume.create_snapshot("cut")
    k2.write(named(volume), "second")
    before = k2.everything()

    volume.revert(snapshot)

    assert k2.content(named(volume)) == "first"
    assert k2.everything() == before
    assert loop_devices(k2) == []


@pytest.mark.root
@pytest.mark.usefixtures("attachable")
def test_an_attached_volume_is_not_cloned_and_the_refusal_says_what_to_do(k2: Kaminario) -> None:
    volume = backend(k2).create_volume(1)
    volume.connect(connector("n1"))

    _, message = failure_of(volume.clone)

    assert "create a snapshot from the attached volume" in message
    assert k2.names() == {named(volume)}


@pytest.mark.root
@pytest.mark.usefixtures("attachable")
@pytest.mark.parametrize("step", [("POST", "snapshots"), ("POST", "mappings"), ("POST", "volumes")])
def test_a_copy_that_fails_leaves_nothing(k2: Kaminario, step: tuple[str, str]) -> None:
    volume = backend(k2).create_volume(1)
    snapshot = volume.create_snapshot("cut")
    before = k2.everything()
    k2.refuse(*step, "MC_ERR_INTERNAL")

    _, message = failure_of(snapshot.create_volume)

    assert "MC_ERR_INTERNAL" in message
    (failed,) = [
        each for each in cinderlib.Backend.named("kaminario_iscsi").volumes if each.id != volume.id
    ]
    failed.delete()
    assert k2.everything() == before
    assert loop_devices(k2) == []


# -- errors ------------------------------------------------------------------------------


def test_a_name_that_exists_is_told(k2: Kaminario) -> None:
    kaminario = backend(k2)
    record = kaminario.create_volume(1)._record

    _, message = failure_of(lambda: kaminario.manager.create_volume(record))

    assert "MC_ERR" in message
    assert k2.names() == {f"cv-{record.cinder_id}"}


@pytest.mark.parametrize(
    ("method", "resource", "action"),
    [
        ("POST", "volumes", lambda k, v: k.create_volume(1)),
        ("POST", "snapshots", lambda k, v: v.create_snapshot("cut")),
        ("PATCH", "volumes", lambda k, v: v.extend(2)),
        ("POST", "mappings", lambda k, v: v.connect(connector("n1"))),
        ("DELETE", "volumes", lambda k, v: v.delete()),
    ],
)
def test_an_array_that_is_busy_is_unavailable_for_now(
    k2: Kaminario,
    naps: list[float],
    method: str,
    resource: str,
    action: Callable[[Any, Any], Any],
) -> None:
    kaminario = backend(k2)
    volume = kaminario.create_volume(1)
    k2.refuse(method, resource, "MC_ERR_BUSY", times=10)

    kind, message = failure_of(lambda: action(kaminario, volume))

    assert kind is FailureKind.UNAVAILABLE
    assert "MC_ERR_BUSY" in message
    assert naps[:4] == [1, 2, 4, 8]


def test_an_array_that_is_busy_for_a_moment_is_asked_again(
    k2: Kaminario, naps: list[float]
) -> None:
    k2.refuse("POST", "volumes", "MC_ERR_BUSY", times=2)

    assert backend(k2).create_volume(1).status == "available"
    assert naps == [1, 2]


def test_too_many_snapshots_are_told(
    start: Callable[[Kaminario], Kaminario], tmp_path: Path
) -> None:
    array = start(Kaminario(tmp_path / "k2", snapshot_limit=1))
    volume = backend(array).create_volume(1)
    volume.create_snapshot("one")

    _, message = failure_of(lambda: volume.create_snapshot("two"))

    assert "MC_ERR_TOO_MANY_SNAPSHOTS" in message


def test_no_room_leaves_no_volume_group(
    start: Callable[[Kaminario], Kaminario], tmp_path: Path
) -> None:
    array = start(Kaminario(tmp_path / "k2", provisionable_gib=3))

    _, message = failure_of(lambda: backend(array).create_volume(5))

    assert "MC_ERR_EXCEEDS_PROVISIONING_LIMIT" in message
    assert array.everything() == {}


def test_a_volume_that_is_gone_is_told_as_that(k2: Kaminario) -> None:
    volume = backend(k2).create_volume(1)
    connection = volume.connect(connector("n1"))
    k2.vanish(named(volume))

    assert failure_of(lambda: volume.extend(2))[0] is FailureKind.NOT_FOUND
    assert failure_of(lambda: volume.connect(connector("n2")))[0] is FailureKind.NOT_FOUND
    connection.disconnect()
    volume.delete()
    assert k2.names("volume_groups") == set()


def test_a_volume_that_the_array_shows_to_somebody_else_is_not_deleted(k2: Kaminario) -> None:
    volume = backend(k2).create_volume(1)
    connection = volume.connect(connector("n1"))
    connection._remove()  # the record alone: as if another program had mapped the volume

    _, message = failure_of(volume.delete)

    assert "MC_ERR_VOLUME_IS_MAPPED" in message
    assert volume._record.phase is Phase.ERROR
    assert len(k2.mapped_to(named(volume))) == 1


def test_a_lost_answer_fails_at_once(k2: Kaminario) -> None:
    """krest would send the request again after 20 seconds, with the backend's lock held."""
    kaminario = backend(k2)
    k2.lose_answer("POST", "volume_groups")

    kind, _ = failure_of(lambda: kaminario.create_volume(1))

    assert kind is FailureKind.UNAVAILABLE
    assert k2.everything() == {}


def test_requests_have_a_timeout(k2: Kaminario, monkeypatch: pytest.MonkeyPatch) -> None:
    import requests

    seen: list[Any] = []
    request = requests.Session.request

    def spy(self: Any, method: str, url: str, **options: Any) -> Any:
        seen.append(options.get("timeout"))
        return request(self, method, url, **options)

    monkeypatch.setattr(requests.Session, "request", spy)
    backend(k2)

    assert seen
    assert None not in seen


def test_the_corrected_driver_keeps_its_name(k2: Kaminario) -> None:
    cls = type(backend(k2).driver)

    assert f"{cls.__module__}.{cls.__qualname__}" == KAMINARIO
