"""What single drivers need that Cinder's service would give them another way.

Called by :mod:`csi_driver.cinderlib.runtime.drivers`.  Each quirk names the driver,
the fact and the cure; nothing here changes Cinder's files.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from typing import Any

from csi_driver.cinderlib.runtime import lio

RADOS_TIMEOUT_SECONDS = 5
"""Default of ``rados_connect_timeout``; Ceph's own default (-1) waits for ever."""

ATTRIBUTES: Mapping[str, str] = {
    "rbd_keyring_conf": "rbd_keyring_conf",
    "rbd_keyring_file": "rbd_keyring_conf",
}
"""Options that no declaration exists for: set on the configuration itself.

``rbd_keyring_conf`` was taken out of Cinder's options for OpenStack's sake; the RBD
driver still reads it as an attribute.  ``rbd_keyring_file`` is the name that
cinderlib's documents gave it.
"""

CORRECTIONS: Mapping[str, str] = {
    "cinder.volume.drivers.dell_emc.xtremio.XtremIOFCDriver": (
        "csi_driver.cinderlib.runtime.xtremio.XtremIOCorrections"
    ),
    "cinder.volume.drivers.dell_emc.xtremio.XtremIOISCSIDriver": (
        "csi_driver.cinderlib.runtime.xtremio.XtremIOCorrections"
    ),
    "cinder.volume.drivers.kaminario.kaminario_iscsi.KaminarioISCSIDriver": (
        "csi_driver.cinderlib.runtime.kaminario.KaminarioCorrections"
    ),
    "cinder.volume.drivers.rbd.RBDDriver": "csi_driver.cinderlib.runtime.rbd.RBDCorrections",
    "cinder.volume.drivers.ceph.rbd_iscsi.RBDISCSIDriver": (
        "csi_driver.cinderlib.runtime.rbd.RBDCorrections"
    ),
}
"""Driver -> the class whose methods come before its own."""


@functools.cache
def corrected(driver_class: Any) -> Any:
    """The driver class with the methods that :data:`CORRECTIONS` put in place of its own.

    It keeps its name: logs, and what is known of the driver by name, stay true.
    """
    path = f"{driver_class.__module__}.{driver_class.__qualname__}"
    if path not in CORRECTIONS:
        return driver_class
    module, _, name = CORRECTIONS[path].rpartition(".")
    methods = getattr(importlib.import_module(module), name)
    same_name = {"__module__": driver_class.__module__, "__qualname__": driver_class.__qualname__}
    return type(driver_class.__name__, (methods, driver_class), same_name)


def driver_options(driver_class: Any) -> list[Any]:
    """The options that a driver declares.

    ``NetAppDriver`` declares none, being a name for several drivers.  ``RBDISCSIDriver``
    asks Cinder's shared group for ``suppress_requests_ssl_warnings``, which only Cinder's
    manager declares: without it, KeyError.  Declaring it here would collide with the
    manager as soon as another driver imports that, so it is imported (0.6 s CPU).
    """
    declare = getattr(driver_class, "get_driver_options", list)
    try:
        return list(declare())
    except KeyError as error:
        if error.args != ("suppress_requests_ssl_warnings",):
            raise
    importlib.import_module("cinder.volume.manager")
    return list(declare())


def accept_other_help() -> None:
    """Let a driver declare an option that another has declared with other words.

    HPE's drivers for 3PAR and for Alletra MP have the same options with another help each,
    which oslo.config takes for a conflict: only one of them could be loaded in a process.
    """
    from oslo_config import cfg

    conf = cfg.CONF
    if "register_opt" in vars(conf):
        return
    register = conf.register_opt

    def register_opt(opt: Any, group: Any = None, *rest: Any, **more: Any) -> Any:
        try:
            return register(opt, group, *rest, **more)
        except cfg.DuplicateOptError:
            declared = conf._get_group(group)._opts if group else conf._opts
            if _without_help(declared[opt.dest]["opt"]) != _without_help(opt):
                raise
            return False

    conf.register_opt = register_opt


def _without_help(option: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(option).items() if key != "help"}


def before_init(driver_class: Any, configuration: Any, options: Mapping[str, Any]) -> None:
    """Complete a backend's configuration before its driver is made."""
    _answer_backend_sections()
    for given, attribute in ATTRIBUTES.items():
        if given in options:
            setattr(configuration, attribute, options[given])
    if "rados_connect_timeout" in {option.name for option in driver_options(driver_class)}:
        _limit_rados(configuration)
    if configuration.safe_get("target_helper") == "lioadm":
        lio.keep_secrets_off_command_lines()


def _limit_rados(configuration: Any) -> None:
    from oslo_config import cfg

    if configuration.rados_connect_timeout == -1:
        cfg.CONF.set_override(
            "rados_connect_timeout", RADOS_TIMEOUT_SECONDS, group=configuration.config_group
        )


def _answer_backend_sections() -> None:
    """Let drivers find the configuration of a backend by its name.

    NetApp's replication and migration look for another backend's section of
    cinder.conf; there is no such file here, and groups carry a prefix.
    """
    from cinder.volume import volume_utils

    volume_utils.get_backend_configuration = _backend_configuration


def _backend_configuration(backend_name: str, backend_opts: Any = None) -> Any:
    from cinder import exception
    from cinder.volume import configuration, driver
    from oslo_config import cfg

    from csi_driver.cinderlib.runtime.options import GROUP_PREFIX

    group = GROUP_PREFIX + backend_name
    if group not in cfg.CONF:
        raise exception.ConfigNotFound(
            message=f"No backend {backend_name} is configured in this process"
        )
    found = configuration.Configuration(driver.volume_opts, config_group=group)
    if backend_opts:
        found.append_config_values(backend_opts)
    return found
