"""Backends as a program makes, asks and closes them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import csi_driver
import csi_driver.cinderlib as cinderlib
from csi_driver.cinderlib import session
from csi_driver.cinderlib.persistence.memory import MemoryStore
from csi_driver.cinderlib.runtime import bootstrap
from tests.doubles import faults
from tests.doubles.faults import VendorError
from tests.unit.cinderlib.conftest import DOUBLE, Make


def test_a_backend_is_one_instance_for_one_configuration(make: Make, free_name: str) -> None:
    first = make(double_total_gib=5, double_pools=["a"])

    assert make(double_total_gib=5, double_pools=["a"]) is first
    assert cinderlib.Backend.backends == {free_name: first}
    with pytest.raises(ValueError, match="another configuration"):
        make(double_total_gib=6, double_pools=["a"])


def test_what_a_program_changes_in_its_own_list_later_changes_no_backend(make: Make) -> None:
    pools = ["a"]
    first = make(double_pools=pools)
    pools.append("b")

    assert make(double_pools=["a"]) is first
    with pytest.raises(cinderlib.BackendExists):
        make(double_pools=pools)


def test_threads_that_ask_for_a_backend_at_once_get_one(make: Make) -> None:
    with ThreadPoolExecutor(8) as pool:
        backends = list(pool.map(lambda _: make(), range(8)))

    assert len({id(backend) for backend in backends}) == 1
    assert faults.of_backend(backends[0].id).operations().count("do_setup") == 1


def test_a_backend_that_takes_long_to_set_up_keeps_no_other_waiting(
    make: Make, free_name: str
) -> None:
    gate = faults.of_backend(free_name).hold("do_setup")
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(make)
        gate.wait_until_entered()
        # Also while another thread asks for the slow one.
        again = pool.submit(make)

        other = make(f"{free_name}-other")
        assert cinderlib.Backend.backends == {other.id: other}
        other.close()

        gate.release()
        assert slow.result(60) is again.result(60)


def test_many_threads_make_use_and_close_backends(make: Make, free_name: str) -> None:
    def life(number: int) -> set[str]:
        seen: set[str] = set()
        for _ in range(8):
            backend = make(f"{free_name}-{number % 3}")
            # Another thread may close it: a program's own mistake, but never a broken table.
            seen |= {name for name, known in cinderlib.Backend.backends.items() if known.id == name}
            backend.close()
        return seen

    with ThreadPoolExecutor(6) as pool:
        seen = set().union(*pool.map(life, range(6)))

    assert seen == {f"{free_name}-{number}" for number in range(3)}
    assert cinderlib.Backend.backends == {}
    assert make(f"{free_name}-0").initialized


def test_a_backend_tells_about_itself_and_lets_its_driver_tell_the_rest(make: Make) -> None:
    backend = make(double_pools=["a", "b"], double_password="hush")

    assert backend.pool_names == ("a", "b")
    assert [pool["pool_name"] for pool in backend.pools] == ["a", "b"]
    assert backend.config == {"volume_backend_name": backend.id}
    assert backend.initialized
    assert backend.get_version() == "1.2.3"
    with pytest.raises(AttributeError):
        _ = backend.nothing_like_this


def test_statistics_are_the_dictionary_of_the_driver_and_remembered(make: Make) -> None:
    backend = make(double_total_gib=20.5)
    operations = faults.of_backend(backend.id).operations

    told = backend.stats()
    asked = operations().count("get_volume_stats")
    told["pools"][0]["pool_name"] = told["vendor_name"] = "spoiled by the caller"
    backend.create_volume(3)
    again = backend.stats()

    assert (again["vendor_name"], again["volume_backend_name"]) == ("Doubles", backend.id)
    assert again["pools"][0]["total_capacity_gb"] == 20.5
    assert operations().count("get_volume_stats") == asked
    free = again["pools"][0]["free_capacity_gb"]
    assert backend.stats(refresh=True)["pools"][0]["free_capacity_gb"] == free - 3


def test_the_options_are_shown_to_those_who_asked_for_that(
    make: Make,
    runtime: bootstrap.RuntimeSettings,
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = session.LibraryOptions(output_all_backend_info=True)
    monkeypatch.setattr(session, "_session", session.Session(runtime, store, options))
    backend = make(double_password="hush", double_pools=["a"])

    backend.config["double_pools"].append("spoiled by the caller")

    assert backend.config == {
        "volume_backend_name": backend.id,
        "volume_driver": DOUBLE,
        "double_password": "hush",
        "double_pools": ["a"],
    }


def test_volumes_are_filtered_by_id_and_name_within_the_backend(make: Make, free_name: str) -> None:
    first, second = make(), make(f"{free_name}-b")
    a, b = first.create_volume(1, name="same"), first.create_volume(1, name="same")
    c = second.create_volume(1, name="same")

    def ids(backend: cinderlib.Backend, **filters: str) -> set[str]:
        return {volume.id for volume in backend.volumes_filtered(**filters)}

    assert ids(first) == ids(first, volume_name="same") == {a.id, b.id}
    assert ids(first, volume_id=a.id) == ids(first, volume_id=a.id, volume_name="same") == {a.id}
    assert ids(first, volume_id=c.id) == ids(first, volume_name="other") == set()


def test_the_driver_says_whether_a_host_can_be_connected(make: Make) -> None:
    from cinder import exception

    backend = make()
    backend.validate_connector({"host": "h", "ip": "192.0.2.1"})

    def refuse(connector: Any) -> None:
        raise exception.InvalidConnectorException(missing="initiator")

    backend.driver.validate_connector = refuse
    with pytest.raises(exception.InvalidConnectorException):
        backend.validate_connector({"host": "h"})


def test_the_class_tells_of_the_process(make: Make) -> None:
    backend = make()

    assert cinderlib.Backend.global_initialization is True
    assert backend.project_id == cinderlib.Backend.project_id == cinderlib.DEFAULT_PROJECT_ID
    assert backend.user_id == cinderlib.Backend.user_id == cinderlib.DEFAULT_USER_ID
    assert cinderlib.Backend.global_setup is cinderlib.setup
    assert cinderlib.__version__ == csi_driver.__version__


def test_a_closed_backend_may_be_made_anew(make: Make) -> None:
    first = make()
    first.close()

    again = make(double_total_gib=3)
    first.close()

    assert again.pools[0]["total_capacity_gb"] == 3
    assert cinderlib.Backend.named(again.id) is again


def test_a_backend_whose_setup_failed_may_be_made_again(make: Make, free_name: str) -> None:
    faults.of_backend(free_name).fail("do_setup", VendorError("array unreachable"))

    with pytest.raises(cinderlib.BackendSetupFailed):
        make()

    assert cinderlib.Backend.backends == {}
    assert make().initialized
