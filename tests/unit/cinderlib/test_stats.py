"""Statistics in one shape, whatever a driver says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from csi_driver.cinderlib.stats import normalised, with_pools
from tests.unit.cinderlib.conftest import Loaded


def test_a_backend_without_pools_has_one_that_is_called_like_it() -> None:
    stats = normalised("old", {"total_capacity_gb": 100, "free_capacity_gb": 40.5})

    (pool,) = stats.pools
    assert (pool.name, pool.total_gib, pool.free_gib) == ("old", 100.0, 40.5)


def test_what_a_driver_without_pools_says_is_said_of_its_one_pool_too() -> None:
    said = {
        "vendor_name": "V",
        "driver_version": "1",
        "storage_protocol": "iSCSI",
        "total_capacity_gb": "infinite",
        "QoS_support": True,
    }

    assert with_pools("old", said) == {
        **said,
        "pools": [{"pool_name": "old", "total_capacity_gb": "infinite", "QoS_support": True}],
    }
    assert "pools" not in said


def test_what_a_driver_with_pools_says_stays_as_it_is() -> None:
    said = {"vendor_name": "V", "pools": [{"pool_name": "p", "total_capacity_gb": "unknown"}]}

    stats = normalised("b", said)

    assert stats.reported == said
    assert stats.reported["pools"][0] is not said["pools"][0], "the driver goes on with its own"


def test_no_statistics_at_all_are_a_pool_without_figures() -> None:
    (pool,) = normalised("mute", None).pools

    assert (pool.total_gib, pool.free_gib, pool.available_gib) == (None, None, None)


@pytest.mark.parametrize("word", ["infinite", "unknown", "", None, "inf", float("nan")])
def test_what_is_no_figure_is_none(word: object) -> None:
    (pool,) = normalised("b", {"total_capacity_gb": word, "free_capacity_gb": word}).pools

    assert (pool.total_gib, pool.free_gib) == (None, None)
    assert (pool.available_gib, pool.largest_volume_gib) == (None, None)


def test_numbers_may_be_text() -> None:
    (pool,) = normalised("b", {"total_capacity_gb": "12", "free_capacity_gb": "1.5"}).pools

    assert (pool.total_gib, pool.free_gib) == (12.0, 1.5)


def test_a_pool_inherits_what_only_the_backend_says() -> None:
    stats = normalised(
        "b", {"multiattach": True, "reserved_percentage": 7, "pools": [{"pool_name": "p"}]}
    )

    assert stats.pools[0].multiattach
    assert stats.pools[0].reserved_percentage == 7
    assert stats.multiattach


def test_a_thick_pool_has_what_is_free_beyond_the_reserve() -> None:
    pool = {"pool_name": "p", "total_capacity_gb": 100, "free_capacity_gb": 30}
    (known,) = normalised("b", {"pools": [{**pool, "reserved_percentage": 10}]}).pools

    assert known.available_gib == 20.0
    assert known.largest_volume_gib == 90.0


def test_a_thin_pool_may_be_promised_several_times() -> None:
    pool = {
        "pool_name": "p",
        "total_capacity_gb": 100,
        "free_capacity_gb": 30,
        "provisioned_capacity_gb": 120,
        "thin_provisioning_support": True,
        "max_over_subscription_ratio": "2.0",
    }
    (known,) = normalised("b", {"pools": [pool]}).pools

    assert known.available_gib == 80.0
    assert known.largest_volume_gib == 200.0


def test_the_automatic_ratio_follows_what_is_used() -> None:
    pool = {
        "pool_name": "p",
        "total_capacity_gb": 100,
        "free_capacity_gb": 81,
        "provisioned_capacity_gb": 40,
        "thin_provisioning_support": True,
        "max_over_subscription_ratio": "auto",
    }

    assert normalised("b", {"pools": [pool]}).pools[0].max_over_subscription == 3.0


def test_the_first_of_several_names_of_a_protocol_is_taken() -> None:
    assert normalised("b", {"storage_protocol": ["iSCSI", "iscsi"]}).protocol == "iSCSI"


def test_statistics_are_asked_once_and_again_on_demand(loaded: Loaded) -> None:
    asked = loaded.faults.operations().count("get_volume_stats")
    loaded.manager.stats()
    loaded.manager.stats()
    assert loaded.faults.operations().count("get_volume_stats") == asked

    loaded.manager.stats(refresh=True)
    assert loaded.faults.operations().count("get_volume_stats") == asked + 1


def test_a_legacy_driver_s_only_pool_takes_its_volumes(load: Callable[..., Loaded]) -> None:
    loaded = load(double_pools=[], double_multiattach=False)

    assert loaded.made_volume().pool == loaded.manager.name
    assert loaded.manager.multiattach is False


def test_a_host_local_backend_names_its_host(load: Callable[..., Loaded]) -> None:
    from csi_driver.cinderlib.runtime import bootstrap

    assert load(double_host_local=True).manager.accessible_from_host == bootstrap.active().host
    assert load().manager.accessible_from_host is None
