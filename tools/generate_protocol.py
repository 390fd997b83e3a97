"""Generates the Python code of the CSI protocol from proto/csi/v1/csi.proto.

Called by setup.py on every build and install, and by `make` through the install, so the generated
code is never committed and cannot be stale. `python tools/generate_protocol.py` writes it into the
checkout by hand.

protoc derives the import of csi_pb2 from the path under which it was given the protocol. The
virtual path `csi_driver/rpc/_generated/csi.proto` therefore makes it write the import that the
package needs; nothing is edited afterwards.
"""

import argparse
import importlib.resources
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOCOL = ROOT / "proto" / "csi" / "v1"
PACKAGE = "csi_driver/rpc/_generated"
GENERATED = ("csi_pb2.py", "csi_pb2.pyi", "csi_pb2_grpc.py")


def generate(root: Path) -> list[Path]:
    """Write the generated modules below `root`, the directory that holds `csi_driver/`.

    Unchanged files keep their modification time. Returns the paths of all of them. Raises
    RuntimeError when protoc refuses the protocol; its reason is on stderr by then.
    """
    package = root / PACKAGE
    package.mkdir(parents=True, exist_ok=True)
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    with tempfile.TemporaryDirectory() as scratch:
        arguments = [
            "protoc",
            f"-I{PACKAGE}={PROTOCOL}",
            f"-I{well_known}",
            f"--python_out={scratch}",
            f"--pyi_out={scratch}",
            f"--grpc_python_out={scratch}",
            f"{PACKAGE}/csi.proto",
        ]
        if protoc.main(arguments) != 0:
            raise RuntimeError(f"protoc could not compile {PROTOCOL / 'csi.proto'}")
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
    parser = argparse.ArgumentParser(description="Generate the CSI protocol code.")
    parser.add_argument("--into", type=Path, default=ROOT, help="directory that holds csi_driver/")
    for path in generate(parser.parse_args().into.resolve()):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
