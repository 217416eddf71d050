"""The services' internal RPCs, as workers call them: with a service's identity, a deadline, and quick reconnection."""

from collections.abc import Callable
from typing import Any, Final

import grpc
import grpc.aio

from services.platform.channels import internal_channel
from services.platform.config import Settings
from taskflow.event.v1.dead_letter_service_pb2_grpc import DeadLetterInternalServiceStub
from taskflow.notification.v1.internal_service_pb2_grpc import EmailInternalServiceStub
from taskflow.task.v1.internal_service_pb2_grpc import (
    JobInternalServiceStub,
    ReminderInternalServiceStub,
    SuggestionInternalServiceStub,
)

# As services.platform.identity has it, which would bring the token and database libraries with it.
SERVICE_HEADER: Final = "x-taskflow-service"

# A call waits this long for a service that is being started, its work included (seconds).
_TIMEOUT: Final = 10.0

# The request itself is at fault, or what it is about: another try has the same answer.
_FINAL: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
    }
)


def is_final(error: grpc.aio.AioRpcError) -> bool:
    """Whether another try would have the same answer."""
    return error.code() in _FINAL


class FrontDoor:
    """The stubs. One per process; `close` it at the end."""

    def __init__(self, settings: Settings) -> None:
        admit = _Admit(settings.service_secret.get_secret_value())
        self._channels = [
            internal_channel(address, [admit]) for address in (settings.task, settings.notification)
        ]
        task, notification = self._channels
        self.suggestions = SuggestionInternalServiceStub(task)
        self.jobs = JobInternalServiceStub(task)
        self.reminders = ReminderInternalServiceStub(task)
        self.email = EmailInternalServiceStub(notification)
        self.dead_letters = DeadLetterInternalServiceStub(notification)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


class _Admit(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, secret: str) -> None:
        self._metadata = grpc.aio.Metadata((SERVICE_HEADER, secret))

    async def intercept_unary_unary(
        self,
        continuation: Callable[[Any, Any], Any],
        details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        admitted = grpc.aio.ClientCallDetails(
            details.method, details.timeout or _TIMEOUT, self._metadata, None, wait_for_ready=True
        )
        return await continuation(admitted, request)
