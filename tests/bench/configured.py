"""``cinder-csi serve`` with a backend of the benchmark's choice instead of the default.

Started by ``processes.serving`` with the arguments of ``cinder-csi serve`` and the
backend as JSON in the environment.  All else is the process as users run it.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import msgspec

from csi_driver import config
from csi_driver.cli import logs, serving

VARIABLE = "BENCH_BACKEND"


class OneBackend(config.Settings, frozen=True, kw_only=True):
    """Settings whose one backend is given."""

    backend: config.BackendSettings

    def backends(self) -> tuple[config.BackendSettings, ...]:
        """The given one."""
        return (self.backend,)


def main() -> int:
    """Serve until SIGTERM; the exit code."""
    parser = argparse.ArgumentParser()
    for option in ("--role", "--endpoint", "--state-dir", "--store", "--node-id"):
        parser.add_argument(option, required=True)
    given = parser.parse_args()
    logs.configure(config.LogLevel.INFO)
    return serving.run(
        OneBackend(
            state_dir=Path(given.state_dir),
            endpoint=given.endpoint,
            node_id=given.node_id,
            role=config.Role(given.role),
            store=config.StoreKind(given.store),
            backend=msgspec.json.decode(os.environ[VARIABLE], type=config.BackendSettings),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
