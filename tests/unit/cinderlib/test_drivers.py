"""Loading drivers: options, isolation, errors that help, and the quirks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from csi_driver.cinderlib.exceptions import (
    BackendExists,
    BackendSetupFailed,
    InvalidOption,
    MissingPackage,
    UnknownDriver,
    UnknownOption,
    UnsupportedDriver,
)
from csi_driver.cinderlib.runtime import bootstrap, drivers, options
from tests.doubles import faults
from tests.doubles.faults import VendorError
from tests.unit.cinderlib.conftest import Loaded

RBD = "cinder.volume.drivers.rbd.RBDDriver"
RBD_ISCSI = "cinder.volume.drivers.ceph.rbd_iscsi.RBDISCSIDriver"
NETAPP = "cinder.volume.drivers.netapp.common.NetAppDriver"
LVM = "cinder.volume.drivers.lvm.LVMVolumeDriver"


def configuration(runtime: bootstrap.RuntimeSettings, name: str, path: str, **given: Any) -> Any:
    return options.configure(name, drivers.find_class(path), given)


def test_a_driver_is_set_up_as_cinder_does(loaded: Loaded) -> None:
    assert loaded.driver.initialized
    assert loaded.driver.host == f"{bootstrap.active().host}@{loaded.manager.name}"
    assert loaded.driver.configuration.volume_backend_name == loaded.manager.name
    assert loaded.faults.operations()[:2] == ["do_setup", "check_for_setup_error"]
    assert loaded.driver.capabilities["vendor_name"] == "Doubles"


def test_backends_in_one_process_do_not_see_each_other(load: Callable[..., Loaded]) -> None:
    first = load(double_total_gib=10, reserved_percentage=5)
    second = load(double_total_gib=20.5)

    assert first.driver.configuration.double_total_gib == 10
    assert second.driver.configuration.double_total_gib == 20.5
    assert first.driver.configuration.reserved_percentage == 5
    assert second.driver.configuration.reserved_percentage == 0
    first.made_volume()
    assert second.driver.shelf.names() == {}


def test_a_backend_may_be_called_like_an_option_of_cinder(load: Callable[..., Loaded]) -> None:
    from oslo_config import cfg

    load("host")

    assert cfg.CONF.host == bootstrap.active().host


def test_a_name_is_taken_until_its_backend_is_closed(
    load: Callable[..., Loaded], free_name: str
) -> None:
    first = load(free_name, double_total_gib=7)
    with pytest.raises(BackendExists, match=free_name):
        load(free_name)

    first.manager.close()
    again = load(free_name)

    assert again.driver.configuration.double_total_gib == 1000


def test_options_are_converted_to_their_types(load: Callable[..., Loaded]) -> None:
    read = load(
        **{
            "double-total-gib": "12.5",
            "double_multiattach": "false",
            "double_pools": "a, b",
        }
    ).driver.configuration

    assert read.double_total_gib == 12.5
    assert read.double_multiattach is False
    assert read.double_pools == ["a", "b"]


def test_an_unknown_option_names_the_nearest(load: Callable[..., Loaded]) -> None:
    with pytest.raises(UnknownOption, match="Did you mean 'double_total_gib'"):
        load(double_total_gb=1)


def test_an_unknown_option_that_is_like_nothing_is_refused_too(
    load: Callable[..., Loaded],
) -> None:
    with pytest.raises(UnknownOption, match="no option 'zzzz'"):
        load(zzzz=1)


@pytest.mark.parametrize(
    ("option", "value"),
    [("double_total_gib", "much"), ("double_multiattach", "perhaps"), ("double_delay", -1)],
)
def test_a_value_of_the_wrong_type_names_option_and_backend(
    load: Callable[..., Loaded], free_name: str, option: str, value: object
) -> None:
    with pytest.raises(InvalidOption) as raised:
        load(free_name, **{option: value})

    assert option in str(raised.value)
    assert free_name in str(raised.value)


def test_an_option_may_refer_to_another(load: Callable[..., Loaded]) -> None:
    loaded = load(backend_availability_zone="zone-of-$host")

    zone = loaded.manager.option("backend_availability_zone")
    assert zone == f"zone-of-{bootstrap.active().host}"


def test_a_password_may_hold_dollar_signs(load: Callable[..., Loaded]) -> None:
    secret = "a$b$$c${host}$state_path"

    assert load(double_password=secret).driver.configuration.double_password == secret


def test_a_name_is_free_again_after_its_driver_failed(
    load: Callable[..., Loaded], free_name: str
) -> None:
    faults.of_backend(free_name).fail("do_setup", VendorError("array\nunreachable"))

    with pytest.raises(BackendSetupFailed) as raised:
        load(free_name)
    message = str(raised.value)
    assert "DoubleDriver" in message
    assert "array unreachable" in message

    assert load(free_name).driver.initialized


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("", "No volume_driver is given"),
        ("lvms", "Did you mean 'lvm'"),
        ("cinder.volume.drivers.nothing.Driver", "cannot be imported"),
        ("cinder.volume.drivers.lvm.LVMDriver", "no volume driver 'LVMDriver'"),
        ("json.JSONDecoder", "no volume driver"),
    ],
)
def test_a_driver_that_does_not_exist_is_named(
    load: Callable[..., Loaded], path: str, says: str
) -> None:
    with pytest.raises(UnknownDriver, match=says):
        load(driver=path)


def test_a_missing_package_of_the_vendor_is_named(
    runtime: object, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vendor_driver.py").write_text("import vendor_sdk\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(MissingPackage, match="needs the Python module 'vendor_sdk'"):
        drivers.find_class("vendor_driver.Driver")


def test_an_unsupported_driver_is_warned_about_unless_that_is_known(
    load: Callable[..., Loaded],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    runtime: object,
) -> None:
    from tests.doubles.driver import DoubleDriver

    monkeypatch.setattr(DoubleDriver, "SUPPORTED", False)
    with caplog.at_level(logging.WARNING):
        load()
        assert [record.name for record in caplog.records] == [drivers.__name__]
        caplog.clear()
        load(enable_unsupported_driver=True)
        assert caplog.records == []


@pytest.mark.parametrize("known", [{}, {"enable_unsupported_driver": "false"}])
def test_an_unsupported_driver_is_refused_to_those_who_run_volumes_for_others(
    runtime: object, known: dict[str, object]
) -> None:
    with pytest.raises(UnsupportedDriver, match=r"XtremIOISCSIDriver unsupported.*enable_unsupp"):
        drivers.refuse_unsupported("x", {"volume_driver": "xtremio_iscsi", **known})


def test_an_unsupported_driver_that_is_known_to_be_so_is_not_refused(runtime: object) -> None:
    drivers.refuse_unsupported(
        "x", {"volume_driver": "xtremio_iscsi", "enable_unsupported_driver": "true"}
    )
    drivers.refuse_unsupported("x", {"volume_driver": "lvm"})


@pytest.mark.parametrize("path", [RBD, RBD_ISCSI])
def test_a_corrected_driver_keeps_its_name_and_what_is_known_by_it(runtime: Any, path: str) -> None:
    from csi_driver.cinderlib.runtime import quirks, removal

    driver_class = drivers.find_class(path)
    corrected = quirks.corrected(driver_class)

    assert corrected is quirks.corrected(driver_class)
    assert issubclass(corrected, driver_class)
    assert f"{corrected.__module__}.{corrected.__qualname__}" == path
    assert removal.removal(corrected, "volume") == removal.removal(driver_class, "volume")
    assert corrected.delete_snapshot is not driver_class.delete_snapshot


def test_a_driver_without_corrections_is_taken_as_it_is(runtime: Any) -> None:
    from csi_driver.cinderlib.runtime import quirks

    assert quirks.corrected(drivers.find_class(NETAPP)) is drivers.find_class(NETAPP)


def test_what_is_corrected_in_rbd_is_still_called_by_cinder_s_driver(runtime: Any) -> None:
    """A release of Cinder that renames a method would bring its defect back."""
    from csi_driver.cinderlib.runtime.rbd import RBDCorrections

    driver_class = drivers.find_class(RBD)
    replaced = {
        "_clone",
        "_delete_volume",
        "_get_image_status",
        "_get_mon_addrs",
        "_resize",
        "_set_keyring_attributes",
        "_start_periodic_tasks",
        "create_cloned_volume",
        "create_snapshot",
        "create_volume",
        "delete_snapshot",
        "extend_volume",
    }
    assert {name for name in vars(RBDCorrections) if hasattr(driver_class, name)} >= replaced


def test_rbd_never_waits_for_ever(runtime: Any) -> None:
    from csi_driver.cinderlib.runtime import quirks

    driver_class = drivers.find_class(RBD)
    unset = configuration(runtime, "rbd-unset", RBD)
    chosen = configuration(runtime, "rbd-chosen", RBD, rados_connect_timeout=60)
    for made in (unset, chosen):
        quirks.before_init(driver_class, made, {})

    assert unset.rados_connect_timeout == quirks.RADOS_TIMEOUT_SECONDS
    assert chosen.rados_connect_timeout == 60


@pytest.mark.parametrize("option", ["rbd_keyring_conf", "rbd_keyring_file"])
def test_the_keyring_of_rbd_reaches_the_driver_by_either_name(runtime: Any, option: str) -> None:
    from csi_driver.cinderlib.runtime import quirks

    given = {option: "/etc/ceph/keyring"}
    made = configuration(runtime, f"rbd-{option}", RBD, **given)
    quirks.before_init(drivers.find_class(RBD), made, given)

    assert made.rbd_keyring_conf == "/etc/ceph/keyring"


def test_rbd_over_iscsi_can_tell_its_options(runtime: Any) -> None:
    made = configuration(
        runtime, "rbd-iscsi", RBD_ISCSI, rbd_iscsi_target_iqn="iqn.2026-01.org.example:x"
    )

    assert made.rbd_iscsi_target_iqn == "iqn.2026-01.org.example:x"


def test_netapp_takes_its_options_though_its_factory_declares_none(runtime: Any) -> None:
    made = configuration(runtime, "netapp", NETAPP, netapp_login="admin", netapp_vserver="vs1")

    assert (made.netapp_login, made.netapp_vserver) == ("admin", "vs1")


def test_a_driver_finds_the_section_of_another_backend(loaded: Loaded) -> None:
    from cinder import exception
    from cinder.volume import volume_utils

    found = volume_utils.get_backend_configuration(loaded.manager.name)
    assert found.volume_backend_name == loaded.manager.name
    with pytest.raises(exception.ConfigNotFound):
        volume_utils.get_backend_configuration("nobody")


def test_a_real_driver_of_cinder_says_what_is_wrong_when_it_is_set_up(
    load: Callable[..., Loaded],
) -> None:
    with pytest.raises(BackendSetupFailed) as raised:
        load(driver=LVM, volume_group="no-such-group-here", target_helper="lioadm")

    assert "LVMVolumeDriver" in str(raised.value)
    assert "\n" not in str(raised.value)
