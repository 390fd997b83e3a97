"""Which record store a program asks for, and what of its request cannot be meant.

Used by ``factory``.  A store is asked for by a name, by a mapping of ``storage`` and
options, by a class, or by an instance; names are those of this package and of the entry
point group ``csi_driver.persistence``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from csi_driver.base.errors import ConfigurationError
from csi_driver.cinderlib.persistence.store import RecordStore

StoreConfig = str | Mapping[str, Any] | type[RecordStore] | RecordStore
"""How a store is asked for."""

ENTRY_POINTS = "csi_driver.persistence"
"""The group of entry points by which a package offers a store."""

OPTIONS: dict[str, tuple[str, ...]] = {
    "memory": (),
    "memory_db": (),
    "db": ("connection", "sqlite_synchronous"),
}
"""The stores of this package and the options of each."""


@dataclass(frozen=True)
class Choice:
    """What is asked for: a store of this package by its name, or another one to be made."""

    name: str
    options: Mapping[str, Any]
    make: Callable[..., RecordStore] | None = None


def choose(config: StoreConfig) -> Choice | RecordStore:
    """What ``config`` asks for; an instance is its own answer.

    :raises ConfigurationError: it asks for nothing that there is; names what is nearest.
    """
    if isinstance(config, RecordStore):
        return config
    options = dict(config) if isinstance(config, Mapping) else {}
    storage = options.pop("storage", None) if isinstance(config, Mapping) else config
    if isinstance(storage, RecordStore):
        if options:
            raise ConfigurationError("A record store that is made already takes no options")
        return storage
    if isinstance(storage, type):
        return _custom(storage.__name__, storage, options)
    if storage is None:
        if "connection" in options:
            raise ConfigurationError(
                "A connection without storage", advice='Add "storage": "db" to persistence_config'
            )
        storage = "memory"
    if not isinstance(storage, str):
        raise ConfigurationError(
            f"{type(storage).__name__} is no record store",
            advice="Give a name, or a class or an instance derived from RecordStore",
        )
    if storage in OPTIONS:
        _check_options(storage, options)
        return Choice(storage, options)
    return _of_entry_point(storage, options)


def _of_entry_point(name: str, options: dict[str, Any]) -> Choice:
    found: dict[str, EntryPoint] = {e.name: e for e in entry_points(group=ENTRY_POINTS)}
    if name not in found:
        raise ConfigurationError(
            f"There is no record store {name!r}", advice=_nearest(name, [*OPTIONS, *found])
        )
    try:
        made_by = found[name].load()
    except Exception as error:  # whatever the import of somebody's package raises
        raise ConfigurationError(
            f"The record store {name!r} ({found[name].value}) cannot be loaded: {error}",
            advice="Repair or remove the package that offers it",
        ) from error
    return _custom(name, made_by, options)


def _custom(name: str, made_by: Any, options: dict[str, Any]) -> Choice:
    if not (isinstance(made_by, type) and issubclass(made_by, RecordStore)):
        raise ConfigurationError(
            f"{name} is no record store: it is not derived from RecordStore",
            advice="See docs/metadata.md for what a store has to have",
        )
    try:
        inspect.signature(made_by).bind(**options)
    except TypeError as error:
        raise ConfigurationError(
            f"The record store {name} cannot be made with the options"
            f" {', '.join(sorted(options)) or 'none'}: {error}",
            advice=f"Its options: {inspect.signature(made_by)}",
        ) from error
    return Choice(name, options, made_by)


def _check_options(name: str, options: dict[str, Any]) -> None:
    # What cinderlib's users may have written out: its default, and all that there is here.
    if name == "db" and options.get("soft_deletes") is False:
        del options["soft_deletes"]
    for option in options:
        if option not in OPTIONS[name]:
            advice = _nearest(option, OPTIONS[name]) or f"{name} has no options"
            if option == "soft_deletes":
                advice = "A record that is deleted is gone; back the database up instead"
            raise ConfigurationError(f"The {name} store has no option {option!r}", advice=advice)


def _nearest(asked: str, there_are: Iterable[str]) -> str:
    names = sorted(set(there_are))
    near = get_close_matches(asked, names, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    return f"{hint}There are {', '.join(names)}" if names else ""
