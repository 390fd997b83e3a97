"""What can go wrong between this process and the API server.

The classes tell what a caller must know to go on: whether the request may have had an
effect (:class:`ApiOutcomeUnknown`), surely had none (:class:`ApiUnreachable`,
:class:`ApiBusy`), or was refused.
"""

from __future__ import annotations

from csi_driver.base.errors import CinderCSIError


class ApiError(CinderCSIError):
    """The API server refused a request; nothing was changed.

    :ivar status: the HTTP status, 0 when there was no answer.
    :ivar reason: the machine-readable reason of the answer's ``Status``, or ''.
    """

    advice = "See the API server's log"

    def __init__(
        self, message: str, *, advice: str | None = None, status: int = 0, reason: str = ""
    ) -> None:
        super().__init__(message, advice=advice)
        self.status = status
        self.reason = reason


class ApiUnreachable(ApiError):
    """No connection could be made: the request was never sent."""

    advice = "Check that the API server runs and can be reached from here; the call may be retried"


class ApiOutcomeUnknown(ApiError):
    """The request was sent and its answer did not come, or told of a failure inside.

    What a write has changed must be looked up.
    """

    advice = "Check the API server; the call may be retried"


class ApiBusy(ApiError):
    """The API server asks to come back later (429); nothing was changed.

    :ivar retry_after: seconds to wait at least, as the server asks.
    """

    advice = "The call may be retried; see API priority and fairness if this lasts"
    retry_after: float = 1.0


AWAY = (ApiUnreachable, ApiOutcomeUnknown, ApiBusy)
"""What requests to a server end with that is away, or just comes; not what it refuses."""


class ApiNotFound(ApiError):
    """There is no such object (404)."""


class ApiResourceMissing(ApiError):
    """There is no such kind of object (404): its definition is not installed."""

    advice = "Install the custom resource definitions of this version"


class ApiConflict(ApiError):
    """The object exists already, or is not the version that was named (409)."""

    advice = "The call plans again on the newer object"


class ApiExpired(ApiError):
    """The resource version is too old to be watched from (410)."""

    advice = "The list is read anew"


class ApiForbidden(ApiError):
    """The API server does not let this process do that (401, 403)."""

    advice = "Check the service account, its role and its binding"


class ApiInvalid(ApiError):
    """The API server cannot accept the object (400, 422)."""

    advice = "Check that the installed custom resource definitions are those of this version"


class NotLeading(CinderCSIError):
    """Another replica works, or nobody can tell now who does.

    The message says which, and since when.
    """

    advice = "Ask the replica that leads; the sidecars of this one wait until it does"
