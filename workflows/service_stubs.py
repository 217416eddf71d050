"""Stubs of our services' internal RPCs, which send the service's identity and a deadline with each call."""

from collections.abc import Callable
from typing import Any, Final

import grpc
import grpc.aio

from services.platform.config import Settings
from services.platform.rpc.channels import internal_channel
from taskflow.auth.v1.internal_service_pb2_grpc import UserInternalServiceStub
from taskflow.event.v1.dead_letter_service_pb2_grpc import DeadLetterInternalServiceStub
from taskflow.notification.v1.internal_service_pb2_grpc import EmailInternalServiceStub
from taskflow.task.v1.internal_service_pb2_grpc import (
    JobInternalServiceStub,
    ReminderInternalServiceStub,
    SuggestionInternalServiceStub,
)

# The same as in services.platform.rpc.identity, which would import the token and database libraries.
SERVICE_HEADER: Final = "x-taskflow-service"

# Seconds for a call, including the wait for a service that is starting.
_TIMEOUT: Final = 10.0

# Status codes that blame the request or the object that it names: a retry would fail too.
_FINAL: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
    }
)


def is_final(error: grpc.aio.AioRpcError) -> bool:
    """Whether a retry of the failed call would fail too."""
    return error.code() in _FINAL


class ServiceStubs:
    """Stubs with one channel per service. A process creates them once and calls `close` at its end."""

    def __init__(self, settings: Settings) -> None:
        identity = _ServiceIdentity(settings.service_secret.get_secret_value())
        self._channels = [
            internal_channel(settings, address, [identity])
            for address in (settings.auth, settings.task, settings.notification)
        ]
        auth, task, notification = self._channels
        self.users = UserInternalServiceStub(auth)
        self.suggestions = SuggestionInternalServiceStub(task)
        self.jobs = JobInternalServiceStub(task)
        self.reminders = ReminderInternalServiceStub(task)
        self.email = EmailInternalServiceStub(notification)
        self.dead_letters = DeadLetterInternalServiceStub(notification)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


class _ServiceIdentity(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, secret: str) -> None:
        self._metadata = grpc.aio.Metadata((SERVICE_HEADER, secret))

    async def intercept_unary_unary(
        self,
        continuation: Callable[[Any, Any], Any],
        details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        identified = grpc.aio.ClientCallDetails(
            details.method, details.timeout or _TIMEOUT, self._metadata, None, wait_for_ready=True
        )
        return await continuation(identified, request)
