"""Whether a process can do its work: asked again and again, told to gRPC and on /healthz."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.platform.redaction import describe

log = structlog.get_logger()

# How often dependencies are asked whether they answer, and how long that may take (seconds).
_CHECK_INTERVAL = 1.0
_CHECK_TIMEOUT = 3.0

_Status = health_pb2.HealthCheckResponse

# Raises when it isn't there.
Check = Callable[[], Awaitable[None]]


@dataclass
class Health:
    """Asks the dependencies again and again, and tells gRPC and /healthz what it heard."""

    services: list[str]
    checks: Mapping[str, Check]
    state: dict[str, bool] = field(default_factory=dict)
    draining: bool = False
    asked: dict[str, asyncio.Future[None]] = field(default_factory=dict)
    # Replaced by another one whenever there is news.
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.state = dict.fromkeys(self.checks, False)

    async def run(self) -> None:
        while True:
            await self.run_once()
            await asyncio.sleep(_CHECK_INTERVAL)

    async def run_once(self) -> None:
        answers = await asyncio.gather(*(self._ask(name) for name in self.checks))
        for (name, before), now in zip(list(self.state.items()), answers, strict=True):
            if before != now:
                log.info("dependency", name=name, state="ok" if now else "unavailable")
            self.state[name] = now
        self.tell()

    def tell(self) -> None:
        """Those who watch learn how it is now."""
        self.news.set()
        self.news = asyncio.Event()

    def status(self, service: str) -> int:
        if service and service not in self.services:
            return _Status.SERVICE_UNKNOWN
        serving = all(self.state.values()) and not self.draining
        return _Status.SERVING if serving else _Status.NOT_SERVING

    async def _ask(self, name: str) -> bool:
        """Whether a dependency answers in time. One that doesn't isn't asked anew: cancelling can take long, too."""
        asked = self.asked.get(name)
        if asked is None or asked.done():
            asked = self.asked[name] = asyncio.ensure_future(self.checks[name]())
        await asyncio.wait({asked}, timeout=_CHECK_TIMEOUT)
        if not asked.done():
            return False
        if error := asked.exception():
            log.debug("dependency check failed", error=describe(error))
        return error is None

    def report(self) -> dict[str, bool]:
        return self.state | ({"running": False} if self.draining else {})


class Servicer(health_pb2_grpc.HealthServicer):
    """gRPC's health. Not that of grpc_health, in which one who watches and doesn't read keeps the status as it is."""

    def __init__(self, health: Health) -> None:
        self._health = health

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> health_pb2.HealthCheckResponse:
        status = self._health.status(request.service)
        if status == _Status.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        told = None
        while True:
            news = self._health.news
            status = self._health.status(request.service)
            if status != told:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                told = status
            await news.wait()
