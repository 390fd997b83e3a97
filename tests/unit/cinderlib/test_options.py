"""Options by the names of today and of old, and options that refer to others."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from csi_driver.cinderlib.exceptions import InvalidOption, UnknownOption
from csi_driver.cinderlib.runtime import bootstrap, drivers, options
from tests.unit.cinderlib.conftest import Loaded

LVM = "cinder.volume.drivers.lvm.LVMVolumeDriver"
POWERFLEX = "cinder.volume.drivers.dell_emc.powerflex.driver.PowerFlexDriver"
POWERMAX = "cinder.volume.drivers.dell_emc.powermax.iscsi.PowerMaxISCSIDriver"


def configured(name: str, path: str, **given: Any) -> Any:
    return options.configure(name, drivers.find_class(path), given)


@pytest.mark.parametrize(
    ("path", "old", "value", "today"),
    [
        (LVM, "iscsi_helper", "lioadm", "target_helper"),
        (LVM, "iscsi_protocol", "iser", "target_protocol"),
        (LVM, "iscsi_ip_address", "192.0.2.7", "target_ip_address"),
        (LVM, "iscsi-port", 3261, "target_port"),
        (LVM, "iscsi_secondary_ip_addresses", ["192.0.2.8"], "target_secondary_ip_addresses"),
        (LVM, "eqlx_chap_login", "u", "chap_username"),
        (POWERFLEX, "vxflexos_storage_pools", "d:p", "powerflex_storage_pools"),
        (POWERFLEX, "sio_rest_server_port", 444, "powerflex_rest_server_port"),
        (POWERMAX, "vmax_srp", "SRP_1", "powermax_srp"),
    ],
)
def test_a_name_of_old_is_taken_and_said_to_be_old(
    runtime: bootstrap.RuntimeSettings,
    free_name: str,
    caplog: pytest.LogCaptureFixture,
    path: str,
    old: str,
    value: Any,
    today: str,
) -> None:
    with caplog.at_level(logging.WARNING):
        made = configured(free_name, path, **{old: value})

    assert getattr(made, today) == value
    assert f"{old.replace('-', '_')!r} is the old name of {today!r}" in caplog.text


def test_every_name_of_old_leads_to_an_option_that_cinder_has(tmp_path: Any) -> None:
    from tests.unit.cinderlib.test_bootstrap import run, set_up

    missing = run(
        set_up(tmp_path)
        + """
from csi_driver.cinderlib.runtime import catalog, drivers, options, quirks
known = set()
for entry in catalog.ENTRIES.values():
    known |= {option.name for option in quirks.driver_options(drivers.find_class(entry.path))}
known |= options._declared(options.shared_group()).keys()
print(json.dumps([
    sorted(set(options.RENAMED.values()) - known),
    sorted(set(options.RENAMED) & known),
    [new for new in options.RENAMED_PREFIXES.values()
     if not any(name.startswith(new) for name in known)],
]))
"""
    )

    assert missing == [[], [], []]


def test_an_option_by_its_old_and_its_new_name_is_refused(
    runtime: bootstrap.RuntimeSettings, free_name: str
) -> None:
    with pytest.raises(InvalidOption, match=r"'target_helper' and 'iscsi_helper' are one option"):
        configured(free_name, LVM, target_helper="lioadm", iscsi_helper="tgtadm")


def test_names_with_a_dash_are_those_with_an_underscore(
    runtime: bootstrap.RuntimeSettings, free_name: str
) -> None:
    made = configured(free_name, LVM, **{"use-multipath_for_image_xfer": True})

    assert made.use_multipath_for_image_xfer is True


def test_an_unknown_option_names_one_of_the_same_driver_first(
    runtime: bootstrap.RuntimeSettings, free_name: str
) -> None:
    with pytest.raises(UnknownOption, match="Did you mean 'volume_group'"):
        configured(free_name, LVM, volume_grup="vg")


@pytest.mark.parametrize(
    ("zone", "told"),
    [
        ("${FIRST.backend_availability_zone}-b", "zone-1-b"),
        ("${FIRST.double_total_gib}", "7.0"),
        ("${coordination.backend_url}", "file://LOCKS"),
        ("$coordination.backend_url", "file://LOCKS"),
        ("of $host", "of HOST"),
        ("$double_total_gib/${double_pools}", "12.5/['a']"),
        ("$reserved_percentage", "0"),
        ("${NAME.double_total_gib}", "12.5"),
        ("$$host costs 5$$", "$host costs 5$"),
    ],
)
def test_options_may_refer_to_others_of_the_backend_of_a_group_and_of_another_backend(
    load: Callable[..., Loaded], free_name: str, zone: str, told: str
) -> None:
    first = load(backend_availability_zone="zone-1", double_total_gib=7).manager.name
    names = {
        "FIRST": first,
        "NAME": free_name,
        "HOST": bootstrap.active().host,
        "LOCKS": str(bootstrap.lock_directory()),
    }

    def named(text: str) -> str:
        for word, name in names.items():
            text = text.replace(word, name)
        return text

    loaded = load(
        free_name,
        backend_availability_zone=named(zone),
        double_total_gib="12.5",
        double_pools=["a"],
    )

    assert loaded.manager.option("backend_availability_zone") == named(told)


@pytest.mark.parametrize(
    ("zone", "says"),
    [
        ("${FIRST.double_total_gb}", "Did you mean 'double_total_gib'"),
        ("$backend_availability_zone", "refers to itself"),
        ("$no_such_option", "no_such_option"),
        ("${no_such_group.option}", "no_such_group"),
    ],
)
def test_a_reference_that_leads_nowhere_is_refused(
    load: Callable[..., Loaded], zone: str, says: str
) -> None:
    first = load().manager.name

    with pytest.raises(InvalidOption, match="'backend_availability_zone'") as raised:
        load(backend_availability_zone=zone.replace("FIRST", first))

    assert says in str(raised.value)
