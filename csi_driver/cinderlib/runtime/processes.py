"""Child processes of drivers, started without a real fork.

Called by :mod:`csi_driver.cinderlib.runtime.bootstrap`.  ``oslo_concurrency`` gives
every child a ``preexec_fn`` that resets SIGPIPE.  A ``preexec_fn`` forces a real
``fork()``, and beside a gRPC server the child of one aborts or hangs at random;
it also costs 5 ms with a large process.  ``Popen`` resets SIGPIPE by itself
(``restore_signals``), so the function is dropped and the child comes by vfork.
"""

from __future__ import annotations

from typing import Any


def drop_preexec() -> None:
    """Give ``oslo_concurrency.processutils`` a ``Popen`` that ignores ``preexec_fn``.

    Only that module's view of ``subprocess`` changes.  Idempotent.
    """
    from oslo_concurrency import processutils

    if not isinstance(processutils.subprocess, _Subprocess):
        processutils.subprocess = _Subprocess(processutils.subprocess)


class _Subprocess:
    """The module ``subprocess`` with another ``Popen``."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.Popen = _without_preexec(module.Popen)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _without_preexec(popen: Any) -> Any:
    class Popen(popen):  # type: ignore[misc]
        """``subprocess.Popen`` without ``preexec_fn``."""

        def __init__(self, *args: Any, preexec_fn: Any = None, **options: Any) -> None:
            super().__init__(*args, **options)

    return Popen
