"""A real API server with its etcd, for tests: started, frozen, killed and started again.

Listens on free ports of 127.0.0.1; ready in about 3 s, 350 MiB.  There are no
controllers: no garbage collection, no default service accounts.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from csi_driver.kube.api import Api, Object
from csi_driver.kube.connection import Connection
from csi_driver.kube.errors import ApiError
from tests.cluster.binaries import Binaries
from tests.support.waiting import look_again, wait_until

ADMIN_TOKEN = "admin-of-the-tests"
READY_SECONDS = 60


class ApiServer:
    """etcd and kube-apiserver below a directory.  ``admin`` may do everything.

    :param arguments: for kube-apiserver, after all others.
    """

    def __init__(
        self, programs: Binaries, directory: Path, arguments: tuple[str, ...] = ()
    ) -> None:
        self._programs = programs
        self._arguments = arguments
        self.directory = directory
        self._etcd_port, self._peer_port, self.port = _free_ports(3)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.url = f"https://127.0.0.1:{self.port}"
        self.kubeconfig = directory / "kubeconfig"
        _make_certificates(directory)
        (directory / "tokens.csv").write_text(f'{ADMIN_TOKEN},admin,admin,"system:masters"\n')
        self._write_kubeconfig(self.kubeconfig, ADMIN_TOKEN)
        self.admin = Api(self.connection(ADMIN_TOKEN))

    def connection(self, token: str, namespace: str = "default") -> Connection:
        """A connection of one who has a token."""
        return Connection(
            server=self.url,
            namespace=namespace,
            authorization=lambda: f"Bearer {token}",
            ca_file=str(self.directory / "ca.crt"),
        )

    # -- the processes ---------------------------------------------------------

    def start(self) -> None:
        """Start what does not run, and wait until the API server is ready."""
        if "etcd" not in self._processes:
            self._start_etcd()
        if "kube-apiserver" not in self._processes:
            self._start_apiserver()
        self._wait_until_ready()

    def stop(self) -> None:
        """End both; the data stays."""
        # The API server first: without etcd it would wait for a minute.
        for name in ("kube-apiserver", "etcd"):
            self.kill(name)

    def kill(self, name: str = "kube-apiserver") -> None:
        """End a process at once; :meth:`start` starts it again."""
        process = self._processes.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Let the API server accept connections and answer nothing."""
        process = self._processes["kube-apiserver"]
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def pid(self, name: str = "kube-apiserver") -> int:
        """The process id of a process that runs."""
        return self._processes[name].pid

    def metrics(self) -> str:
        """What the API server counts, as Prometheus reads it."""
        return self.kubectl("get", "--raw", "/metrics")

    def log(self) -> str:
        """The end of the API server's log."""
        return (self.directory / "kube-apiserver.log").read_text()[-4000:]

    # -- what tests do in it -----------------------------------------------------

    def apply(self, *objects: Object) -> None:
        """Make or change objects, and wait until definitions among them are served."""
        for item in objects:
            self.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(item))
        names = [each for each in objects if each["kind"] == "CustomResourceDefinition"]
        if names:
            paths = [f"crd/{each['metadata']['name']}" for each in names]
            self.kubectl("wait", "--for=condition=Established", "--timeout=30s", *paths)
        for each in names:
            # Established is not served yet: the first lists are refused.
            wait_until(f"{each['metadata']['name']} is served", lambda: self._serves(each))  # noqa: B023

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints, as the administrator."""
        done = subprocess.run(
            [self._programs["kubectl"], f"--kubeconfig={self.kubeconfig}", *arguments],
            check=False,
            input=stdin,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def write_kubeconfig(
        self, path: Path, token: str, namespace: str = "default", url: str = ""
    ) -> Path:
        """A kubeconfig of one who has a token and lives in a namespace.

        :param url: of a proxy in between.
        """
        self._write_kubeconfig(path, token, namespace, url)
        return path

    # -- parts -------------------------------------------------------------------

    def _serves(self, definition: Object) -> bool:
        spec = definition["spec"]
        version = spec["versions"][0]["name"]
        path = f"/apis/{spec['group']}/{version}/{spec['names']['plural']}"
        try:
            self.admin.request("GET", path, query={"limit": "1"})
        except ApiError:
            return False
        return True

    def _start_etcd(self) -> None:
        url, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{self._peer_port}"
        self._spawn(
            "etcd",
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        )

    def _start_apiserver(self) -> None:
        here = self.directory
        self._spawn(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--tls-cert-file={here / 'api.crt'}",
            f"--tls-private-key-file={here / 'api.key'}",
            f"--client-ca-file={here / 'ca.crt'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={here / 'sa.key'}",
            f"--service-account-signing-key-file={here / 'sa.key'}",
            f"--token-auth-file={here / 'tokens.csv'}",
            "--service-cluster-ip-range=10.96.0.0/24",
            "--allow-privileged=true",
            "--authorization-mode=RBAC",
            # A loopback address may not become the endpoint of the service "kubernetes".
            "--endpoint-reconciler-type=none",
            *self._arguments,
        )

    def _spawn(self, name: str, *arguments: str) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [self._programs[name], *arguments],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + READY_SECONDS
        while True:
            for name, process in self._processes.items():
                assert process.poll() is None, f"{name} ended: {self.log()}"
            try:
                self.admin.request("GET", "/api/v1/namespaces/default")
                return
            except ApiError as error:
                assert time.monotonic() < until, f"not ready: {error}\n{self.log()}"
                look_again()

    def _write_kubeconfig(
        self, path: Path, token: str, namespace: str = "default", url: str = ""
    ) -> None:
        context = {"cluster": "tests", "user": "user", "namespace": namespace}
        authority = str(self.directory / "ca.crt")
        cluster = {"server": url or self.url, "certificate-authority": authority}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "tests",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "tests", "context": context}],
        }
        path.write_text(yaml.safe_dump(config))


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _make_certificates(directory: Path) -> None:
    """A CA, the API server's certificate, and the key that signs service account tokens."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")])
    now = datetime.datetime.now(datetime.UTC)

    def certificate(
        subject: x509.Name, public: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=2))
        )

    ca = (
        certificate(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    names = [
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.DNSName("localhost"),
        x509.DNSName("kubernetes.default.svc"),
    ]
    served = (
        certificate(name, key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / "ca.crt").write_bytes(ca.public_bytes(pem))
    (directory / "api.crt").write_bytes(served.public_bytes(pem))
    signing = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for file, private in (("api.key", key), ("sa.key", signing)):
        (directory / file).write_bytes(
            private.private_bytes(
                pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
