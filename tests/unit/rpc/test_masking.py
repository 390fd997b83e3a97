"""The gRPC edge learns the secrets of requests, and lets none out in an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from csi_driver.base.errors import CinderCSIError
from csi_driver.base.masking import MASK, SECRETS
from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc.errors import status_of
from csi_driver.rpc.handlers import Gate, Readiness, rpc


class Refused(CinderCSIError):
    """An error that quotes what it was given."""

    advice = "Use another than edge-secret-in-advice"


def test_an_error_leaves_without_the_secrets_that_it_quotes():
    SECRETS.learn("edge-secret-in-message", "edge-secret-in-advice")
    status = status_of(
        Refused("The array refuses edge-secret-in-message"), effect=True, reference="request 1"
    )
    assert status.message == f"The array refuses {MASK}. Use another than {MASK}"


class Context:
    """What a handler needs of gRPC's context."""

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return True

    def abort(self, code: grpc.StatusCode, message: str) -> None:
        raise RuntimeError(f"{code.name}: {message}")


class Service:
    """A method that quotes the secrets of its request in an error."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.gate.state = Readiness.READY

    @rpc(effect=True)
    def NodeStageVolume(self, request: Any) -> Any:
        raise Refused(f"The device does not open with {request.secrets['passphrase']}")


def test_the_secrets_of_a_request_are_masked_in_what_is_said_about_it():
    request = pb.NodeStageVolumeRequest(secrets={"passphrase": "edge secret of a request"})
    with pytest.raises(RuntimeError) as answer:
        Service().NodeStageVolume(request, Context())
    assert f"The device does not open with {MASK}" in str(answer.value)
