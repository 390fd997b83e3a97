"""Authenticated encryption of what must not lie in clear text.

``controller`` seals the publish_context and ``node`` opens it, with the transport
keys; the record stores' :mod:`~csi_driver.cinderlib.persistence.sealed` seals
driver-private secrets with the records keys, which only controllers have.  Sealed
text is ``base64(version | key id | nonce | AES-256-GCM(zlib(plain)))``; what it was
made for (driver, volume, node; or kind, record, field) is bound in as associated
data, so that sealed bytes are of no use anywhere else.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import logging
import os
import secrets
import threading
import time
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from csi_driver.base import decoding
from csi_driver.base.errors import (
    CinderCSIError,
    ConfigurationError,
    SealError,
    StateDirectoryError,
)
from csi_driver.base.files import read_text, write_atomic, write_new

LOG = logging.getLogger(__name__)

_VERSION = b"\x01"
_KEY_ID_BYTES = 4
_KEY_BYTES = 32
_NONCE_BYTES = 12


class KeyRing(msgspec.Struct, frozen=True, kw_only=True):
    """Keys by id (8 hexadecimal digits); ``current`` seals, all of them open.

    Keys are base64 text of 32 bytes; anything else is a ValueError.  Rotation
    adds a key and moves ``current``; an old key stays while anything sealed with
    it is in use.  ``created`` says when a key was made (seconds since the epoch),
    where that is known.
    """

    current: str
    keys: dict[str, str]
    created: dict[str, float] = {}

    def __post_init__(self) -> None:
        # msgspec turns a ValueError into its own decoding error.
        if self.current not in self.keys:
            raise ValueError("the current key is not in it")
        for key_id, key in self.keys.items():
            if len(bytes.fromhex(key_id)) != _KEY_ID_BYTES:
                raise ValueError(f"{key_id!r} is no key id")
            if len(base64.b64decode(key, validate=True)) != _KEY_BYTES:
                raise ValueError(f"key {key_id} has not {_KEY_BYTES} bytes")

    def __repr__(self) -> str:
        return f"KeyRing(current={self.current!r}, keys={sorted(self.keys)})"  # never the keys

    @classmethod
    def generate(cls, now: float | None = None) -> KeyRing:
        """A ring of one new random key, made ``now`` (seconds since the epoch)."""
        key_id = secrets.token_hex(_KEY_ID_BYTES)
        key = base64.b64encode(os.urandom(_KEY_BYTES)).decode()
        made = time.time() if now is None else now
        return cls(current=key_id, keys={key_id: key}, created={key_id: made})

    def rotated(self, now: float | None = None) -> KeyRing:
        """This ring with a new current key; the others still open."""
        new = self.generate(now)
        while new.current in self.keys:
            new = self.generate(now)
        return KeyRing(
            current=new.current,
            keys=self.keys | new.keys,
            created=self.created | new.created,
        )

    def pruned(self, in_use: Collection[str]) -> KeyRing:
        """This ring with the current key and those in use only."""
        kept = {*in_use, self.current}
        return KeyRing(
            current=self.current,
            keys={key_id: key for key_id, key in self.keys.items() if key_id in kept},
            created={key_id: at for key_id, at in self.created.items() if key_id in kept},
        )

    def seal(self, plain: bytes, bound_to: tuple[str, ...]) -> str:
        """Compress, encrypt and encode ``plain``.

        :param bound_to: what the bytes are for; :meth:`open` must name the same.
        """
        nonce = os.urandom(_NONCE_BYTES)
        cipher = AESGCM(base64.b64decode(self.keys[self.current]))
        body = cipher.encrypt(nonce, zlib.compress(plain, 9), _associated(bound_to))
        return base64.b64encode(_VERSION + bytes.fromhex(self.current) + nonce + body).decode()

    def open(self, sealed: str, bound_to: tuple[str, ...]) -> bytes:
        """Undo :meth:`seal`.

        :raises SealError: damaged, made for something else, or the key is unknown.
        """
        raw = _decoded(sealed)
        key_id = _key_id(raw)
        if key_id not in self.keys:
            raise SealError(f"The text was sealed with key {key_id}, which is not known here")
        nonce = raw[1 + _KEY_ID_BYTES : 1 + _KEY_ID_BYTES + _NONCE_BYTES]
        body = raw[1 + _KEY_ID_BYTES + _NONCE_BYTES :]
        cipher = AESGCM(base64.b64decode(self.keys[key_id]))
        try:
            return zlib.decompress(cipher.decrypt(nonce, body, _associated(bound_to)))
        except (InvalidTag, zlib.error, ValueError) as error:
            raise SealError(f"The text was not sealed for {' / '.join(bound_to)}") from error


def key_id_of(sealed: str) -> str:
    """The id of the key that :meth:`KeyRing.seal` used; it is not secret.

    :raises SealError: this was never sealed text.
    """
    return _key_id(_decoded(sealed))


# -- key files --------------------------------------------------------------------


class KeyFile:
    """The key ring of a file, read again when the file changes; call it for the ring.

    What ``cinder-csi serve`` hands out as ``keys``: a rotation reaches a running
    process at its next use of a key.  A file that is gone or damaged is logged, and
    the ring of before stays: it may be the last copy there is.

    :param shared: other processes have a copy of the file: it is never made here, where it
        would have keys that the others do not know.
    :raises ConfigurationError: the file cannot be understood, or is shared and not there.
    :raises StateDirectoryError: it cannot be read or made.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self._path = path
        # Protects _ring and _stamp: one thread reads a changed file.
        self._lock = threading.Lock()
        if not shared:
            load_or_create(path)
        elif not path.exists():
            raise ConfigurationError(
                f"There is no key file {path}",
                advice="cinder-csi keys create makes the rings once for all replicas and nodes;"
                " mount the Secret that has them as this directory",
            )
        self._stamp = _stamp(path)
        self._ring = load(path)

    def __call__(self) -> KeyRing:
        """The ring as the file has it now."""
        with self._lock:
            # Before the content: a change in between is seen at the next call.
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._ring = load(self._path)
                except CinderCSIError as error:
                    LOG.error("The keys of before are used on: %s", error)
            return self._ring


def load(path: Path) -> KeyRing:
    """The key ring kept at ``path``.

    :raises ConfigurationError: there is none, or it cannot be understood.
    :raises StateDirectoryError: the file cannot be read.
    """
    text = read_text(path)
    if text is None:
        raise ConfigurationError(
            f"There is no key file {path}", advice="Restore it from a backup, if it was there"
        )
    try:
        return msgspec.json.decode(text, type=KeyRing)
    except msgspec.DecodeError as error:
        raise ConfigurationError(
            f"The key file {path} is damaged: {error}",
            advice="Restore it from a backup: what its keys sealed is lost without it",
        ) from error


def load_or_create(path: Path) -> KeyRing:
    """The key ring kept at ``path`` (mode 0600); made when there is none.

    Two processes may start at once: the file is linked into place whole, and the
    one that comes second reads what the first wrote.

    :raises ConfigurationError: the file is there and cannot be understood.
    """
    if read_text(path) is None:
        create(path)
    return load(path)


def create(path: Path) -> KeyRing | None:
    """Make the key file ``path`` (mode 0600) with a new ring; None where there is a file.

    :raises StateDirectoryError: it cannot be written.
    """
    ring = KeyRing.generate()
    return ring if write_new(path, msgspec.json.encode(ring), mode=0o600) else None


def change(path: Path, decide: Callable[[KeyRing], KeyRing]) -> tuple[KeyRing, KeyRing]:
    """Replace the ring of a key file, one process at a time; the rings before and after.

    :raises ConfigurationError: there is no such file, or it is damaged.
    :raises StateDirectoryError: it cannot be written, or belongs to another user, who
        could not read it any more.
    """
    with _alone(path.parent):
        before = load(path)
        require_own(path)
        after = decide(before)
        if after != before:
            write_atomic(path, msgspec.json.encode(after), mode=0o600)
        return before, after


def require_own(path: Path) -> None:
    """Refuse to work for another user: a file replaced by us is one that he cannot read.

    :raises ConfigurationError: there is no such file.
    :raises StateDirectoryError: it belongs to somebody else.
    """
    try:
        owner = path.stat().st_uid
    except OSError as error:
        raise ConfigurationError(f"There is no key file {path}: {error.strerror}") from error
    if owner != os.geteuid():
        raise StateDirectoryError(
            f"{path} belongs to the user with the id {owner}",
            advice="Work on keys as that user, who has to read them",
        )


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigurationError(
            f"There are no keys in {directory}: {error.strerror}",
            advice="cinder-csi serve makes them at its first start",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _stamp(path: Path) -> tuple[int, int, int, int] | None:
    """What changes when the file does; None while it cannot be looked at."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _decoded(sealed: str) -> bytes:
    try:
        raw = base64.b64decode(sealed, validate=True)
    except ValueError as error:
        raise SealError("The sealed text is not base64") from error
    if raw[:1] != _VERSION:
        raise SealError("The sealed text has an unknown version")
    return raw


def _key_id(raw: bytes) -> str:
    return raw[1 : 1 + _KEY_ID_BYTES].hex()


def _associated(bound_to: tuple[str, ...]) -> bytes:
    # Length-prefixed, so that ("ab", "c") and ("a", "bc") differ.
    return b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in bound_to)


decoding.prepare(__name__)
