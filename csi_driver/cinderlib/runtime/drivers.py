"""Loads a Cinder volume driver with its configuration and brings it up.

Called by :mod:`csi_driver.cinderlib.manager`, once per backend.  Does what
``cinder.volume.manager`` does in ``__init__`` and ``_init_host``: a configuration group
with the driver's options (:mod:`~csi_driver.cinderlib.runtime.options`), the driver,
``do_setup`` and the rest.  No lock is held: a slow array keeps no other backend waiting.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from typing import Any

from csi_driver.cinderlib.exceptions import (
    BackendSetupFailed,
    MissingPackage,
    UnknownDriver,
    UnsupportedDriver,
)
from csi_driver.cinderlib.failures import classify
from csi_driver.cinderlib.runtime import bootstrap, catalog, packages, quirks
from csi_driver.cinderlib.runtime.options import configure

LOG = logging.getLogger(__name__)


def load(name: str, options: Mapping[str, Any], *, is_empty: bool) -> Any:
    """Load and set up the driver of one backend.

    :param options: ``volume_driver`` and the driver's options, as in cinder.conf.
    :param is_empty: whether no volume of this backend is recorded.
    :returns: the driver, initialised.
    :raises UnknownDriver: there is no such driver class.
    :raises MissingPackage: it needs a vendor's package, or another version of it.
    :raises UnknownOption: the driver has no such option; names the nearest.
    :raises InvalidOption: a value is missing or not of the option's type.
    :raises BackendSetupFailed: the driver's own setup failed.
    :raises NotSetUp: the process is not set up.
    """
    bootstrap.active()
    driver_class = _driver_class(options)
    configuration = configure(name, driver_class, options)
    quirks.before_init(driver_class, configuration, options)
    try:
        driver = quirks.corrected(driver_class)(
            configuration=configuration,
            host=host_of(name),
            cluster_name=None,
            active_backend_id=None,
            is_vol_db_empty=is_empty,
        )
        _warn_if_unsupported(name, driver)
        _start(driver)
    except Exception as error:
        raise BackendSetupFailed(
            f"Backend {name!r} ({driver_class.__name__}) cannot be set up:"
            f" {classify(error).message}"
        ) from error
    return driver


def refuse_unsupported(name: str, options: Mapping[str, Any]) -> None:
    """Refuse a driver that Cinder calls unsupported, unless the options say that this is known.

    For whoever runs volumes for others; a program of its own is only warned (:func:`load`).

    :raises UnsupportedDriver: ``enable_unsupported_driver`` is not set.
    :raises UnknownDriver, MissingPackage: as for :func:`load`.
    """
    from oslo_utils import strutils

    driver_class = _driver_class(options)
    known = strutils.bool_from_string(options.get("enable_unsupported_driver"))
    if not known and not getattr(driver_class, "SUPPORTED", True):
        raise UnsupportedDriver(
            f"Backend {name!r}: Cinder calls driver {driver_class.__name__} unsupported"
        )


def _driver_class(options: Mapping[str, Any]) -> Any:
    path = catalog.path_of(str(options.get("volume_driver") or ""))
    entry = catalog.entry_of(path)
    for module in entry.packages if entry else ():
        packages.require(module, path)
    return find_class(path)


def host_of(name: str) -> str:
    """``HOST@BACKEND``, as Cinder calls the backend of a service."""
    return f"{bootstrap.active().host}@{name}"


def find_class(path: str) -> Any:
    """The driver class with this full name.

    :raises UnknownDriver: the module or the class does not exist, or cannot be imported.
    :raises MissingPackage: the module needs another that is not there.
    """
    module_name, _, class_name = path.rpartition(".")
    if not module_name:
        raise UnknownDriver(f"volume_driver is {path!r}")
    from oslo_config import cfg

    try:
        module = importlib.import_module(module_name)
    except cfg.DuplicateOptError as error:
        raise UnknownDriver(
            f"Driver {path} declares option {error.opt_name!r} otherwise than a driver that"
            " is loaded already",
            advice="Run the two backends in processes of their own",
        ) from error
    except ImportError as error:
        missing = error.name or ""
        if missing and not module_name.startswith(missing):
            raise MissingPackage(
                f"Driver {path} needs the Python module {missing!r}",
                advice=packages.advice_for(missing),
            ) from error
        raise UnknownDriver(f"Driver {path} cannot be imported: {error}") from error
    from cinder.volume import driver as base_driver

    found = getattr(module, class_name, None)
    # ProxyVD: NetApp's one name for its drivers; it becomes one of them when it is made.
    if not isinstance(found, type) or not issubclass(
        found, (base_driver.BaseVD, base_driver.ProxyVD)
    ):
        raise UnknownDriver(f"{module_name} has no volume driver {class_name!r}")
    return found


def _warn_if_unsupported(name: str, driver: Any) -> None:
    if driver.supported or driver.configuration.safe_get("enable_unsupported_driver"):
        return
    LOG.warning(
        "Backend %r: Cinder calls driver %s unsupported (SUPPORTED is False: nobody tests it any"
        " more) and may remove it; set enable_unsupported_driver to say that this is known",
        name,
        type(driver).__name__,
    )


def _start(driver: Any) -> None:
    """Bring the driver up in the order of Cinder's manager (``_init_host``)."""
    from csi_driver.cinderlib.runtime import ovo

    driver.do_setup(ovo.request_context())
    driver.check_for_setup_error()
    driver.init_capabilities()
    driver.set_throttle()
    driver.set_initialized()
