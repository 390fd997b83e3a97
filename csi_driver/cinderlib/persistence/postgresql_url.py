"""The address of a PostgreSQL database: a URL of which no text shows the password.

Used by ``postgresql`` and ``factory``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from csi_driver.base.errors import ConfigurationError
from csi_driver.base.masking import MASK, SECRETS, is_secret_name

_FORM = "Write it as postgresql://user:password@host:5432/database; %-encode signs in a password"

# Of libpq: a server that does not answer is noticed soon.
_PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


@dataclass(frozen=True)
class Address:
    """Where a database is and how it is reached; ``name`` is how messages call it."""

    url: URL = field(repr=False)
    name: str

    def arguments(self, application_name: str) -> dict[str, Any]:
        """Arguments of the driver's ``connect``, beside those of the URL, which go first."""
        ours = {**_PATIENCE, "application_name": application_name}
        # The name tells our sessions from those of others: nobody may choose it.
        return {
            key: value
            for key, value in ours.items()
            if key not in self.url.query or key == "application_name"
        }

    def without_password(self, said: str) -> str:
        """What the driver said, without what is secret in the URL."""
        for secret in _secrets(self.url):
            said = said.replace(secret, MASK)
        return said


def parse(connection: str) -> Address:
    """The address that a URL is of.

    :raises ConfigurationError: it is none; the message does not show it.
    """
    try:
        url = make_url(connection)
    except (ArgumentError, ValueError):
        # Not chained: the error may quote the URL.
        raise ConfigurationError("The URL of the database is malformed", advice=_FORM) from None
    SECRETS.learn(*_secrets(url), keep=True)
    # A password with an @ or / is cut at the wrong place: parts of it would be host or database.
    if connection.partition("?")[0].count("@") > 1 or "@" in (url.database or ""):
        raise ConfigurationError("The URL of the database has more than one @", advice=_FORM)
    if not url.database:
        raise ConfigurationError("The URL names no database", advice=_FORM)
    return Address(url.set(drivername="postgresql+psycopg"), _shown(url))


def _shown(url: URL) -> str:
    hosts = url.query.get("host", url.host or "")
    host = hosts if isinstance(hosts, str) else ",".join(hosts)
    user = f"{url.username}@" if url.username else ""
    port = f":{url.port}" if url.port else ""
    return f"postgresql://{user}{host}{port}/{url.database}"


def _secrets(url: URL) -> list[str]:
    found = [str(url.password)] if url.password else []
    for name, value in url.query.items():
        if is_secret_name(name):
            found += [value] if isinstance(value, str) else value
    return [secret for secret in found if secret]
