"""A backend's options, as a program gives them, in Cinder's configuration.

Called by :mod:`csi_driver.cinderlib.runtime.drivers`.  Options come as a dictionary
instead of a section of cinder.conf; oslo.config still checks them, so a wrong type is
found here and not in the middle of an attach.  Names that Cinder gave up are taken and
said to be old; what no driver knows is refused with the nearest right name.

``_lock`` protects what backends share in oslo.config while one is configured.  It is not
held while a driver is made or set up.
"""

from __future__ import annotations

import difflib
import logging
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from csi_driver.base.errors import ConfigurationError
from csi_driver.base.masking import SECRETS, is_secret_name
from csi_driver.cinderlib.exceptions import InvalidOption, UnknownOption
from csi_driver.cinderlib.runtime import quirks

LOG = logging.getLogger(__name__)

GROUP_PREFIX = "backend-"
"""Prefix of configuration groups: a backend called "host" must not replace CONF.host."""

RENAMED: Mapping[str, str] = {
    "eqlx_chap_login": "chap_username",
    "eqlx_chap_password": "chap_password",
    "eqlx_use_chap": "use_chap_auth",
    "iscsi_helper": "target_helper",
    "iscsi_ip_address": "target_ip_address",
    "iscsi_port": "target_port",
    "iscsi_protocol": "target_protocol",
    "iscsi_target_prefix": "target_prefix",
    "lvm_max_over_subscription_ratio": "max_over_subscription_ratio",
    "netapp_storage_pools": "netapp_pool_name_search_pattern",
    "netapp_volume_list": "netapp_pool_name_search_pattern",
    "nfs_oversub_ratio": "max_over_subscription_ratio",
    "num_iscsi_scan_tries": "num_volume_device_scan_tries",
    "storage_vnx_pool_name": "storage_vnx_pool_names",
}
"""Names of older Cinder releases that the installed one knows no more, and today's.

Those that it still knows as deprecated are found in its own declarations.
"""

RENAMED_PREFIXES: Mapping[str, str] = {
    "hp3par_": "hpe3par_",
    "sio_": "powerflex_",
    "vmax_": "powermax_",
    "vxflexos_": "powerflex_",
}
"""Likewise, where a product got a new name."""

_OURS = ("volume_driver", "volume_backend_name")

# $$, $option, ${option}, ${backend.option}
_REFERENCE = re.compile(r"\$(?:\$|([A-Za-z_]\w*)|\{(?:([^}$]+)\.)?([A-Za-z_]\w*)\})")

_lock = threading.RLock()


def configure(name: str, driver_class: Any, options: Mapping[str, Any]) -> Any:
    """The ``cinder.volume.configuration.Configuration`` of one backend.

    A group that an earlier backend of this name left behind starts anew.

    :raises UnknownOption: the driver has no such option.
    :raises InvalidOption: a value is missing, not of the option's type, or given twice.
    """
    driver_options = quirks.driver_options(driver_class)
    with _lock:
        made = _empty(name, driver_options)
        given: dict[str, Given] = {}
        for spelt, value in options.items():
            key = spelt.replace("-", "_")
            if is_secret_name(key):
                SECRETS.learn(str(value), keep=True)
            if key in _OURS or key in quirks.ATTRIBUTES:
                continue
            option = _option(name, driver_class, made, key)
            if option.name in given:
                raise InvalidOption(
                    f"Backend {name!r}: {given[option.name].spelt!r} and {spelt!r} are one option",
                    advice=f"Give {option.name!r} once",
                )
            given[option.name] = Given(spelt, option, value)
        _Values(name, made, given).set_all()
        _require(name, made, driver_options)
        return made


def set_defaults(given: Mapping[str, Any]) -> None:
    """Set options of Cinder's section [DEFAULT], as ``setup`` was given them: all or none.

    :raises UnknownOption: Cinder has no such option there; names the nearest.
    :raises InvalidOption: a value is not of the option's type.
    """
    from oslo_config import cfg

    taken: list[str] = []
    try:
        for spelt, value in given.items():
            option = _default_option(spelt)
            taken.append(option.name)
            _set_default(spelt, option, value)
    except ConfigurationError:
        for name in taken:
            cfg.CONF.clear_override(name)
        raise


def _default_option(spelt: str) -> Any:
    from oslo_config import cfg

    declared = {name: entry["opt"] for name, entry in cfg.CONF._opts.items()}
    key = spelt.replace("-", "_")
    option = _find(key, declared, {})
    if option is None:
        advice = f"{nearest(key, declared)} Options of a driver are given to its Backend"
        raise UnknownOption(
            f"Cinder's section [DEFAULT] has no option {spelt!r}", advice=advice.lstrip()
        )
    return option


def _set_default(spelt: str, option: Any, value: Any) -> None:
    from oslo_config import cfg

    if option.secret or is_secret_name(option.name):
        SECRETS.learn(str(value), keep=True)
    try:
        cfg.CONF.set_override(option.name, value)
        getattr(cfg.CONF, option.dest)
    except (ValueError, TypeError, cfg.Error) as error:
        why = "the value is refused" if option.secret else " ".join(str(error).split())
        raise InvalidOption(
            f"Option {spelt!r} cannot have this value: {why}",
            advice=f"Its type is {type(option.type).__name__}",
        ) from error


def shared_group() -> str:
    """The group in which Cinder keeps what backends have in common."""
    from cinder.volume import configuration

    return str(configuration.SHARED_CONF_GROUP)


def nearest(key: str, *known: Mapping[str, Any]) -> str:
    """Advice on a name that does not exist: the nearest of the first mapping that has one."""
    for names in known:
        near = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
        if near:
            return f"Did you mean {near[0]!r}?"
    return ""


def _empty(name: str, driver_options: list[Any]) -> Any:
    """A configuration with the driver's options declared and none of them set."""
    from cinder.volume import configuration as cinder_configuration
    from cinder.volume import driver as base_driver
    from oslo_config import cfg

    group = GROUP_PREFIX + name
    cfg.CONF.register_group(cfg.OptGroup(group))
    made = cinder_configuration.Configuration(base_driver.volume_opts, config_group=group)
    made.append_config_values(driver_options)
    for known in _declared(group):
        cfg.CONF.clear_override(known, group=group)
    cfg.CONF.set_override("volume_backend_name", name, group=group)
    return made


def _option(name: str, driver_class: Any, configuration: Any, key: str) -> Any:
    """The declaration of an option, made known to the backend's group if need be."""
    from oslo_config import cfg

    declared = _declared(configuration.config_group)
    # Options of base classes that get_driver_options() leaves out are in the group
    # which Cinder shares among backends, as soon as the driver's module is imported.
    shared = _declared(shared_group())
    option = _find(key, declared, shared)
    if option is None:
        raise UnknownOption(
            f"Backend {name!r}: {driver_class.__name__} has no option {key!r}",
            advice=nearest(key, {**declared, **quirks.ATTRIBUTES}, shared)
            or "See the driver's documentation",
        )
    if option.name != key:
        LOG.warning(
            "Backend %r: option %r is the old name of %r, which is set", name, key, option.name
        )
    if option.name not in cfg.CONF[configuration.config_group]:
        configuration.append_config_values([option])
    return option


def _find(key: str, declared: Mapping[str, Any], shared: Mapping[str, Any]) -> Any:
    """The option of this name, of this deprecated name, or of this name of old; or None."""
    for options in (declared, shared):
        # Before its own name: PowerFlex declares options of old beside those that replace them.
        for option in options.values():
            if key in {old.name.replace("-", "_") for old in option.deprecated_opts if old.name}:
                return option
        if key in options:
            return options[key]
    today = RENAMED.get(key)
    for old, new in RENAMED_PREFIXES.items():
        if key.startswith(old):
            today = new + key.removeprefix(old)
    return (declared.get(today) or shared.get(today)) if today else None


@dataclass(frozen=True)
class Given:
    """An option as it was given: by which name, its declaration, its value."""

    spelt: str
    option: Any
    value: Any


class _Values:
    """Gives options their values, each after those that it refers to."""

    def __init__(self, name: str, configuration: Any, given: Mapping[str, Given]) -> None:
        self._name = name
        self._configuration = configuration
        self._given = given
        self._begun: set[str] = set()
        self._set: set[str] = set()

    def set_all(self) -> None:
        """Set every option, checked against its type by oslo.config."""
        for name in self._given:
            self._set_one(name)

    def _set_one(self, name: str) -> None:
        from oslo_config import cfg

        if name in self._set:
            return
        if name in self._begun:
            raise self._refused(name, "it refers to itself")
        self._begun.add(name)
        option, value = self._given[name].option, self._given[name].value
        if option.secret and isinstance(value, str):
            SECRETS.learn(value, keep=True)
            # A password holds a plain dollar sign.
            value = value.replace("$", "$$")
        elif isinstance(value, str):
            value = _REFERENCE.sub(lambda found: self._told(name, found), value)
        try:
            cfg.CONF.set_override(name, value, group=self._configuration.config_group)
            getattr(self._configuration, name)
        except (ValueError, TypeError, AttributeError, cfg.Error) as error:
            # The reason may quote the value, and that may be a password.
            why = "the value is refused" if option.secret else " ".join(str(error).split())
            advice = f"Its type is {type(option.type).__name__}"
            raise self._refused(name, why, advice) from error
        self._set.add(name)

    def _told(self, name: str, found: re.Match[str]) -> str:
        """What a reference stands for; what is no option of a backend is for oslo.config."""
        from oslo_config import cfg

        backend, other = found[2] or self._name, found[1] or found[3]
        group = GROUP_PREFIX + backend
        if other is None or group not in cfg.CONF:
            return found[0]
        own = _declared(group)
        if other not in own and found[2] is None:
            return found[0]
        if other not in own:
            why = f"backend {backend!r} has no option {other!r}"
            raise self._refused(name, why, nearest(other, own))
        if backend == self._name and other in self._given:
            self._set_one(other)
        told = getattr(cfg.CONF[group], other)
        if told is None:
            told = getattr(cfg.CONF[shared_group()], other)
        return str(told).replace("$", "$$")

    def _refused(self, option: str, why: str, advice: str | None = None) -> InvalidOption:
        return InvalidOption(
            f"Backend {self._name!r}: option {option!r} cannot have this value: {why}",
            advice=advice,
        )


def _require(name: str, configuration: Any, driver_options: list[Any]) -> None:
    missing = [
        option.name
        for option in driver_options
        if option.required and getattr(configuration, option.name) is None
    ]
    if missing:
        raise InvalidOption(f"Backend {name!r}: no value for {', '.join(missing)}")


def _declared(group: str) -> dict[str, Any]:
    # Cinder itself reads declarations this way (BaseVD._get_oslo_driver_opts). Copied first:
    # a driver that is imported meanwhile declares its own.
    from oslo_config import cfg

    return {name: entry["opt"] for name, entry in dict(cfg.CONF[group]._group._opts).items()}
