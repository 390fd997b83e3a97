"""The base of every exception that this project raises on purpose.

Each room keeps its own exceptions in its own ``errors`` module and derives them
from :class:`CinderCSIError`; :mod:`csi_driver.rpc.errors` holds the one table
that maps every class to a gRPC code.  A test proves that no class is missing.
"""

from __future__ import annotations


class CinderCSIError(Exception):
    """An error that a person is meant to read.

    :param message: what happened, naming the object; no secrets.
    :param advice: what to do about it; the class attribute is the default.
    """

    advice: str = ""

    def __init__(self, message: str, *, advice: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if advice is not None:
            self.advice = advice

    def __str__(self) -> str:
        """The message and, where there is one, the advice: one line for a user."""
        return f"{self.message}. {self.advice}" if self.advice else self.message


class InvalidRequest(CinderCSIError):
    """A field of a request is missing, malformed or unknown."""


class ConfigurationError(CinderCSIError):
    """The configuration cannot be used; found before anything is started."""


class StateDirectoryError(CinderCSIError):
    """The state directory cannot be used (not writable, wrong owner, damaged)."""

    advice = "Name a directory that this user can write with --state-dir"


class SealError(CinderCSIError):
    """Sealed bytes are damaged, were made for something else, or the key is gone."""

    advice = (
        "Check that controller and node use the same keys, and publish the volume to the node again"
    )


class OperationInProgress(CinderCSIError):
    """Another operation runs on the same object.

    The message says what runs, since when, in which process and at which step.
    """

    advice = "Retry; an equal call joins the running operation"


class ShuttingDown(CinderCSIError):
    """The process is draining and starts no new work."""

    advice = "Retry; the next process takes over"
