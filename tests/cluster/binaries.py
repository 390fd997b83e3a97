"""Kubernetes' own programs for the tests: built from their Go modules, once for all checkouts.

Called by ``make test-kubernetes`` as ``python -m tests.cluster.binaries``, which prints where
they are, and by the fixtures of tests/cluster: a build takes longer than a test may.
kube-apiserver, kube-controller-manager, kube-scheduler, kubelet and kubectl are one program
under five names; the sidecars and the snapshot controller are built against the same versions
of the Kubernetes modules, so that Go compiles those once.
etcd is the release that those modules name, which is the one that kubeadm installs: an older
one lacks what the API server's consistent reads need, and lists cost seven times as much.

Building takes about 8 minutes of CPU time from an empty Go cache, seconds with a full one;
Helm, for the tests of the chart, 3 more.  The versions are part of the cache directories'
names.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

KUBERNETES = "1.36.3"
PROVISIONER = "6.3.0"
ATTACHER = "4.12.0"
SNAPSHOTTER = "8.6.0"
RESIZER = "2.2.0"
HELM = "4.3.1"

HERE = Path(__file__).parent
PROGRAMS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kubectl",
)
_SIDECARS = "github.com/kubernetes-csi"
# The sidecars need a newer CSI specification than Kubernetes itself.
_NOT_PINNED = ("k8s.io/kubernetes", "github.com/container-storage-interface/", _SIDECARS)


class CannotBuild(Exception):
    """The programs cannot be had here; the message says why."""


@dataclass(frozen=True)
class Binaries:
    """Where the programs are.

    :ivar snapshot_crds: definitions of VolumeSnapshot and its like, YAML files.
    """

    directory: Path

    def __getitem__(self, name: str) -> str:
        return str(self.directory / name)

    @property
    def snapshot_crds(self) -> list[Path]:
        return sorted((self.directory / "snapshot-crds").glob("*.yaml"))


def binaries() -> Binaries:
    """The programs, built first where they are absent.

    :raises CannotBuild: there is no Go, or a build failed.
    """
    versions = "-".join((KUBERNETES, PROVISIONER, ATTACHER, SNAPSHOTTER, RESIZER, "etcd"))
    return Binaries(_cached(f"kubernetes-{versions}", _build))


def helm() -> Path:
    """The command ``helm``, built first where it is absent.

    :raises CannotBuild: there is no Go, or the build failed.
    """
    return _cached(f"helm-{HELM}", _build_helm) / "helm"


def _cached(name: str, build: Callable[[Path], Path]) -> Path:
    """A directory of the cache; ``build`` makes it, below the one that it is given."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cinder-csi-driver"
    directory = cache / name
    if directory.exists():
        return directory
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "kubernetes.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs at once build once
        if not directory.exists():
            print(f"Building {name}: some minutes, once", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(dir=cache, prefix="build-") as work:
                made = build(Path(work))
                made.rename(directory)
    return directory


def _build_helm(work: Path) -> Path:
    _require_go()
    out = work / "bin"
    out.mkdir()
    command = f"helm.sh/helm/v4/cmd/helm@v{HELM}"
    _run(["go", "install", "-ldflags", "-s -w", command], work, GOBIN=str(out))
    return out


def _require_go() -> None:
    if shutil.which("go") is None:
        raise CannotBuild("Kubernetes' programs have to be built by Go, and there is no Go here")


def _build(work: Path) -> Path:
    _require_go()
    out = work / "bin"
    out.mkdir()
    kube = work / "kube"
    _build_kubernetes(kube, out)
    _build_sidecars(kube, work / "sidecars", out)
    return out


def _build_kubernetes(work: Path, out: Path) -> None:
    """A module of our own with the requirements of k8s.io/kubernetes.

    ``go install`` refuses that module, because it replaces its parts by directories of
    its own tree; here each is replaced by the same part as it was published.
    """
    work.mkdir()
    module = json.loads(_run(["go", "mod", "download", "-json", _kubernetes()], work))
    source = Path(module["Dir"])
    parts = f"v0.{KUBERNETES.partition('.')[2]}"
    text = (source / "go.mod").read_text()
    text = re.sub(r"^module .*", "module tests", text, flags=re.M)
    text = re.sub(r"(k8s\.io/[a-z-]+) v0\.0\.0$", rf"\1 {parts}", text, flags=re.M)
    text = re.sub(r"(k8s\.io/[a-z-]+) => \./staging/.*", rf"\1 => \1 {parts}", text)
    (work / "go.mod").write_text(text)
    (work / "go.sum").write_text((source / "go.sum").read_text())
    (work / "kube").mkdir()
    shutil.copy(HERE / "kube" / "main.go", work / "kube")
    _run(["go", "mod", "edit", "-require", _kubernetes()], work)
    major, minor, _ = KUBERNETES.split(".")
    told = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor}
    flags = " ".join(
        f"-X {package}.{name}={value}"
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        for name, value in told.items()
    )
    _go_build(work, out / "kube", "./kube", flags)
    for name in PROGRAMS:
        (out / name).symlink_to("kube")
    _go_build(work, out / "etcd", "go.etcd.io/etcd/server/v3", "")


def _build_sidecars(kube: Path, work: Path, out: Path) -> None:
    work.mkdir()
    text = (kube / "go.mod").read_text()
    (work / "go.mod").write_text(re.sub(r"^module .*", "module sidecars", text, flags=re.M))
    shutil.copy(kube / "go.sum", work)
    wanted = {
        f"{_SIDECARS}/external-provisioner/v6": PROVISIONER,
        f"{_SIDECARS}/external-attacher/v4": ATTACHER,
        f"{_SIDECARS}/external-snapshotter/v8": SNAPSHOTTER,
        f"{_SIDECARS}/external-snapshotter/client/v8": SNAPSHOTTER,
        f"{_SIDECARS}/external-resizer/v2": RESIZER,
    }
    edits = [f"-require={path}@v{version}" for path, version in wanted.items()]
    listed = _run(["go", "list", "-m", "-f", "{{.Path}} {{.Version}} {{.Replace}}", "all"], kube)
    for line in listed.splitlines():
        path, version, replaced = line.split(" ", 2)
        if version and replaced == "<nil>" and not path.startswith(_NOT_PINNED):
            edits.append(f"-replace={path}={path}@{version}")
    _run(["go", "mod", "edit", *edits], work)
    programs = {
        "csi-provisioner": ("external-provisioner/v6", PROVISIONER),
        "csi-attacher": ("external-attacher/v4", ATTACHER),
        "csi-snapshotter": ("external-snapshotter/v8", SNAPSHOTTER),
        "snapshot-controller": ("external-snapshotter/v8", SNAPSHOTTER),
        "csi-resizer": ("external-resizer/v2", RESIZER),
    }
    for name, (module, version) in programs.items():
        package = f"{_SIDECARS}/{module}/cmd/{name}"
        _go_build(work, out / name, package, f"-X main.version=v{version}")
    client = f"{_SIDECARS}/external-snapshotter/client/v8"
    source = Path(_run(["go", "list", "-m", "-f", "{{.Dir}}", client], work).strip())
    crds = out / "snapshot-crds"
    crds.mkdir()
    for path in (source / "config" / "crd").glob("snapshot.storage.k8s.io_*.yaml"):
        shutil.copyfile(path, crds / path.name)


def _kubernetes() -> str:
    return f"k8s.io/kubernetes@v{KUBERNETES}"


def _go_build(work: Path, out: Path, package: str, flags: str) -> None:
    _run(["go", "build", "-ldflags", f"-s -w {flags}", "-o", str(out), package], work)


def _run(command: list[str], directory: Path, **environment: str) -> str:
    go = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod -buildvcs=false"}
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env={**os.environ, **go, **environment},
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    except subprocess.CalledProcessError as error:
        raise CannotBuild(f"{' '.join(command)}: {error.stderr[-2000:]}") from error
    return done.stdout


if __name__ == "__main__":
    try:
        print(binaries().directory)
        print(helm().parent)
    except CannotBuild as problem:
        sys.exit(str(problem))
