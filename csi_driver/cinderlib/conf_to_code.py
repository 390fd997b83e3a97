"""Python code for the backends of a cinder.conf: ``cinder-cfg-to-cinderlib-code``.

For people who come from Cinder.  The file is read as oslo.config reads it, without Cinder
and without the drivers: values stay the text that they are, and ``Backend`` gives each its
type when the code runs.  Copied are the sections of ``enabled_backends`` with what
``[backend_defaults]`` says for all of them, and of ``[DEFAULT]`` what decides about names
and addresses or what a backend refers to by ``$name``.
"""

from __future__ import annotations

import argparse
import keyword
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from csi_driver.base.errors import CinderCSIError, ConfigurationError
from csi_driver.base.files import write_atomic

DEFAULT_SOURCE = "/etc/cinder/cinder.conf"

Section = Mapping[str, Sequence[str]]

_FROM_DEFAULT = (
    "host",
    "my_ip",
    "snapshot_name_template",
    "state_path",
    "storage_availability_zone",
    "volume_name_template",
)

# Options that may be there several times; of others the last counts.
_REPEATED = frozenset(
    {
        "excluded_domain_ip",
        "netapp_replication_aggregate_map",
        "replication_device",
        "u4p_failover_target",
        "vmware_cluster_name",
        "vmware_storage_profile",
    }
)

_REFERENCE = re.compile(r"\$\{?([A-Za-z_]\w*)")

_HEADER = '''\
"""Backends of a cinder.conf, for the object library. It may hold passwords."""

import csi_driver.cinderlib as cinderlib
'''


def convert(source: str) -> str:
    """The Python code for the text of a cinder.conf.

    :raises ConfigurationError: it cannot be read, or enables no backend or one without a section.
    """
    for_setup, backends = read(source)
    variables = _variables(backends)
    calls = [_call("cinderlib.setup", "", for_setup)]
    for name, options in backends.items():
        made = _call("cinderlib.Backend", repr(name), options)
        calls.append(f"{variables[name]} = {made}")
    return "\n".join([_HEADER, *calls])


def read(source: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The options for ``setup``, and those of each backend by its name, of a cinder.conf.

    :raises ConfigurationError: it cannot be read, or enables no backend or one without a section.
    """
    sections = _parsed(source)
    default, common = sections.get("DEFAULT", {}), sections.get("backend_defaults", {})
    backends = {name: {**common, **sections[name]} for name in _enabled(default, sections)}
    made = {}
    for section, name in _backend_names(backends).items():
        options = _values(backends[section])
        options.pop("volume_backend_name", None)
        made[name] = options
    return _values(_for_setup(default, backends.values())), made


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; answers the exit code."""
    parser = argparse.ArgumentParser(
        prog="cinder-cfg-to-cinderlib-code",
        description="Write Python code that makes the backends of a cinder.conf.",
    )
    parser.add_argument("source", nargs="?", default=DEFAULT_SOURCE, help="default: %(default)s")
    parser.add_argument("destination", nargs="?", help="file to write; default: standard output")
    given = parser.parse_args(arguments)
    try:
        code = convert(Path(given.source).read_text(encoding="utf-8"))
        if given.destination:
            write_atomic(Path(given.destination), code.encode())
        else:
            sys.stdout.write(code)
    except (CinderCSIError, OSError, UnicodeDecodeError) as error:
        print(f"{parser.prog}: {given.source}: {error}", file=sys.stderr)
        return 1
    return 0


def _parsed(source: str) -> dict[str, dict[str, list[str]]]:
    from oslo_config import cfg, iniparser

    sections: dict[str, dict[str, list[str]]] = {}
    parser = cfg.ConfigParser("cinder.conf", sections)
    try:
        iniparser.BaseParser.parse(parser, source.splitlines())
    except iniparser.ParseError as error:
        # Its text quotes the line, and that may be a password.
        raise ConfigurationError(f"Line {error.lineno} cannot be read: {error.msg}") from None
    return sections


def _enabled(default: Section, sections: Mapping[str, Section]) -> list[str]:
    listed = ",".join(default.get("enabled_backends", ())[-1:])
    names = [name.strip() for name in listed.split(",") if name.strip()]
    if not names:
        raise ConfigurationError(
            "enabled_backends of section [DEFAULT] names no backend",
            advice="Name the sections of the backends there",
        )
    missing = [name for name in names if name not in sections]
    if missing:
        raise ConfigurationError(f"There is no section for the backend {', '.join(missing)}")
    return names


def _backend_names(backends: Mapping[str, Section]) -> dict[str, str]:
    """The name of each section's backend; its section's own where several have one name."""
    given = {
        section: options.get("volume_backend_name", [section])[-1]
        for section, options in backends.items()
    }
    values = list(given.values())
    return {s: name if values.count(name) == 1 else s for s, name in given.items()}


def _for_setup(default: Section, backends: Iterable[Section]) -> dict[str, Sequence[str]]:
    """Options of [DEFAULT]: those that always count, and those that backends refer to."""
    wanted = set(_FROM_DEFAULT)
    for options in backends:
        for value in (value for values in options.values() for value in values):
            wanted |= set(_REFERENCE.findall(value)) - options.keys()
    return {name: values for name, values in default.items() if name in wanted}


def _values(options: Section) -> dict[str, Any]:
    return {
        name.replace("-", "_"): list(values) if name in _REPEATED else values[-1]
        for name, values in options.items()
    }


def _call(function: str, first: str, options: Mapping[str, Any]) -> str:
    """A call of the function with the options by name, one a line."""
    arguments = [first] if first else []
    arguments += [f"{name}={value!r}" for name, value in options.items()]
    lines = "".join(f"    {argument},\n" for argument in arguments)
    return f"{function}(\n{lines})\n" if arguments else f"{function}()\n"


def _variables(names: Iterable[str]) -> dict[str, str]:
    """For each backend's name a variable that is like it, and no other's."""
    made: dict[str, str] = {}
    for name in names:
        like = re.sub(r"\W", "_", name, flags=re.ASCII)
        like = f"backend_{like}" if like[:1].isdigit() or keyword.iskeyword(like) else like
        while like in (*made.values(), "cinderlib"):
            like += "_"
        made[name] = like
    return made
