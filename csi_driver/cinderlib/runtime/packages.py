"""Python packages of vendors that drivers need, and the versions that work.

Called by :mod:`csi_driver.cinderlib.runtime.drivers` before a driver is made.  Without
the package most drivers load all the same and fail later with words of their own, some
only when they are first used; with a wrong version the failure comes in the middle of a
volume's life.  So both are refused here, by name.

Ranges: what this project has tested where it has (krest); else what the installed Cinder
asks for in its own extras.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

from packaging.specifiers import SpecifierSet

from csi_driver.cinderlib.exceptions import MissingPackage


@dataclass(frozen=True)
class Package:
    """A package of a vendor.

    :param module: what drivers import.
    :param distribution: its name on PyPI; '' for one that only distributions have.
    :param tested: versions that this project has tested; '' leaves it to Cinder's range.
    :param why: what is wrong with the others.
    :param extra: the extra of this project that installs it.
    :param system: how to get it where PyPI does not have it.
    """

    module: str
    distribution: str = ""
    tested: str = ""
    why: str = ""
    extra: str = ""
    system: str = ""

    @property
    def range(self) -> str:
        """The versions that are accepted, as a specifier; '' for any."""
        return self.tested or _asked_by_cinder(self.distribution)

    @property
    def requirement(self) -> str:
        """What to install, for people."""
        return f"{self.distribution}{self.range}" if self.distribution else self.system

    @property
    def advice(self) -> str:
        """How to install it."""
        if self.extra:
            return f"Install cinder-csi-driver[{self.extra}], or {self.requirement}"
        if self.distribution:
            return f"Install {self.requirement} beside this package"
        return f"Install {self.system}, for the same Python that runs this"


_CEPH = "of the system's packages (Debian: python3-{0}; Fedora: python3-{0})"

PACKAGES: Mapping[str, Package] = {
    package.module: package
    for package in (
        Package("dfs_sdk", "dfs-sdk"),
        Package("hpe3parclient", "python-3parclient"),
        Package("hpe_storage_flowkit_py", "hpe-storage-flowkit-py"),
        Package("infinisdk", "infinisdk"),
        Package(
            "krest",
            "krest",
            tested=">=1.3.2,<1.3.8",
            why="1.3.8 fails to create anything (it copies a lock), up to 1.3.1 Python 3 fails",
            extra="kaminario",
        ),
        Package("linstor", "python-linstor"),
        Package("pypureclient", "py-pure-client"),
        Package("pywbem", "pywbem"),
        Package("rados", system="rados " + _CEPH.format("rados")),
        Package("rbd", system="rbd " + _CEPH.format("rbd")),
        Package("rbd_iscsi_client", "rbd-iscsi-client"),
        Package("rsd_lib", "rsd-lib"),
        Package("storops", "storops"),
        Package("websocket", "websocket-client"),
    )
}
"""By module."""


def require(module: str, driver: str) -> None:
    """Make sure that a module of :data:`PACKAGES` is there, in a version that works.

    :param driver: for whom; named in the message.
    :raises MissingPackage: it is not, or of a version outside the range.
    """
    package = PACKAGES[module]
    if not _importable(package.module):
        raise MissingPackage(
            f"Driver {driver} needs the Python module {package.module!r}", advice=package.advice
        )
    version = _version(package.distribution)
    if version and not SpecifierSet(package.range).contains(version, prereleases=True):
        why = f": {package.why}" if package.why else ""
        raise MissingPackage(
            f"Driver {driver} does not work with {package.distribution} {version}, only with"
            f" {package.range}{why}",
            advice=package.advice,
        )


def advice_for(module: str) -> str | None:
    """How to install what ``import module`` needs; None when nothing is known of it."""
    package = PACKAGES.get(module.partition(".")[0])
    return package.advice if package else None


def _importable(module: str) -> bool:
    return module in sys.modules or importlib.util.find_spec(module) is not None


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution) if distribution else ""
    except metadata.PackageNotFoundError:
        # Put on the path by other means: nothing is known of its version.
        return ""


def _asked_by_cinder(distribution: str) -> str:
    for line in metadata.requires("cinder") or ():
        found = re.match(r"([A-Za-z0-9._-]+)\s*([^;]*)", line)
        if found and distribution and _same(found[1], distribution):
            return found[2].strip()
    return ""


def _same(one: str, other: str) -> bool:
    """Whether two names of distributions are one (PEP 503)."""
    return re.sub(r"[-_.]+", "-", one).lower() == re.sub(r"[-_.]+", "-", other).lower()
