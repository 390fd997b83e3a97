"""Generates the Python code of the protocols below proto/: CSI, and what administrators ask.

Called by setup.py on every build and install, and by `make` through the install, so the generated
code is never committed and cannot be stale. `python tools/generate_protocol.py` writes it into the
checkout by hand.

protoc derives the import of a `_pb2` module from the path under which it was given the protocol. A
virtual path as `csi_driver/rpc/_generated/csi.proto` therefore makes it write the import that the
package needs; nothing is edited afterwards.
"""

import argparse
import importlib.resources
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOCOLS = (
    ROOT / "proto" / "csi" / "v1" / "csi.proto",
    ROOT / "proto" / "cinderlib" / "v1" / "administration.proto",
)
PACKAGE = "csi_driver/rpc/_generated"
GENERATED = tuple(
    f"{each.stem}{ending}"
    for each in PROTOCOLS
    for ending in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")
)


def generate(root: Path) -> list[Path]:
    """Write the generated modules below `root`, the directory that holds `csi_driver/`.

    Unchanged files keep their modification time. Returns the paths of all of them. Raises
    RuntimeError when protoc refuses a protocol; its reason is on stderr by then.
    """
    package = root / PACKAGE
    package.mkdir(parents=True, exist_ok=True)
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    with tempfile.TemporaryDirectory() as scratch:
        arguments = [
            "protoc",
            *(f"-I{PACKAGE}={each.parent}" for each in PROTOCOLS),
            f"-I{well_known}",
            f"--python_out={scratch}",
            f"--pyi_out={scratch}",
            f"--grpc_python_out={scratch}",
            *(f"{PACKAGE}/{each.name}" for each in PROTOCOLS),
        ]
        if protoc.main(arguments) != 0:
            raise RuntimeError(f"protoc could not compile what is below {ROOT / 'proto'}")
        return [_replace(package / name, Path(scratch, PACKAGE, name)) for name in GENERATED]


def _replace(target: Path, fresh: Path) -> Path:
    """Put the content of `fresh` at `target` atomically: a program may be importing it."""
    content = fresh.read_bytes()
    if not target.exists() or target.read_bytes() != content:
        partial = target.with_name(f".{target.name}.new")
        partial.write_bytes(content)
        partial.replace(target)
    return target


def main() -> int:
    """Command line: where to write, by default into the checkout."""
    parser = argparse.ArgumentParser(description="Generate the code of the protocols.")
    parser.add_argument("--into", type=Path, default=ROOT, help="directory that holds csi_driver/")
    for path in generate(parser.parse_args().into.resolve()):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
