"""Loads a Cinder volume driver with its configuration and brings it up.

Called by :mod:`csi_driver.cinderlib.manager`, once per backend.  Does what
``cinder.volume.manager`` does in ``__init__`` and ``_init_host``: a configuration
group, the driver's options in it, the driver, ``do_setup`` and the rest.  Options
come as a dictionary instead of a section of cinder.conf; oslo.config still checks
them, so a wrong type is found here and not in the middle of an attach.
"""

from __future__ import annotations

import difflib
import importlib
import logging
from collections.abc import Mapping
from typing import Any

from csi_driver.base.masking import SECRETS, is_secret_name
from csi_driver.cinderlib.exceptions import (
    BackendSetupFailed,
    InvalidOption,
    UnknownDriver,
    UnknownOption,
)
from csi_driver.cinderlib.failures import classify
from csi_driver.cinderlib.runtime import bootstrap, quirks

LOG = logging.getLogger(__name__)

GROUP_PREFIX = "backend-"
"""Prefix of configuration groups: a backend called "host" must not replace CONF.host."""

_OURS = ("volume_driver", "volume_backend_name")


def load(name: str, options: Mapping[str, Any], *, is_empty: bool) -> Any:
    """Load and set up the driver of one backend.

    :param options: ``volume_driver`` and the driver's options, as in cinder.conf.
    :param is_empty: whether no volume of this backend is recorded.
    :returns: the driver, initialised.
    :raises UnknownDriver: there is no such driver class.
    :raises UnknownOption: the driver has no such option; names the nearest.
    :raises InvalidOption: a value is missing or not of the option's type.
    :raises BackendSetupFailed: the driver's own setup failed.
    :raises NotSetUp: the process is not set up.
    """
    bootstrap.active()
    driver_class = find_class(str(options.get("volume_driver") or ""))
    configuration = configure(name, driver_class, options)
    quirks.before_init(driver_class, configuration, options)
    try:
        driver = driver_class(
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


def host_of(name: str) -> str:
    """``HOST@BACKEND``, as Cinder calls the backend of a service."""
    return f"{bootstrap.active().host}@{name}"


def find_class(path: str) -> Any:
    """The driver class with this full name.

    :raises UnknownDriver: the module or the class does not exist, or cannot be imported.
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
            raise UnknownDriver(
                f"Driver {path} needs the Python module {missing!r}",
                advice="Install the vendor's package beside this one",
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


def configure(name: str, driver_class: Any, options: Mapping[str, Any]) -> Any:
    """The ``cinder.volume.configuration.Configuration`` of one backend.

    A group that an earlier backend of this name left behind starts anew.

    :raises UnknownOption: the driver has no such option.
    :raises InvalidOption: a value is missing or not of the option's type.
    """
    from cinder.volume import configuration as cinder_configuration
    from cinder.volume import driver as base_driver
    from oslo_config import cfg

    group = GROUP_PREFIX + name
    driver_options = quirks.driver_options(driver_class)
    cfg.CONF.register_group(cfg.OptGroup(group))
    made = cinder_configuration.Configuration(base_driver.volume_opts, config_group=group)
    made.append_config_values(driver_options)
    for known in cfg.CONF[group]:
        cfg.CONF.clear_override(known, group=group)
    cfg.CONF.set_override("volume_backend_name", name, group=group)
    values = {key.replace("-", "_"): value for key, value in options.items()}
    for key, value in values.items():
        if is_secret_name(key):
            SECRETS.learn(str(value), keep=True)
        if key not in _OURS and key not in quirks.ATTRIBUTES:
            _set(name, made, _option(name, driver_class, made, key), value)
    _require(name, made, driver_options)
    return made


def _option(name: str, driver_class: Any, configuration: Any, key: str) -> Any:
    """The declaration of an option, made known to the backend's group if need be."""
    from oslo_config import cfg

    declared = _declared(configuration.config_group)
    # Options of base classes that get_driver_options() leaves out are in the group
    # which Cinder shares among backends, as soon as the driver's module is imported.
    shared = _declared(cinder_shared_group())
    option = declared.get(key) or shared.get(key)
    if option is None:
        for candidate in (*declared.values(), *shared.values()):
            if key in {old.name for old in candidate.deprecated_opts}:
                option = candidate
                break
    if option is None:
        raise _unknown(name, driver_class, key, {*declared, *shared})
    if option.name not in cfg.CONF[configuration.config_group]:
        configuration.append_config_values([option])
    return option


def _unknown(name: str, driver_class: Any, key: str, known: set[str]) -> UnknownOption:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return UnknownOption(
        f"Backend {name!r}: {driver_class.__name__} has no option {key!r}",
        advice=f"Did you mean {near[0]!r}?" if near else "See the driver's documentation",
    )


def _set(name: str, configuration: Any, option: Any, value: Any) -> None:
    """Give an option its value, checked against its type by oslo.config."""
    from oslo_config import cfg

    if option.secret and isinstance(value, str):
        SECRETS.learn(value, keep=True)
        # Options may refer to others by $name; a password holds a plain dollar sign.
        value = value.replace("$", "$$")
    try:
        cfg.CONF.set_override(option.name, value, group=configuration.config_group)
        getattr(configuration, option.name)
    except (ValueError, TypeError, AttributeError, cfg.Error) as error:
        # The reason may quote the value, and that may be a password.
        why = "the value is refused" if option.secret else " ".join(str(error).split())
        raise InvalidOption(
            f"Backend {name!r}: option {option.name!r} cannot have this value: {why}",
            advice=f"Its type is {type(option.type).__name__}",
        ) from error


def _require(name: str, configuration: Any, driver_options: list[Any]) -> None:
    missing = [
        option.name
        for option in driver_options
        if option.required and getattr(configuration, option.name) is None
    ]
    if missing:
        raise InvalidOption(f"Backend {name!r}: no value for {', '.join(missing)}")


def _declared(group: str) -> dict[str, Any]:
    # Cinder itself reads declarations this way (BaseVD._get_oslo_driver_opts).
    from oslo_config import cfg

    return {name: entry["opt"] for name, entry in cfg.CONF[group]._group._opts.items()}


def cinder_shared_group() -> str:
    """The group in which Cinder keeps what backends have in common."""
    from cinder.volume import configuration

    return str(configuration.SHARED_CONF_GROUP)


def _warn_if_unsupported(name: str, driver: Any) -> None:
    if driver.supported or driver.configuration.safe_get("enable_unsupported_driver"):
        return
    LOG.warning(
        "Backend %r: Cinder calls driver %s unsupported and may remove it;"
        " set enable_unsupported_driver to say that this is known",
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
