"""Build hook: generates the CSI protocol code; all else about the package is in pyproject.toml.

An editable install gets the code in the checkout, a wheel gets it in its build tree, so that
building a wheel leaves the sources as they were.
"""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "tools"))  # a build backend does not put the project on the path

from generate_protocol import generate  # noqa: E402


class BuildWithProtocol(build_py):
    """The standard build of the modules, followed by the generation of the protocol's."""

    def run(self) -> None:
        """Run at `pip install`, `pip install -e` and `python -m build`."""
        super().run()
        generate(HERE if self.editable_mode else Path(self.build_lib).resolve())


setup(cmdclass={"build_py": BuildWithProtocol})
