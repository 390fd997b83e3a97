"""Requests to the Kubernetes API, on plain JSON objects.

Used by the record store, by leader election and by the node's ledger.  Every request has
a time limit, nothing is repeated here: what a failure means, and whether to repeat, is
for the caller, who is told whether the request may have had an effect
(:mod:`csi_driver.kube.errors`).
"""

from __future__ import annotations

import itertools
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any
from urllib.parse import quote

import msgspec
import urllib3

from csi_driver import __version__
from csi_driver.base.errors import ConfigurationError
from csi_driver.kube import errors
from csi_driver.kube.connection import Connection

Object = dict[str, Any]
"""A Kubernetes object, or another JSON object of the API."""

MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 15.0
"""How long a connection, and then the answer to a request, is waited for."""

_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})

_FIRST_PAGE_ONLY = ("resourceVersion", "resourceVersionMatch")
"""Parameters of a list that its later pages inherit, and that the server refuses there."""


class Api:
    """The API server, for any number of threads.

    :param connection: where it is.
    :param connections: how many are kept open at most; as many as threads may ask at a time.
    :raises ConfigurationError: the certificates cannot be read.
    """

    def __init__(self, connection: Connection, *, connections: int = 512) -> None:
        self.connection = connection
        self.requests: Counter[str] = Counter()
        """How many requests were made, by verb; for metrics and benchmarks."""
        try:
            self._pool = urllib3.connection_from_url(
                connection.server,
                maxsize=connections,
                retries=False,
                socket_options=_KEEP_ALIVE,
                headers={
                    "User-Agent": f"cinder-csi/{__version__}",
                    "Accept": "application/json",
                    # Pages of lists only: the API server sends nothing else compressed.
                    "Accept-Encoding": "gzip",
                },
                **_tls(connection),
            )
        except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:
            raise ConfigurationError(
                f"The connection to {connection.server} cannot be prepared: {error}"
            ) from error

    # -- verbs -----------------------------------------------------------------

    def get(self, path: str) -> Object:
        """Read an object.

        :raises ApiNotFound: it is not there.
        :raises ApiError: see :meth:`request`.
        """
        return self.request("GET", path)

    def list(
        self, path: str, query: Mapping[str, str] | None = None, *, page: int = 500
    ) -> tuple[list[Object], str]:
        """Read a collection, in pages; answers the objects and their resource version.

        :param query: ``labelSelector``, ``fieldSelector``, ...
        :raises ApiExpired: it took too long, and the next page is not to be had any more.
        """
        items, version = self.stream(path, query, page=page)
        return list(items), version

    def stream(
        self, path: str, query: Mapping[str, str] | None = None, *, page: int = 500
    ) -> tuple[Iterator[Object], str]:
        """As :meth:`list`, but only one page is in memory at a time.

        Later pages are asked for, and errors raised, while the objects are iterated.
        """
        pages = self._pages(path, query, page)
        first = next(pages)
        # All pages are of the version that the first one names.
        raw = (item for each in itertools.chain([first], pages) for item in each.items)
        return map(msgspec.json.decode, raw), str(first.metadata["resourceVersion"])

    def _pages(self, path: str, query: Mapping[str, str] | None, size: int) -> Iterator[_Page]:
        """The pages of a collection; each is asked for while the one before is read."""

        def ask(**token: str) -> _Page:
            wanted = dict(query or {})
            if token:
                for name in _FIRST_PAGE_ONLY:
                    wanted.pop(name, None)
            asked = {**wanted, "limit": str(size), **token}
            answer: _Page = self._answer("GET", path, asked, decode=_decode_page)
            return answer

        with ThreadPoolExecutor(1) as pool:
            answer = ask()
            while token := answer.metadata.get("continue"):
                following = pool.submit(ask, **{"continue": token})
                yield answer
                answer = following.result()
            yield answer

    def create(self, path: str, body: Object) -> Object:
        """Make an object in the collection ``path``.

        :raises ApiConflict: one of this name exists.
        """
        return self.request("POST", path, body=body)

    def replace(self, path: str, body: Object) -> Object:
        """Write an object over the version that it names.

        :raises ApiConflict: the stored version is another.
        :raises ApiNotFound: it is gone.
        """
        return self.request("PUT", path, body=body)

    def patch(self, path: str, body: Object, kind: str = MERGE_PATCH, **query: str) -> Object:
        """Change a part of an object."""
        return self.request("PATCH", path, body=body, content_type=kind, query=query)

    def delete(self, path: str, *, uid: str = "", resource_version: str = "") -> Object:
        """Delete an object, if it still is the one that is meant.

        :raises ApiConflict: it is another object, or another version.
        :raises ApiNotFound: it is gone.
        """
        wanted = {"uid": uid, "resourceVersion": resource_version}
        preconditions = {name: value for name, value in wanted.items() if value}
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions}
        return self.request("DELETE", path, body=body)

    def watch(
        self,
        path: str,
        resource_version: str,
        query: Mapping[str, str] | None = None,
        *,
        seconds: int,
    ) -> Watch:
        """Follow a collection from a version on.

        :param seconds: after which the server ends the watch in good order; a server that
            does not is given up soon after.
        :raises ApiExpired: the version is too old.
        """
        asked = {
            **(query or {}),
            "watch": "true",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }
        limits = urllib3.Timeout(connect=CONNECT_SECONDS, read=seconds + ANSWER_SECONDS)
        return Watch(self._send("GET", path, asked, None, "", limits, "WATCH"))

    def request(
        self,
        verb: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
        answer_seconds: float = ANSWER_SECONDS,
    ) -> Object:
        """Make one request and answer its JSON object.

        :param path: from the root, as ``/apis/cinderlib.io/v1/cindervolumes``.
        :raises ApiUnreachable: not sent.
        :raises ApiOutcomeUnknown: sent, and no answer tells what became of it.
        :raises ApiBusy, ApiNotFound, ApiConflict, ApiExpired, ApiForbidden, ApiInvalid,
            ApiError: refused.
        """
        answer: Object = self._answer(verb, path, query, body, content_type, answer_seconds)
        return answer

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self._pool.close()

    # -- one request -----------------------------------------------------------

    def _answer(
        self,
        verb: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "",
        answer_seconds: float = ANSWER_SECONDS,
        decode: Callable[[bytes], Any] = msgspec.json.decode,
    ) -> Any:
        limits = urllib3.Timeout(connect=min(CONNECT_SECONDS, answer_seconds), read=answer_seconds)
        with closing(self._send(verb, path, query, body, content_type, limits, verb)) as response:
            try:
                return decode(response.read())
            except (urllib3.exceptions.HTTPError, ValueError, OSError) as error:
                raise errors.ApiOutcomeUnknown(
                    f"The answer to {verb} {path} cannot be read: {error}"
                ) from error
            finally:
                response.release_conn()

    def _send(
        self,
        verb: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Object | None,
        content_type: str,
        limits: urllib3.Timeout,
        counted_as: str,
    ) -> urllib3.BaseHTTPResponse:
        self.requests[counted_as] += 1
        try:
            headers = {**self._pool.headers, "Authorization": self.connection.authorization()}
        except OSError as error:
            raise errors.ApiUnreachable(f"The token cannot be read: {error}") from error
        if body is not None:
            headers["Content-Type"] = content_type
        if not headers["Authorization"]:
            del headers["Authorization"]
        try:
            response = self._pool.urlopen(
                verb,
                path + _encoded(query),
                body=None if body is None else msgspec.json.encode(body),
                headers=headers,
                timeout=limits,
                preload_content=False,
            )
        except (
            urllib3.exceptions.NewConnectionError,
            urllib3.exceptions.ConnectTimeoutError,
            urllib3.exceptions.SSLError,
        ) as error:
            raise errors.ApiUnreachable(
                f"{self.connection.server} cannot be reached: {error}"
            ) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise errors.ApiOutcomeUnknown(
                f"{verb} {path} at {self.connection.server} has no answer: {error}"
            ) from error
        if response.status >= 300:
            raise _refusal(verb, path, response)
        return response


class _Page(msgspec.Struct):
    """A page of a collection, its objects not decoded yet: each is when its turn comes."""

    metadata: Object
    items: list[msgspec.Raw]


_decode_page = msgspec.json.Decoder(_Page).decode


class Watch:
    """The events of a collection as they come: ``{"type": ..., "object": ...}``."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response

    def __iter__(self) -> Iterator[Object]:
        """Yield events until the server ends the watch.

        :raises ApiOutcomeUnknown: the connection broke.
        :raises ApiExpired: the version that was watched from is too old now.
        """
        try:
            for line in _lines(self._response):
                event: Object = msgspec.json.decode(line)
                if event["type"] == "ERROR":
                    raise _of_status("WATCH", "", event["object"])
                yield event
        except (urllib3.exceptions.HTTPError, ValueError, OSError) as error:
            raise errors.ApiOutcomeUnknown(f"The watch broke: {error}") from error
        finally:
            self._response.close()

    def stop(self) -> None:
        """End the watch; for another thread than the one that reads it."""
        # A close alone would not wake the reader.
        connection = getattr(self._response, "connection", None)
        sock = getattr(connection, "sock", None)
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    rest = b""
    for chunk in response.stream(1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines


_KEEP_ALIVE = [
    *urllib3.connection.HTTPConnection.default_socket_options,
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
]
"""A connection whose peer vanished is noticed even while a watch waits on it."""


def _tls(connection: Connection) -> dict[str, Any]:
    if not connection.server.startswith("https://"):
        raise ConfigurationError(
            f"{connection.server} is not an https address: tokens and secrets travel on it"
        )
    return {
        "cert_reqs": "CERT_REQUIRED",
        "ca_certs": connection.ca_file,
        "cert_file": connection.client_certificate,
        "key_file": connection.client_key,
    }


def _encoded(query: Mapping[str, str] | None) -> str:
    if not query:
        return ""
    return "?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())


_KINDS: dict[int, type[errors.ApiError]] = {
    400: errors.ApiInvalid,
    401: errors.ApiForbidden,
    403: errors.ApiForbidden,
    404: errors.ApiNotFound,
    409: errors.ApiConflict,
    410: errors.ApiExpired,
    422: errors.ApiInvalid,
    429: errors.ApiBusy,
}


def _refusal(verb: str, path: str, response: urllib3.BaseHTTPResponse) -> errors.ApiError:
    try:
        status = msgspec.json.decode(response.read())
    except (urllib3.exceptions.HTTPError, ValueError, OSError):
        status = {}
    finally:
        response.release_conn()
    if not isinstance(status, dict):
        status = {}
    error = _of_status(verb, path, {"code": response.status} | status)
    if isinstance(error, errors.ApiBusy):
        error.retry_after = _seconds(response.headers.get("Retry-After"))
    return error


def _of_status(verb: str, path: str, status: Object) -> errors.ApiError:
    """The error that an answer of kind ``Status`` tells."""
    code = int(status.get("code") or 0)
    kind = _KINDS.get(code, errors.ApiError)
    if kind is errors.ApiNotFound and not (status.get("details") or {}).get("name"):
        kind = errors.ApiResourceMissing
    if code >= 500 and verb in _WRITES:
        # etcd may have the change although the API server saw no confirmation.
        kind = errors.ApiOutcomeUnknown
    elif code >= 500:
        kind = errors.ApiBusy
    said = status.get("message") or status.get("reason") or "no reason given"
    return kind(
        f"{verb} {path}: {said} (HTTP {code})", status=code, reason=str(status.get("reason", ""))
    )


def _seconds(text: str | None) -> float:
    try:
        return max(0.0, float(text or ""))
    except ValueError:
        return 1.0
