"""Authenticated encryption of what must not lie in clear text.

``controller`` seals the publish_context, ``node`` opens it; later the record
stores seal driver-private secrets with a key ring of their own.  Sealed text is
``base64(version | key id | nonce | AES-256-GCM(zlib(plain)))``; what it was made
for (driver, volume, node) is bound in as associated data, so that sealed bytes
are of no use anywhere else.
"""

from __future__ import annotations

import base64
import os
import secrets
import zlib
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from csi_driver.base.errors import ConfigurationError, SealError
from csi_driver.base.files import read_text, write_new

_VERSION = b"\x01"
_KEY_ID_BYTES = 4
_KEY_BYTES = 32
_NONCE_BYTES = 12


class KeyRing(msgspec.Struct, frozen=True, kw_only=True):
    """Keys by id (8 hexadecimal digits); ``current`` seals, all of them open.

    Keys are base64 text of 32 bytes; anything else is a ValueError.  Rotation
    adds a key and moves ``current``; an old key stays while anything sealed with
    it is in use.
    """

    current: str
    keys: dict[str, str]

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
    def generate(cls) -> KeyRing:
        """A ring of one new random key."""
        key_id = secrets.token_hex(_KEY_ID_BYTES)
        return cls(current=key_id, keys={key_id: base64.b64encode(os.urandom(_KEY_BYTES)).decode()})

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
        try:
            raw = base64.b64decode(sealed, validate=True)
        except ValueError as error:
            raise SealError("The sealed text is not base64") from error
        if raw[:1] != _VERSION:
            raise SealError("The sealed text has an unknown version")
        key_id = raw[1 : 1 + _KEY_ID_BYTES].hex()
        if key_id not in self.keys:
            raise SealError(f"The text was sealed with key {key_id}, which is not known here")
        nonce = raw[1 + _KEY_ID_BYTES : 1 + _KEY_ID_BYTES + _NONCE_BYTES]
        body = raw[1 + _KEY_ID_BYTES + _NONCE_BYTES :]
        cipher = AESGCM(base64.b64decode(self.keys[key_id]))
        try:
            return zlib.decompress(cipher.decrypt(nonce, body, _associated(bound_to)))
        except (InvalidTag, zlib.error, ValueError) as error:
            raise SealError(f"The text was not sealed for {' / '.join(bound_to)}") from error


def load_or_create(path: Path) -> KeyRing:
    """The key ring kept at ``path`` (mode 0600); made when there is none.

    Two processes may start at once: the file is linked into place whole, and the
    one that comes second reads what the first wrote.

    :raises ConfigurationError: the file is there and cannot be understood.
    """
    text = read_text(path)
    if text is None:
        write_new(path, msgspec.json.encode(KeyRing.generate()), mode=0o600)
        text = read_text(path) or ""
    try:
        return msgspec.json.decode(text, type=KeyRing)
    except msgspec.DecodeError as error:
        raise ConfigurationError(
            f"The key file {path} is damaged: {error}",
            advice="Restore it from a backup: what its keys sealed is lost without it",
        ) from error


def _associated(bound_to: tuple[str, ...]) -> bytes:
    # Length-prefixed, so that ("ab", "c") and ("a", "bc") differ.
    return b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in bound_to)
