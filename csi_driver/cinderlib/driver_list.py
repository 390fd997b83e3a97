"""What drivers there are, and which options each declares.

For programs that let somebody choose a driver; ``docs/drivers.md`` is made with it.  The
drivers are imported in this process (1 s of CPU, 25 MiB, for good): there is no child
that could die or hang, and none that would import the host program a second time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from csi_driver.cinderlib import session
from csi_driver.cinderlib.runtime import catalog, drivers, packages, quirks

_KEYRING = "rbd_keyring_conf"


def list_supported_drivers(output_version: int = 1) -> dict[str, dict[str, Any]]:
    """The drivers of the installed Cinder and of this project, by class name.

    Of two classes of one name (Nexenta has such) the older stands under its full name.

    :param output_version: 1 as in cinderlib, where every value of an option is text; 2 for
        values of their own types, safe for JSON, with ``short_name``, ``transports``,
        ``packages`` and ``active_active`` beside.
    :returns: for each: ``ci_wiki_name``, ``class_fqn``, ``class_name``, ``desc``,
        ``driver_options``, ``supported``, ``version``.
    :raises ValueError: there is no such output version.
    """
    if output_version not in (1, 2):
        raise ValueError(f"output_version is 1 or 2, not {output_version!r}")
    session.current()
    found: dict[str, dict[str, Any]] = {}
    for entry in catalog.ENTRIES.values():
        described = _described(entry, typed=output_version == 2)
        older = found.pop(entry.class_name, None)
        if older is not None:
            found[older["class_fqn"]] = older
        found[entry.class_name] = described
    return found


def _described(entry: catalog.Entry, *, typed: bool) -> dict[str, Any]:
    driver_class = drivers.find_class(entry.path)
    convert = _typed if typed else _texts
    described = {
        "ci_wiki_name": getattr(driver_class, "CI_WIKI_NAME", None),
        "class_fqn": entry.path,
        "class_name": entry.class_name,
        "desc": driver_class.__doc__,
        "driver_options": [convert(vars(option)) for option in _options(driver_class)],
        "supported": bool(driver_class.SUPPORTED),
        "version": getattr(driver_class, "VERSION", None),
    }
    if typed:
        described |= {
            "short_name": entry.short_name,
            "transports": list(entry.transports),
            "packages": [packages.PACKAGES[module].requirement for module in entry.packages],
            "active_active": bool(driver_class.SUPPORTS_ACTIVE_ACTIVE),
        }
    return described


def _options(driver_class: Any) -> list[Any]:
    """What the driver declares, and RBD's keyring, which Cinder reads and does not declare."""
    from oslo_config import cfg

    declared = quirks.driver_options(driver_class)
    names = {option.name for option in declared}
    if "rbd_ceph_conf" in names and _KEYRING not in names:
        declared.append(cfg.StrOpt(_KEYRING, default="", help="Path to the ceph keyring file"))
    return declared


def _texts(option: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in option.items() if not key.startswith("_")}


def _typed(option: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _json(value) for key, value in option.items() if not key.startswith("_")}


def _json(value: Any) -> Any:
    """A value of an option's declaration in types that JSON has."""
    from oslo_config import cfg, types

    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _json(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_json(inner) for inner in value]
    if isinstance(value, cfg.DeprecatedOpt):
        return {"group": value.group, "name": value.name}
    if isinstance(value, types.ConfigType):
        return {"type_class": type(value).__name__, **_typed(vars(value))}
    return str(value)
