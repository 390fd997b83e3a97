"""Prepares a process for Cinder's volume drivers, once.

Called by :func:`csi_driver.cinderlib.setup` and by ``cinder-csi serve`` before the
first backend is loaded.  Cinder's drivers expect to live in Cinder's own service:
with its configuration, its database, its locks and its privileges.  This module
gives them all of that without the service, and is the only one, with its
neighbours in this package, that touches what a process has only once.

What ``setup`` changes in the process (a test compares before and after):

==================================  ================================================
what                                to what, and why
==================================  ================================================
environment                         ``EVENTLET_NO_GREENDNS=yes``,
                                    ``OS_CINDER_DISABLE_EVENTLET_PATCHING=1``; and
                                    ``GRPC_ENABLE_FORK_SUPPORT=0`` unless it is set;
                                    ``PATH`` ends with the directory of Cinder's own
                                    commands, unless they are found without it
``eventlet.monkey_patch``           raises, so that nothing patches by accident
``oslo_service`` backend            native threads
``cinder.db.{api,models,utils,``    stand-ins, see ``standins`` and ``database``
``base}`` in ``sys.modules``
``oslo_config.cfg.CONF``            parsed with no arguments and no files; state_path,
                                    host, lock paths and coordination are overridden, and
                                    the options of ``RuntimeSettings.cinder_options``;
                                    takes an option again that differs in its help only
``processutils.subprocess``         its ``Popen`` drops ``preexec_fn``, see ``attach.brick``
privsep contexts (three)            run in this process when it is root, else through
                                    ``root_helper``
``cinder.utils.get_root_helper``    answers ``root_helper``
``cinder.coordination``             started: one thread, file locks under state_path
==================================  ================================================

Logging, ``time.sleep``, threads and sockets stay as the host program has them.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
import socket
import sys
import sysconfig
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from csi_driver.attach import brick
from csi_driver.base.errors import StateDirectoryError
from csi_driver.cinderlib.exceptions import NotSetUp, SetupConflict
from csi_driver.cinderlib.runtime import options, quirks, standins


@dataclass(frozen=True)
class RuntimeSettings:
    """What a process needs to know to run drivers.

    :param state_path: directory for lock files and what drivers keep; made if absent.
    :param host: the name under which volumes belong to this installation's backends.
    :param root_helper: command prefix for privileged commands; not used as root.
    :param project_id: project that drivers see on volumes; some use it in names.
    :param cinder_options: options of cinder.conf's section [DEFAULT]; may hold secrets.
    """

    state_path: Path
    host: str = field(default_factory=socket.gethostname)
    root_helper: str = "sudo"
    project_id: str = "cinderlib"
    user_id: str = "cinderlib"
    cinder_options: Mapping[str, Any] = field(default_factory=dict, repr=False)


# Protects _settings and everything that setup changes: one thread sets up, the
# others wait for it.
_lock = threading.Lock()
_settings: RuntimeSettings | None = None
# Cinder is imported already; set-up goes on from there after a refused option.
_imported = False


def setup(settings: RuntimeSettings) -> None:
    """Prepare the process; a further call with equal settings does nothing.

    About 1.2 s of CPU and 75 MiB, most of it imports.  After a refused option it may be
    called again.

    :raises SetupConflict: set up with other settings, or the host program has
        patched threads by eventlet or imported Cinder's database already.
    :raises StateDirectoryError: ``state_path`` cannot be used.
    :raises UnknownOption, InvalidOption: one of ``cinder_options``.
    """
    global _settings, _imported  # noqa: PLW0603 - one process, one Cinder: that is what they tell
    with _lock:
        if _settings == settings:
            return
        if _settings is not None:
            raise SetupConflict(
                f"This process was set up with {_settings}, and cannot be with {settings}"
            )
        if not _imported:
            _refuse_spoiled_process()
        locks = _make_directories(settings.state_path)
        if not _imported:
            _prepare_environment()
            # Drivers attach by os-brick too, and start their commands like it.
            brick.prepare(locks, settings.root_helper)
            with _root_logger_kept():
                _import_cinder()
            _imported = True
        _configure(settings, locks)
        _start_locks()
        _take_privileges(settings)
        _settings = settings


def active() -> RuntimeSettings:
    """The settings that this process was set up with.

    :raises NotSetUp: ``setup`` was not called.
    """
    settings = _settings
    if settings is None:
        raise NotSetUp("The process is not set up for Cinder drivers")
    return settings


def lock_directory() -> Path:
    """Where Cinder's lock files are.

    :raises NotSetUp: ``setup`` was not called.
    """
    return _locks_below(active().state_path)


@functools.cache
def _locks_below(state_path: Path) -> Path:
    return state_path.absolute() / "locks"


def _refuse_spoiled_process() -> None:
    patcher: Any = sys.modules.get("eventlet.patcher")
    if patcher is not None and patcher.is_monkey_patched("thread"):
        raise SetupConflict(
            "This process has its threads patched by eventlet",
            advice="Do not call eventlet.monkey_patch(): drivers run on native threads here",
        )
    loaded = [name for name in (*standins.REPLACED, "cinder.objects") if name in sys.modules]
    if loaded:
        raise SetupConflict(f"This process has imported {loaded[0]} already")


def _make_directories(state_path: Path) -> Path:
    locks = _locks_below(state_path)
    try:
        locks.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StateDirectoryError(f"{locks} cannot be made: {error}") from error
    return locks


def _prepare_environment() -> None:
    os.environ["EVENTLET_NO_GREENDNS"] = "yes"
    # Decides for native threads even where Cinder's own services are told otherwise.
    os.environ["OS_CINDER_DISABLE_EVENTLET_PATCHING"] = "1"
    # gRPC reads it when it is imported: its fork handlers abort the child of a real fork.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    # LVM calls it for LIO. In a virtual environment that is not activated nobody finds it.
    if shutil.which("cinder-rtstool") is None:
        path = (os.environ.get("PATH") or os.defpath, sysconfig.get_path("scripts"))
        os.environ["PATH"] = os.pathsep.join(path)


def _import_cinder() -> None:
    """Import what every driver needs, in the one order that works."""
    with warnings.catch_warnings(), _without_warning("cinder.monkey_patch"):
        # Cinder imports eventlet, which patches nothing and says that it is deprecated.
        warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
        _import_eventlet_apart()
        from cinder import monkey_patch

        monkey_patch.patch(backend="threading")
    standins.replace_database(_database_function)
    standins.register_name_templates()
    with standins.without_sqlalchemy(), standins.without_keystone():
        from cinder import objects

        # Before any driver: the manager and drivers.lvm name objects.Volume at import.
        objects.register_all()
        import cinder.context
    import cinder.common.config  # noqa: F401 - declares state_path, host, my_ip and more


def _import_eventlet_apart() -> None:
    """Import eventlet on a thread of its own, which nobody will ever join.

    Eventlet imports a second copy of ``threading``. Before Python 3.13 that copy takes over the
    lock that tells the end of the importing thread, so ``join`` on it would wait for ever: the
    process would not end after a set-up on a pool's thread.
    """
    imported = threading.Event()

    def run() -> None:
        try:
            from eventlet import patcher

            patcher.original("threading")
        finally:
            imported.set()

    threading.Thread(target=run, name="import-eventlet", daemon=True).start()
    imported.wait()


def _database_function(name: str) -> Any:
    from csi_driver.cinderlib.runtime import database

    return database.function(name)


@contextlib.contextmanager
def _root_logger_kept() -> Iterator[None]:
    """Take away the handler that oslo.log gives a root logger without one."""
    root = logging.getLogger()
    before = list(root.handlers)
    try:
        yield
    finally:
        for handler in [added for added in root.handlers if added not in before]:
            root.removeHandler(handler)


@contextlib.contextmanager
def _without_warning(name: str) -> Iterator[None]:
    """Keep one logger still: Cinder calls native threads experimental, which is known."""
    logger = logging.getLogger(name)

    def refuse(_record: logging.LogRecord) -> bool:
        return False

    logger.addFilter(refuse)
    try:
        yield
    finally:
        logger.removeFilter(refuse)


def _configure(settings: RuntimeSettings, locks: Path) -> None:
    """Give Cinder its configuration without argv and without files in /etc."""
    from cinder import coordination  # noqa: F401 - declares [coordination]
    from oslo_config import cfg

    conf = cfg.CONF
    conf([], project="cinder", default_config_files=[], default_config_dirs=[])
    conf.set_override("state_path", str(settings.state_path.absolute()))
    conf.set_override("host", settings.host)
    conf.set_override("lock_path", str(locks), group="oslo_concurrency")
    conf.set_override("backend_url", f"file://{locks}", group="coordination")
    quirks.accept_other_help()
    options.set_defaults(settings.cinder_options)


def _start_locks() -> None:
    """Without a started coordinator every synchronized driver method raises."""
    from cinder import coordination

    coordination.COORDINATOR.start()


def _take_privileges(settings: RuntimeSettings) -> None:
    """Run Cinder's privileged code like os-brick's: here as root, else by the helper."""
    import cinder.privsep
    import cinder.utils

    cinder.privsep.sys_admin_pctxt.set_client_mode(os.geteuid() != 0)
    cinder.utils.get_root_helper = lambda: settings.root_helper
