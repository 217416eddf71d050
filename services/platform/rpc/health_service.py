"""gRPC's health service: of the process itself, and of all services for calls through the gateway."""

from contextlib import suppress
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.platform.config import Settings
from services.platform.observe.health import Check, Health
from services.platform.rpc.channels import internal_channel
from services.platform.rpc.errors import not_found
from services.platform.rpc.methods import METHODS

# Metadata key by which the gateway asks for the health of all services. Without it, a process answers for itself.
SCOPE_HEADER = "x-taskflow-health"
# A process that doesn't answer is asked once more, because another replica may get the second call. Together the tries
# stay below the time limit of a check (seconds for each).
_TRIES = 2
_TRY_TIMEOUT = 1.2

_Response = health_pb2.HealthCheckResponse


class Servicer(health_pb2_grpc.HealthServicer):
    """In grpc_health's own servicer, a watcher that doesn't read blocks every change of the status."""

    def __init__(self, own: Health, everything: Health) -> None:
        self._own = own
        self._everything = everything

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> _Response:
        status = self._asked(context).status(request.service)
        if status == _Response.SERVICE_UNKNOWN:
            raise not_found("service", request.service)
        return _Response(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        health = self._asked(context)
        sent = None
        while True:
            changed = health.changed
            status = health.status(request.service)
            if status != sent:
                await context.write(_Response(status=status))
                sent = status
            await changed.wait()

    def _asked(self, context: Any) -> Health:
        keys = {key for key, _ in context.invocation_metadata() or ()}
        return self._everything if SCOPE_HEADER in keys else self._own


def health_of_everything(settings: Settings) -> Health:
    """The health of all public services, as their processes tell it."""
    processes = {
        method.service: method.process for method in METHODS.values() if not method.internal
    }
    return Health(
        {service: [process] for service, process in processes.items()},
        {
            process: _asking(settings, getattr(settings, process))
            for process in sorted(set(processes.values()))
        },
    )


def _asking(settings: Settings, address: str) -> Check:
    """A check that raises unless a process at the address says that it serves."""
    stub: Any = health_pb2_grpc.HealthStub(internal_channel(settings, address, traced=False))

    async def check() -> None:
        for _ in range(_TRIES):
            with suppress(grpc.aio.AioRpcError):
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_TRY_TIMEOUT)
                if answer.status == _Response.SERVING:
                    return
        raise ConnectionError(f"nothing serves at {address}")

    return check
