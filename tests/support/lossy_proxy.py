"""A TCP proxy that loses what it is told to lose, as a network does at the worst moment."""

from __future__ import annotations

import contextlib
import socket
import threading


class LossyProxy:
    """Hands bytes on to ``port`` of this machine, until a request that holds ``trigger`` comes.

    Then the connection is cut: before the request is handed on, or with ``lose="answer"`` after
    the server has answered, so that it is done and nobody knows. Only the first such request.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._plan: tuple[bytes, str] | None = None
        self.accepting = True
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self, what: str, trigger: bytes) -> None:
        """Cut at the next request with ``trigger``; ``what`` is "request" or "answer"."""
        self._plan = (trigger, what)

    def close(self) -> None:
        """Stop listening and cut all connections."""
        self._listener.close()
        self._cut_all()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if not self.accepting:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open += [client, server]
                pairs = ((client, server, True), (server, client, False))
                for source, sink, requests in pairs:
                    arguments = (source, sink, requests)
                    threading.Thread(target=self._pump, args=arguments, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, requests: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                plan = self._plan
                if requests and plan and plan[0] in data:
                    if plan[1] == "request":
                        self._plan = None
                        break
                    self._plan = (b"", "cut")
                elif not requests and plan == (b"", "cut"):
                    self._plan = None
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _cut_all(self) -> None:
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
