"""Every driver is classified by what its deletion proves; what is unknown proves nothing."""

from __future__ import annotations

import ast
import importlib.util
from collections import Counter
from pathlib import Path

import pytest

from csi_driver.cinderlib.runtime.removal import FAMILIES, Proof, removal
from tests.support import cinder_process
from tests.unit.cinderlib.test_bootstrap import run, set_up

CLASSIFIED = Counter(name for family in FAMILIES for name in family.drivers)


def installed() -> set[str]:
    """Driver classes of the installed Cinder, by the decorator that registers them."""
    spec = importlib.util.find_spec("cinder")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent / "volume" / "drivers"
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        + f".{node.name}"
        for path in root.rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
        and any("volumedriver" in ast.unparse(decorator) for decorator in node.decorator_list)
    }


def test_every_driver_of_cinder_is_classified():
    new = installed() - CLASSIFIED.keys()
    assert not new, (
        f"Drivers without a row in csi_driver/cinderlib/runtime/removal.py: {sorted(new)}. Read"
        " their delete_volume and delete_snapshot: do they find an object by its id alone, and is"
        " a failed lookup an error?"
    )


def test_no_driver_is_classified_that_cinder_does_not_have():
    assert CLASSIFIED.keys() <= installed()


def test_no_driver_is_classified_twice():
    assert [name for name, times in CLASSIFIED.items() if times > 1] == []


class Foreign:
    """A driver from elsewhere."""


class Proving(Foreign):
    removal_proves_absence = True


@pytest.mark.parametrize("kind", ["volume", "snapshot"])
def test_a_driver_from_elsewhere_proves_nothing_unless_it_says_so(kind):
    assert removal(Foreign(), kind).proof is Proof.NOTHING
    assert removal(Proving(), kind).proof is Proof.ANSWER


@pytest.mark.parametrize("kind", ["volume", "snapshot"])
def test_the_embedded_driver_proves_absence(kind):
    cinder_process.set_up()
    from csi_driver.drivers.file import FileVolumeDriver

    class Derived(FileVolumeDriver):
        pass

    assert removal(FileVolumeDriver, kind).proof is Proof.ANSWER
    assert removal(Derived, kind).proof is Proof.NOTHING, "it may delete otherwise"


def test_drivers_that_need_what_creation_returned_answer_ok_for_what_they_cannot_find(
    tmp_path: Path,
) -> None:
    """The drivers themselves: without any set-up, so they cannot have looked anywhere."""
    outcomes = run(
        set_up(tmp_path)
        + """
import logging, types
from csi_driver.cinderlib.runtime import drivers

logging.disable()  # they warn that they skip it
nothing = dict(id="1", name="one", name_id="1", provider_location=None, provider_id=None)

def answer(name, method):
    driver = drivers.find_class("cinder.volume.drivers." + name)
    lost = types.SimpleNamespace(**nothing)
    lost.get = nothing.get
    return getattr(driver, method)(driver.__new__(driver), lost)

print(json.dumps([
    answer("nfs.NfsDriver", "delete_volume"),
    answer("quobyte.QuobyteDriver", "delete_volume"),
    answer("vmware.fcd.VMwareVStorageObjectDriver", "delete_snapshot"),
]))
"""
    )

    assert outcomes == [None, None, None]
