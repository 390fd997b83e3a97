"""`cinder-csi serve` with backends of a test's choice instead of the default.

    python -m tests.support.serve_backend BACKENDS [the options of cinder-csi serve]

BACKENDS is a JSON file, a list of BackendSettings: passwords in options are in no argument and in
no environment. All else is the process as users run it, but that `--log-level DEBUG` lets every
logger there is write.
"""

import logging
import sys
from pathlib import Path

import msgspec

from csi_driver.cli import main, serving
from csi_driver.config import BackendSettings, Settings


class GivenBackends(Settings, frozen=True, kw_only=True):
    """Settings whose backends are given."""

    given: tuple[BackendSettings, ...]

    def backends(self) -> tuple[BackendSettings, ...]:
        """The given ones."""
        return self.given


def serve_with(path: Path) -> None:
    """Run `cinder-csi serve` by the arguments left, with the backends of a file."""
    given = msgspec.json.decode(path.read_bytes(), type=tuple[BackendSettings, ...])
    run = serving.run

    def run_with_backends(settings: Settings) -> int:
        if logging.getLogger("csi_driver").level == logging.DEBUG:
            logging.getLogger().setLevel(logging.DEBUG)
        return run(GivenBackends(given=given, **msgspec.structs.asdict(settings)))

    serving.run = run_with_backends
    main()


if __name__ == "__main__":
    backends = Path(sys.argv.pop(1))
    sys.argv.insert(1, "serve")
    serve_with(backends)
