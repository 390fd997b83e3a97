"""What the simulators of storage arrays share: an HTTPS server on loopback that misbehaves.

An array answers requests from real state, under one lock, as its drivers' vendors do.  A
test tells it beforehand what to do wrong: refuse a request, stop before or after the work,
lose an answer after the work, or go dark in the middle of an operation.  Imports no Cinder.
"""

from __future__ import annotations

import datetime
import functools
import ipaddress
import json
import ssl
import threading
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.doubles.faults import Gate, When

Json = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """One request; ``resource`` is what a test names it by (``volumes``, ``mappings``)."""

    method: str
    path: str
    query: dict[str, list[str]]
    body: Json
    resource: str = ""


@dataclass(frozen=True)
class Answer:
    """What the array answers; without a body nothing is sent."""

    status: int
    body: Json | None = None


class Refusal(Exception):
    """The array refuses a request: its answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self.answer = answer


@dataclass
class _Fault:
    method: str
    resource: str
    refusal: Answer | None = None
    lose: bool = False
    times: int = 1

    def concerns(self, request: Request) -> bool:
        return (self.method, self.resource) == (request.method, request.resource)


@dataclass
class _Darkness:
    """How many changes the array still makes, and whether a request went unanswered."""

    changes_left: int
    missed: bool = False


@dataclass
class _Disturbances:
    """Protected by the array's ``_told``."""

    faults: list[_Fault] = field(default_factory=list)
    gates: dict[tuple[str, str, When], Gate] = field(default_factory=dict)
    darkness: _Darkness | None = None


class Array:
    """A simulated array; as a context manager it serves until the end.

    ``state`` protects what the array holds: one request is worked on at a time.
    ``_told`` protects what tests told it and the log of requests; neither is held while a
    request waits at a gate.

    :param login: user and password that requests must come with.
    """

    def __init__(self, login: tuple[str, str]) -> None:
        self.state = threading.RLock()
        self.requests: list[tuple[str, str]] = []
        self._login = login
        self._told = threading.Lock()
        self._disturbances = _Disturbances()
        self.certificate = _certificate()

    # -- the server ---------------------------------------------------------------

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), functools.partial(_Handler, self))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        # The handshake happens in the thread of the request: a slow client holds up nobody.
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.light()
        with self._told:
            for gate in self._disturbances.gates.values():
                gate.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def address(self) -> str:
        """``host:port`` of the management interface."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    # -- what a test tells the array --------------------------------------------------

    def refuse(self, method: str, resource: str, message: str, times: int = 1) -> None:
        """Refuse the next requests of a kind, before anything is done."""
        answer = self.refusal(message)
        with self._told:
            self._disturbances.faults.append(_Fault(method, resource, answer, times=times))

    def lose_answer(self, method: str, resource: str) -> None:
        """Do the work of the next request of a kind, and lose the answer."""
        with self._told:
            self._disturbances.faults.append(_Fault(method, resource, lose=True))

    def hold(self, method: str, resource: str, when: When = "before") -> Gate:
        """Let requests of a kind stop before or after their work until the gate is released."""
        with self._told:
            return self._disturbances.gates.setdefault((method, resource, when), Gate())

    def go_dark(self, changes: int) -> None:
        """Answer nothing any more once ``changes`` requests have changed something.

        The answer of the last of them is lost too; with 0 nothing is answered from now on.
        """
        with self._told:
            self._disturbances.darkness = _Darkness(changes)

    def light(self) -> bool:
        """Answer again; says whether a request went unanswered."""
        with self._told:
            darkness, self._disturbances.darkness = self._disturbances.darkness, None
        return darkness is not None and darkness.missed

    def forget_requests(self) -> None:
        """Begin the log of requests anew."""
        with self._told:
            self.requests.clear()

    # -- for the arrays ---------------------------------------------------------------

    def resource(self, path: str) -> str:
        """What the path of a request is about."""
        raise NotImplementedError

    def work(self, request: Request) -> Answer:
        """Do what a request asks; called under ``state``.

        :raises Refusal: the array does not.
        """
        raise NotImplementedError

    def refusal(self, message: str) -> Answer:
        """How this array says no."""
        raise NotImplementedError

    # -- one request --------------------------------------------------------------------

    def respond(self, request: Request, authorization: str) -> Answer | None:
        """The answer of a request; None when it gets lost."""
        if not self._authorized(authorization):
            return Answer(401, {"message": "unauthorized"})
        with self._told:
            self.requests.append((request.method, request.resource))
            works, answers = self._visibility(request)
            fault = self._fault(request)
        if not works:
            return None
        self._stop(request, "before")
        if fault is not None and fault.refusal is not None:
            return fault.refusal
        try:
            with self.state:
                answer = self.work(request)
        except Refusal as refused:
            answer = refused.answer
        self._stop(request, "after")
        return answer if answers and not (fault is not None and fault.lose) else None

    def _authorized(self, authorization: str) -> bool:
        kind, _, given = authorization.partition(" ")
        return kind == "Basic" and b64decode(given).decode() == ":".join(self._login)

    def _visibility(self, request: Request) -> tuple[bool, bool]:
        """Whether a request is worked on, and whether it is answered."""
        darkness = self._disturbances.darkness
        if darkness is None:
            return True, True
        if darkness.changes_left == 0:
            darkness.missed = True
            return False, False
        if request.method != "GET":
            darkness.changes_left -= 1
        darkness.missed = darkness.changes_left == 0
        return True, not darkness.missed

    def _fault(self, request: Request) -> _Fault | None:
        faults = self._disturbances.faults
        found = next((fault for fault in faults if fault.concerns(request)), None)
        if found is not None:
            found.times -= 1
            if not found.times:
                faults.remove(found)
        return found

    def _stop(self, request: Request, when: When) -> None:
        with self._told:
            gate = self._disturbances.gates.get((request.method, request.resource, when))
        if gate is not None:
            gate.stop_here()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or did not trust the certificate: nothing to tell."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Else the body waits for the acknowledgement of the headers.
    wbufsize = -1
    disable_nagle_algorithm = True

    def __init__(self, array: Array, *args: Any) -> None:
        self._array = array
        super().__init__(*args)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _respond(self) -> None:
        parts = urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(
            method=self.command,
            path=parts.path,
            query=parse_qs(parts.query),
            body=json.loads(raw) if raw else {},
            resource=self._array.resource(parts.path),
        )
        answer = self._array.respond(request, self.headers.get("Authorization", ""))
        if answer is None:
            self.close_connection = True
            return
        body = b"" if answer.body is None else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET: Callable[[_Handler], None] = _respond
    do_POST: Callable[[_Handler], None] = _respond
    do_PUT: Callable[[_Handler], None] = _respond
    do_PATCH: Callable[[_Handler], None] = _respond
    do_DELETE: Callable[[_Handler], None] = _respond


@functools.cache
def _certificate() -> Path:
    """A certificate for 127.0.0.1 with its key, made anew in each run; a file."""
    import atexit
    import tempfile

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "simulated array")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    directory = tempfile.TemporaryDirectory(prefix="simulators-")
    atexit.register(directory.cleanup)
    path = Path(directory.name) / "array.pem"
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path
