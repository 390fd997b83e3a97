"""Print ``docs/drivers.md``; run as a process of its own, which imports every driver.

Called by ``tools/generate_docs.py``.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import Any

from csi_driver import cinderlib
from csi_driver.cinderlib.driver_list import list_supported_drivers
from csi_driver.cinderlib.runtime import catalog
from csi_driver.cinderlib.runtime.drivers import find_class
from csi_driver.cinderlib.runtime.packages import PACKAGES
from csi_driver.cinderlib.runtime.removal import Kind, Proof, removal

INTRODUCTION = """\
# Drivers

The volume drivers of Cinder {cinder}, and the `file` driver of this project. `volume_driver` of a
backend takes a short name or the full name of the class; a driver from elsewhere goes by its full
name. The drivers of this page are all loaded, listed and configured by the tests, which is not to
say that this project has run them on their arrays: try yours in a pool of its own first.
[drivers-notes.md](drivers-notes.md) tells more of those that were run.

```python
import csi_driver.cinderlib as cinderlib

known = cinderlib.list_supported_drivers(output_version=2)
print(known["NfsDriver"]["short_name"], known["NfsDriver"]["transports"])
for option in known["NfsDriver"]["driver_options"]:
    print(option["name"], option["default"])
```

- **transport**: how a volume reaches a host. A node needs what that takes: open-iscsi,
  multipath-tools, nvme-cli, nfs-common, ceph-common, ...
- **upstream**: whether Cinder supports the driver. *Unsupported* (`SUPPORTED = False`) means that
  nobody runs its tests any more and that Cinder may remove it. The object library warns;
  `cinder-csi` asks for `enable_unsupported_driver`.
- **deletion proves absence**: whether the driver's answer proves that nothing is left of a volume /
  a snapshot of which only the id is known, because the answer of its creation was lost. *yes*: OK
  and "not found" do. *OK only*: what is absent is refused with an error like any other. *no*: the
  driver also answers OK for what it cannot find; such an attempt is reported
  (`cinder-csi orphans`), never guessed away.
- **active-active**: whether Cinder runs several services of the driver on one backend. Here one
  controller is active at a time, with any driver.
"""

_PROOF = {Proof.ANSWER: "yes", Proof.SUCCESS: "OK only", Proof.NOTHING: "no"}


def page() -> str:
    """The text of the page, without the note that it is generated."""
    described = {driver["class_fqn"]: driver for driver in list_supported_drivers(2).values()}
    lines = [INTRODUCTION.format(cinder=importlib.metadata.version("cinder"))]
    lines += ["## Overview", "", *_overview(described), "", "## All drivers", ""]
    header = (
        *("short name", "class", "transport", "required packages"),
        *("upstream", "deletion proves absence", "active-active"),
    )
    lines += [_line(header), _line("---" for _ in header)]
    lines += [_row(entry, described[entry.path]) for entry in _sorted()]
    lines += ["", "## Notes", ""]
    lines += [f"- `{entry.short_name}`: {entry.note}." for entry in _sorted() if entry.note]
    lines += ["", "## Packages", "", *_packages()]
    return "\n".join(lines) + "\n"


def _sorted() -> list[catalog.Entry]:
    return sorted(catalog.ENTRIES.values(), key=lambda entry: entry.short_name)


def _overview(described: dict[str, dict[str, Any]]) -> Iterator[str]:
    unsupported = sum(not driver["supported"] for driver in described.values())
    yield f"{len(described)} drivers, of which Cinder calls {unsupported} unsupported."
    yield ""
    counted = Counter(t for entry in catalog.ENTRIES.values() for t in entry.transports)
    yield _line(("transport", "drivers"))
    yield _line(("---", "---"))
    for transport, count in sorted(counted.items(), key=lambda item: (-item[1], item[0])):
        yield _line((transport, str(count)))


def _row(entry: catalog.Entry, driver: dict[str, Any]) -> str:
    return _line(
        (
            f"`{entry.short_name}`",
            f"`{entry.path.removeprefix(catalog.CINDER)}`",
            ", ".join(entry.transports),
            ", ".join(_package(module) for module in entry.packages),
            "supported" if driver["supported"] else "unsupported",
            f"{_proof(entry, 'volume')} / {_proof(entry, 'snapshot')}",
            "yes" if driver["active_active"] else "no",
        )
    )


def _proof(entry: catalog.Entry, kind: Kind) -> str:
    return _PROOF[removal(find_class(entry.path), kind).proof]


def _package(module: str) -> str:
    package = PACKAGES[module]
    return f"`{package.requirement}`" if package.distribution else f"`{module}` (system)"


def _packages() -> Iterator[str]:
    yield "A driver without its package, or with a version outside the range, is refused by name."
    yield ""
    for package in sorted(PACKAGES.values(), key=lambda package: package.module):
        tested = f" Tested; of the others {package.why}." if package.why else ""
        yield f"- `{package.module}`: {package.advice}.{tested}"


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        cinderlib.setup(directory)
        print(page(), end="")
