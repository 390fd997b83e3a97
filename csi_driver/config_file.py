"""The configuration file: which backends there are.

Called by the commands that set backends up, with ``--config FILE``.  A file that ends in
``.conf`` is a cinder.conf, of which the enabled backends count, with what they need of
``[DEFAULT]``; any other is YAML::

    backends:
      - name: lvm
        volume_driver: cinder.volume.drivers.lvm.LVMVolumeDriver
        options:
          volume_group: cinder-volumes
          target_helper: lioadm
    cinder:                 # optional: options of cinder.conf's section [DEFAULT]
      my_ip: 192.0.2.10

What is wrong in the file itself is found here, with the place; names and types of options by
:mod:`csi_driver.cinderlib.runtime.options`, when the backend is set up.  No error quotes a
line or a value: it may be a password.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from csi_driver.base.errors import ConfigurationError
from csi_driver.config import BackendSettings

Value = str | int | float | bool | list[Any] | dict[str, Any]


class Backends(msgspec.Struct, frozen=True, kw_only=True):
    """What a configuration file says."""

    backends: tuple[BackendSettings, ...] = ()
    cinder_options: dict[str, Any] = {}


class _Backend(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    volume_driver: str
    options: dict[str, Value] = {}


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    backends: list[_Backend]
    cinder: dict[str, Value] = {}


def load(path: Path | None) -> Backends:
    """Read a configuration file; None is no file, and the embedded default.

    :raises ConfigurationError: it cannot be read, or says something that it may not.
    """
    if path is None:
        return Backends()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The configuration {path} cannot be read: {error}") from error
    try:
        read = _cinder_conf(text) if path.suffix == ".conf" else _yaml(text)
        return _checked(read)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error.message}", advice=error.advice) from None


def _yaml(text: str) -> Backends:
    import yaml

    try:
        told = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        # Its own text quotes the line.
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigurationError(
            f"Line {line} is no YAML: {error.problem}",
            advice="Put values with special characters into quotes",
        ) from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"It is no YAML: {type(error).__name__}") from None
    try:
        file = msgspec.convert(told, _File)
    except msgspec.ValidationError as error:
        raise ConfigurationError(
            str(error), advice="docs/configuration.md shows what a file may hold"
        ) from None
    return Backends(
        backends=tuple(
            BackendSettings(name=b.name, driver=b.volume_driver, options=b.options)
            for b in file.backends
        ),
        cinder_options=file.cinder,
    )


def _cinder_conf(text: str) -> Backends:
    from csi_driver.cinderlib import conf_to_code

    for_setup, backends = conf_to_code.read(text)
    # The names of the driver's own host and directory are those of the installation.
    kept = {name: value for name, value in for_setup.items() if name not in ("host", "state_path")}
    return Backends(
        backends=tuple(
            BackendSettings(name=name, driver=options.pop("volume_driver", ""), options=options)
            for name, options in backends.items()
        ),
        cinder_options=kept,
    )


def _checked(read: Backends) -> Backends:
    if not read.backends:
        raise ConfigurationError(
            "It names no backend", advice="Leave --config out for the embedded default"
        )
    names = [backend.name for backend in read.backends]
    if unnamed := [name for name in names if not name.strip()]:
        raise ConfigurationError(f"A backend has the name {unnamed[0]!r}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigurationError(f"Two backends have the name {', '.join(twice)}")
    for backend in read.backends:
        if not backend.driver:
            raise ConfigurationError(f"Backend {backend.name!r} names no volume_driver")
        for key in ("volume_driver", "volume_backend_name"):
            if key in backend.options:
                raise ConfigurationError(
                    f"Backend {backend.name!r} has the option {key!r}",
                    advice="It is said by name and volume_driver of the backend itself",
                )
    return read
