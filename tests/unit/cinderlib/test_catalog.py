"""The table of drivers is complete, its names lead to classes, and packages are asked for."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from csi_driver.cinderlib.exceptions import MissingPackage, UnknownDriver
from csi_driver.cinderlib.runtime import catalog, drivers, packages
from tests.unit.cinderlib.test_removal import installed


def test_every_driver_of_cinder_has_a_short_name_and_no_other_has() -> None:
    assert {catalog.CINDER + name for name in installed()} == {
        entry.path for entry in catalog.ENTRIES.values() if entry.path != catalog.FILE_DRIVER
    }


def test_short_names_are_unique_words() -> None:
    names = [row[0] for row in catalog._ROWS]

    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)


@pytest.mark.parametrize("entry", catalog.ENTRIES.values(), ids=lambda entry: entry.short_name)
def test_the_transport_is_the_one_that_the_class_is_named_after(entry: catalog.Entry) -> None:
    for word, transport in (
        ("ISCSI", "iSCSI"),
        ("FC", "FC"),
        ("FibreChannel", "FC"),
        ("NVM", "NVMe-oF"),
        ("N[Ff][Ss]", "NFS"),
    ):
        if re.search(word, entry.class_name) and entry.class_name != "VMwareVStorageObjectDriver":
            assert entry.transports == (transport,)


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("lvm", "cinder.volume.drivers.lvm.LVMVolumeDriver"),
        ("XtremIO-iSCSI", "cinder.volume.drivers.dell_emc.xtremio.XtremIOISCSIDriver"),
        ("file", "csi_driver.drivers.file.FileVolumeDriver"),
        (
            "cinder.volume.drivers.dell_emc.vmax.fc.VMAXFCDriver",
            "cinder.volume.drivers.dell_emc.powermax.fc.PowerMaxFCDriver",
        ),
        ("somebody.elses.Driver", "somebody.elses.Driver"),
    ],
)
def test_a_driver_is_found_by_short_name_old_name_or_full_name(given: str, path: str) -> None:
    assert catalog.path_of(given) == path


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("", "No volume_driver is given. Give a short name"),
        ("kaminaro", "'kaminaro', which is no driver. Did you mean 'kaminario_iscsi'? Give a"),
        ("xtremio", "Did you mean 'xtremio_fc' or 'xtremio_iscsi'? Give a short name"),
        ("nothing-like-it", "which is no driver. Give a short name"),
    ],
)
def test_a_wrong_short_name_is_refused_and_may_name_the_nearest(given: str, says: str) -> None:
    with pytest.raises(UnknownDriver) as raised:
        catalog.path_of(given)

    assert says in str(raised.value)


def test_old_names_are_those_that_cinder_takes(runtime: object) -> None:
    from cinder.volume import manager

    assert dict(catalog.MOVED) == dict(manager.MAPPING)


def test_every_package_is_known_and_has_a_range_unless_it_is_the_system_s() -> None:
    named = {module for entry in catalog.ENTRIES.values() for module in entry.packages}

    assert named == packages.PACKAGES.keys()
    for package in packages.PACKAGES.values():
        assert bool(package.range) == bool(package.distribution)
        assert package.requirement in package.advice


def distribution(directory: Path, name: str, version: str) -> None:
    """An installed distribution, as far as its metadata and an empty module go."""
    (directory / f"{name}.py").touch()
    info = directory / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.mark.parametrize("version", ["1.3.1", "1.3.8", "2.0"])
def test_a_version_that_does_not_work_is_refused_with_the_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    distribution(tmp_path, "krest", version)
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(MissingPackage) as raised:
        packages.require("krest", "Kaminario")

    assert f"krest {version}, only with >=1.3.2,<1.3.8: 1.3.8 fails" in str(raised.value)
    assert "cinder-csi-driver[kaminario]" in str(raised.value)


@pytest.mark.parametrize("version", ["1.3.2", "1.3.7"])
def test_a_version_that_works_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    distribution(tmp_path, "krest", version)
    monkeypatch.syspath_prepend(tmp_path)

    packages.require("krest", "Kaminario")


def test_a_backend_without_its_vendor_s_package_is_refused_before_the_driver_is_made(
    runtime: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "storops", raising=False)
    with pytest.raises(MissingPackage, match=r"module 'storops'. Install storops>="):
        drivers.load("u", {"volume_driver": "unity", "san_ip": "192.0.2.1"}, is_empty=True)
