"""Stand-ins for the modules of Cinder that would bring its database.

Called once by :mod:`csi_driver.cinderlib.runtime.bootstrap`, before anything
imports ``cinder.objects``.  Cinder 29 has no pluggable database any more: a
driver's ``self.db`` is the module ``cinder.db.api``, so the module itself is what
has to be replaced.  SQLAlchemy would still come through ``cinder.context``, which
needs ``oslo_db``'s enginefacade as a class decorator and for nothing else.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

REPLACED = ("cinder.db.api", "cinder.db.models", "cinder.db.utils", "cinder.db.base")
"""The modules that are replaced for good."""

_ENGINE_FACADE = ("oslo_db.sqlalchemy", "oslo_db.sqlalchemy.enginefacade")

_KEYSTONE = "keystonemiddleware.auth_token.__init__"
"""As ``cinder.quota_utils`` writes the module's name."""


class DatabaseModule(ModuleType):
    """A module whose functions are found when a driver asks for them.

    :param resolve: from a function's name to the function; it never fails, since a
        driver may take a name long before it calls it.
    """

    def __init__(self, name: str, resolve: Callable[[str], Any]) -> None:
        super().__init__(name, "Stand-in for Cinder's database")
        self._resolve = resolve

    def __getattr__(self, name: str) -> Any:
        # The import system asks for __path__, __spec__ and others: a plain no.
        if name.startswith("__"):
            raise AttributeError(name)
        return self._resolve(name)


class Condition:
    """What ``cinder.db.utils.Condition`` is to an object: a value for a field."""

    def __init__(self, value: Any, field: str | None = None) -> None:
        self.value = value
        self.field = field


class Not(Condition):
    """Any value but this one."""

    def __init__(self, value: Any, field: str | None = None, auto_none: bool = True) -> None:
        super().__init__(value, field)
        self.auto_none = auto_none


class Case:
    """A choice by SQL conditions; nothing that runs here evaluates one."""

    def __init__(self, whens: Any, value: Any = None, else_: Any = None) -> None:
        self.whens = whens
        self.value = value
        self.else_ = else_


def replace_database(resolve: Callable[[str], Any]) -> None:
    """Put the stand-ins in place of ``cinder.db``'s modules."""
    package = importlib.import_module("cinder.db")
    api = DatabaseModule("cinder.db.api", resolve)
    utils = ModuleType("cinder.db.utils")
    utils.__dict__.update(Condition=Condition, Not=Not, Case=Case)
    base = ModuleType("cinder.db.base")
    base.__dict__["Base"] = _base_class(api)
    # cinder.volume.volume_utils names models.Volume, but only in type annotations.
    models = DatabaseModule("cinder.db.models", lambda name: type(name, (), {}))
    for module in (api, models, utils, base):
        sys.modules[module.__name__] = module
        setattr(package, module.__name__.rpartition(".")[2], module)


def _base_class(api: ModuleType) -> type:
    class Base:
        """Gives its subclasses ``self.db``."""

        def __init__(self) -> None:
            super().__init__()
            self.db = api

    return Base


def register_name_templates() -> None:
    """Register the options that Cinder declares in ``cinder.db.api``.

    ``Volume.name`` and ``Snapshot.name`` are made with them.
    """
    from oslo_config import cfg

    cfg.CONF.register_opts(
        [
            cfg.StrOpt("volume_name_template", default="volume-%s"),
            cfg.StrOpt("snapshot_name_template", default="snapshot-%s"),
            cfg.StrOpt("backup_name_template", default="backup-%s"),
            cfg.BoolOpt("enable_new_services", default=True),
        ]
    )


@contextlib.contextmanager
def without_sqlalchemy() -> Iterator[None]:
    """Import ``cinder.context`` in here without SQLAlchemy (0.7 s CPU, 30 MiB).

    The stand-in is taken away again, so that a host program which uses oslo.db
    itself gets the real one.  When it is imported already there is nothing to save.
    """
    if any(name in sys.modules for name in _ENGINE_FACADE):
        yield
        return
    oslo_db = importlib.import_module("oslo_db")
    package = ModuleType(_ENGINE_FACADE[0])
    package.__path__ = []
    facade = ModuleType(_ENGINE_FACADE[1])
    facade.__dict__["transaction_context_provider"] = lambda cls: cls
    package.__dict__["enginefacade"] = facade
    sys.modules.update(zip(_ENGINE_FACADE, (package, facade), strict=True))
    try:
        yield
    finally:
        for name in _ENGINE_FACADE:
            sys.modules.pop(name, None)
        if getattr(oslo_db, "sqlalchemy", None) is package:
            delattr(oslo_db, "sqlalchemy")


@contextlib.contextmanager
def without_keystone() -> Iterator[None]:
    """Import ``cinder.objects`` in here without Keystone's middleware (0.15 s CPU, 2 MiB).

    ``cinder.quota_utils`` asks for its options when it is imported; nothing that runs
    here reads one.  The stand-in is taken away again, as above.
    """
    from oslo_config import cfg

    if _KEYSTONE in sys.modules:
        yield
        return
    cfg.CONF.register_group(cfg.OptGroup("keystone_authtoken"))
    sys.modules[_KEYSTONE] = ModuleType(_KEYSTONE)
    try:
        yield
    finally:
        sys.modules.pop(_KEYSTONE, None)
