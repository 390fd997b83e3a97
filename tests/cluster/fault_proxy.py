"""A proxy before the API server that loses answers, refuses and delays, as a test asks.

Speaks the API server's TLS with its certificate, so clients see no difference.  Each
request is shown to the test's ``judge``, which says what becomes of it.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from csi_driver.kube.connection import Connection
from tests.cluster.apiserver import ADMIN_TOKEN, ApiServer


@dataclass(frozen=True)
class Verdict:
    """What becomes of a request.

    :ivar forward: the API server gets it; without, nothing happens there.
    :ivar status: answer this instead of what the API server answered; 0: its own answer.
    :ivar lose: the connection is closed instead of answering.
    :ivar until: the request waits for this before anything else happens.
    """

    forward: bool = True
    status: int = 0
    retry_after: str = ""
    lose: bool = False
    until: threading.Event | None = None


PASS = Verdict()

Judge = Callable[[str, str], Verdict]
"""From verb and path to what becomes of the request."""


class FaultProxy:
    """The proxy, running; ``judge`` may be replaced at any time."""

    def __init__(self, server: ApiServer) -> None:
        self.judge: Judge = lambda verb, path: PASS
        self.seen: list[str] = []
        """Every request, as verb and path."""
        self._upstream = server
        self._open: set[Handler] = set()
        self._lock = threading.Lock()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(server.directory / "api.crt", server.directory / "api.key")
        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.proxy = self
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def connection(self, token: str = ADMIN_TOKEN) -> Connection:
        """A connection through the proxy."""
        return Connection(
            server=f"https://127.0.0.1:{self._server.server_address[1]}",
            namespace="default",
            authorization=lambda: f"Bearer {token}",
            ca_file=str(self._upstream.directory / "ca.crt"),
        )

    def once(self, verb: str, verdict: Verdict) -> None:
        """Give the next request of a verb a verdict; all others pass."""
        pending = [verdict]

        def judge(asked: str, path: str) -> Verdict:
            return pending.pop() if asked == verb and pending else PASS

        self.judge = judge

    def cut(self) -> None:
        """Break every connection that is open, watches too."""
        with self._lock:
            handlers = list(self._open)
        for handler in handlers:
            handler.cut()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.cut()

    def opened(self, handler: Handler) -> None:
        with self._lock:
            self._open.add(handler)

    def closed(self, handler: Handler) -> None:
        with self._lock:
            self._open.discard(handler)

    def upstream(self) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(self._upstream.directory / "ca.crt"))
        return http.client.HTTPSConnection("127.0.0.1", self._upstream.port, context=context)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    proxy: FaultProxy

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is nothing to tell."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self._up = self.server.proxy.upstream()
        self.server.proxy.opened(self)

    def finish(self) -> None:
        self.server.proxy.closed(self)
        self._up.close()
        with suppress(OSError):
            super().finish()

    def cut(self) -> None:
        for sock in (self.connection, self._up.sock):
            with suppress(OSError, AttributeError):
                sock.shutdown(2)

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def _handle(self) -> None:
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        proxy.seen.append(f"{self.command} {self.path}")
        verdict = proxy.judge(self.command, self.path)
        if verdict.until is not None:
            verdict.until.wait()
        answer = self._forward(body) if verdict.forward else None
        if verdict.lose:
            if answer is not None:
                answer.read()
            self.close_connection = True
            self.connection.shutdown(2)
        elif verdict.status:
            if answer is not None:
                answer.read()
            self._refuse(verdict)
        elif answer is not None:
            self._relay(answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def _forward(self, body: bytes) -> http.client.HTTPResponse:
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
        # A connection of its own: one that was read to its last byte may still not be free.
        self._up.close()
        self._up = self.server.proxy.upstream()
        self._up.request(self.command, self.path, body or None, headers)
        return self._up.getresponse()

    def _refuse(self, verdict: Verdict) -> None:
        text = json.dumps({"kind": "Status", "message": "as the test asks", "code": verdict.status})
        self.send_response(verdict.status)
        self.send_header("Content-Length", str(len(text)))
        if verdict.retry_after:
            self.send_header("Retry-After", verdict.retry_after)
        self.end_headers()
        self.wfile.write(text.encode())

    def _relay(self, answer: http.client.HTTPResponse) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        if encoding := answer.headers.get("Content-Encoding"):
            self.send_header("Content-Encoding", encoding)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while chunk := answer.read1(1 << 16):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")
