"""Prepares os-brick in this process, once, without Cinder.

Called by :class:`csi_driver.attach.attacher.Attacher`.  os-brick is imported here and
not at the top of a module: it costs half a second and 30 MiB, and a process that
attaches nothing need not pay.  In a process that also runs Cinder's drivers, their
bootstrap (:mod:`csi_driver.cinderlib.runtime`) makes the same settings; whichever
comes first wins, and the second finds nothing left to do.

What it changes in the process:

- oslo.service's native threads: os-brick waits by looping calls, which would load
  eventlet.  Libraries that would use eventlet or VMware's client if they can get it are
  told that they cannot: 18 MiB less on every node, for nothing that a node does.
- ``requests``, which ScaleIO's connector alone uses, is loaded when it does: 3 MiB.
- ``[oslo_concurrency] lock_path`` of oslo.config's global ``CONF``, as a default, if
  nobody gave one: os-brick's locks are files there.
- os-brick's two privsep contexts run in this process when it is root, else through
  the root helper.
- os-brick's connector for iSCSI and iSER hands no password to a command, see
  :mod:`csi_driver.attach.iscsi_connector`.
- ``Popen`` as ``oslo_concurrency.processutils`` sees it drops ``preexec_fn``: that
  function forces a real fork, whose child hangs or aborts beside a gRPC server.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from csi_driver.base.errors import StateDirectoryError

_UNWANTED = frozenset({"eventlet", "oslo_vmware"})

_LOCK = threading.Lock()
_prepared = False


def prepare(lock_path: Path, root_helper: str) -> None:
    """Make os-brick usable in this process.  Idempotent and thread-safe.

    :param lock_path: directory for os-brick's lock files, made if absent; shared by
        all users of os-brick on the host, or two of them scan at once.
    :param root_helper: prefix for privileged commands; not used as root.
    :raises StateDirectoryError: the directory cannot be made.
    """
    global _prepared  # noqa: PLW0603 - what is prepared is the process
    with _LOCK:
        if _prepared:
            return
        try:
            lock_path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateDirectoryError(f"{lock_path} cannot be made: {error.strerror}") from error
        with _imports_refused(_UNWANTED), _loaded_later("requests"):
            _use_native_threads()
            _configure_locks(lock_path)
            _take_privileges(root_helper)
            _start_children_without_fork()
            _keep_secrets_off_command_lines()
        _prepared = True


def _use_native_threads() -> None:
    from oslo_service import backend

    backend.init_backend(backend.BackendType.THREADING)


def _configure_locks(lock_path: Path) -> None:
    import os_brick
    from oslo_concurrency import lockutils  # noqa: F401 - declares [oslo_concurrency]
    from oslo_config import cfg

    if not cfg.CONF.oslo_concurrency.lock_path:
        cfg.CONF.set_default("lock_path", str(lock_path.absolute()), group="oslo_concurrency")
    os_brick.setup(cfg.CONF)


def _take_privileges(root_helper: str) -> None:
    sleep = time.sleep
    import os_brick.privileged
    import os_brick.utils
    from oslo_privsep import priv_context

    # os-brick replaces it for the sake of its own tests.
    time.sleep = sleep
    root = os.geteuid() == 0
    if not root:
        priv_context.init(root_helper=shlex.split(root_helper))
    for context in (os_brick.privileged.default, os_brick.privileged.brick_privsep_hide_output):
        context.set_client_mode(not root)


def _start_children_without_fork() -> None:
    from oslo_concurrency import processutils

    if processutils.subprocess is subprocess:
        processutils.subprocess = _SubprocessView("subprocess")


def _keep_secrets_off_command_lines() -> None:
    from os_brick import initiator
    from os_brick.initiator import connector  # loads every connector

    mapping = connector._connector_mapping_linux
    for protocol in (initiator.ISCSI, initiator.ISER):
        mapping[protocol] = "csi_driver.attach.iscsi_connector.ISCSIConnector"


@contextlib.contextmanager
def _imports_refused(names: frozenset[str]) -> Iterator[None]:
    """Let imports of these packages fail, in this thread and meanwhile only."""
    refusal = _Refusal(names, threading.get_ident())
    sys.meta_path.insert(0, refusal)
    try:
        yield
    finally:
        sys.meta_path.remove(refusal)


class _Refusal(MetaPathFinder):
    """Says of some packages that they are not installed, to one thread.

    Another thread may be importing Cinder, which cannot do without eventlet.
    """

    def __init__(self, names: frozenset[str], thread: int) -> None:
        self._names = names
        self._thread = thread

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Fail for a refused package; leave every other to the next finder."""
        if fullname in self._names and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"{fullname} is not used here", name=fullname)
        return None


@contextlib.contextmanager
def _loaded_later(name: str) -> Iterator[None]:
    """Let what is imported meanwhile have this package, but load it only at its first use.

    Where Cinder is, it is loaded anyway.
    """
    if name in sys.modules or "cinder" in sys.modules:
        yield
        return
    sys.modules[name] = _Later(name)
    try:
        yield
    finally:
        if isinstance(sys.modules.get(name), _Later):
            del sys.modules[name]


class _Later(ModuleType):
    """Stands for a module until something of it is asked for; then it is loaded."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


class _Popen(subprocess.Popen[Any]):
    """``subprocess.Popen`` without ``preexec_fn``; it resets SIGPIPE by itself."""

    def __init__(self, *args: Any, preexec_fn: Any = None, **options: Any) -> None:
        super().__init__(*args, **options)


class _SubprocessView(ModuleType):
    """The module ``subprocess`` with another ``Popen``, for one module to see."""

    Popen = _Popen

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)
