"""Every volume driver of the installed Cinder loads on the stand-ins, and is listed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from csi_driver.cinderlib.exceptions import UnknownDriver
from csi_driver.cinderlib.runtime import catalog, drivers
from tests.unit.cinderlib.test_bootstrap import run, set_up


def test_every_driver_can_be_imported_and_configured_in_one_process(tmp_path: Path) -> None:
    configured, failed = run(
        set_up(tmp_path)
        + """
from csi_driver.cinderlib.runtime import catalog, drivers, options

def load(entry):
    try:
        options.configure(entry.short_name, drivers.find_class(entry.path), {})
    except Exception as error:
        return f"{type(error).__name__}: {error}"

outcomes = {name: load(entry) for name, entry in catalog.ENTRIES.items()}
print(json.dumps([
    [name for name, why in outcomes.items() if why is None],
    {name: why for name, why in outcomes.items() if why is not None},
]))
"""
    )

    assert failed == {}
    assert configured == [*catalog.ENTRIES]


def test_every_driver_is_listed_with_its_options(tmp_path: Path) -> None:
    children, texts, typed = run(
        f"""
import csi_driver.cinderlib as cinderlib
def forbidden(event, arguments):
    if event in ("os.fork", "os.posix_spawn", "subprocess.Popen"):
        children.append(event)
children = []
cinderlib.setup({str(tmp_path)!r})
sys.addaudithook(forbidden)
texts, typed = cinderlib.list_supported_drivers(), cinderlib.list_supported_drivers(2)
print(json.dumps([children, texts, typed]))
"""
    )

    assert children == []
    paths = {entry.path for entry in catalog.ENTRIES.values()}
    assert {driver["class_fqn"] for driver in texts.values()} == paths
    assert texts.keys() == typed.keys()
    for name, driver in texts.items():
        assert name in (driver["class_name"], driver["class_fqn"])
        assert driver.keys() == {
            *("ci_wiki_name", "class_fqn", "class_name", "desc"),
            *("driver_options", "supported", "version"),
        }
        assert all(
            isinstance(value, str)
            for option in driver["driver_options"]
            for value in option.values()
        )
        assert [option["name"] for option in driver["driver_options"]] == [
            option["name"] for option in typed[name]["driver_options"]
        ]
    assert texts["NexentaISCSIDriver"]["class_fqn"].endswith("ns5.iscsi.NexentaISCSIDriver")

    (group,) = (
        o for o in texts["LVMVolumeDriver"]["driver_options"] if o["name"] == "volume_group"
    )
    assert (group["default"], group["required"]) == ("cinder-volumes", "False")
    (port,) = (o for o in typed["LVMVolumeDriver"]["driver_options"] if o["name"] == "target_port")
    assert port["default"] == 3260
    assert port["type"]["type_class"] == "Port"
    assert port["type"]["max"] == 65535
    assert _names(typed["RBDDriver"]) >= {"rbd_pool", "rbd_keyring_conf"}
    assert typed["RBDDriver"]["short_name"] == "rbd"
    assert typed["RBDDriver"]["active_active"] is True
    assert typed["KaminarioISCSIDriver"]["packages"] == ["krest>=1.3.2,<1.3.8"]
    unsupported = {name for name, driver in typed.items() if not driver["supported"]}
    assert {"XtremIOISCSIDriver", "VNXDriver", "QnapISCSIDriver"} < unsupported
    assert len(unsupported) == 11
    json.dumps(typed, allow_nan=False)


def _names(driver: dict[str, list[dict[str, str]]]) -> set[str]:
    return {option["name"] for option in driver["driver_options"]}


def test_an_output_version_that_does_not_exist_is_refused() -> None:
    from csi_driver.cinderlib import list_supported_drivers

    with pytest.raises(ValueError, match="1 or 2, not 3"):
        list_supported_drivers(3)


def test_a_driver_whose_options_collide_with_another_s_is_refused_with_advice(
    runtime: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "colliding.py").write_text(
        "from oslo_config import cfg\n"
        "import cinder.volume.driver\n"
        "cfg.CONF.register_opts([cfg.StrOpt('target_port')], group='backend_defaults')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(UnknownDriver, match=r"'target_port' otherwise.*processes of their own"):
        drivers.find_class("colliding.Driver")
