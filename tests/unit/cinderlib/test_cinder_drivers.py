"""Every volume driver of the installed Cinder loads on the stand-ins."""

from __future__ import annotations

from pathlib import Path

from tests.unit.cinderlib.test_bootstrap import run, set_up

LOAD = """
import ast, pathlib
import cinder
from csi_driver.cinderlib.runtime import drivers, options

root = pathlib.Path(cinder.__file__).parent

def classes():
    for path in sorted((root / "volume" / "drivers").rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and any(
                "volumedriver" in ast.unparse(decorator) for decorator in node.decorator_list
            ):
                module = ".".join(path.relative_to(root.parent).with_suffix("").parts)
                yield module.removesuffix(".__init__") + "." + node.name

def load(name):
    try:
        options.configure(name, drivers.find_class(name), {})
    except Exception as error:
        return f"{type(error).__name__}: {error}"
"""

HPE_3PAR = {
    "cinder.volume.drivers.hpe.hpe_3par_fc.HPE3PARFCDriver",
    "cinder.volume.drivers.hpe.hpe_3par_iscsi.HPE3PARISCSIDriver",
}
"""Declare options of the same names as Alletra MP's drivers, but other ones."""


def test_every_driver_can_be_imported_and_configured_in_one_process(tmp_path: Path) -> None:
    found, failed = run(
        set_up(tmp_path)
        + LOAD
        + """
found = list(classes())
failed = {name: why for name in found if (why := load(name)) is not None}
print(json.dumps([len(found), failed]))
"""
    )

    assert found > 90
    assert set(failed) == HPE_3PAR
    assert all("processes of their own" in why for why in failed.values())


def test_a_driver_whose_options_collide_with_another_s_loads_alone(tmp_path: Path) -> None:
    result = run(
        set_up(tmp_path)
        + LOAD
        + f"""
print(json.dumps([load(name) for name in {sorted(HPE_3PAR)!r}]))
"""
    )

    assert result == [None, None]
