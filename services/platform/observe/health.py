"""Health: dependencies are checked regularly; rpc/health_service.py and /healthz show the results."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping

import structlog
from grpc_health.v1 import health_pb2

from services.platform.observe.redaction import describe

log = structlog.get_logger()

# Time between two rounds of checks, and the limit of one check (seconds).
_CHECK_INTERVAL = 1.0
_CHECK_TIMEOUT = 3.0

_Status = health_pb2.HealthCheckResponse

# Raises when the dependency doesn't respond.
Check = Callable[[], Awaitable[None]]


class Health:
    """Checks dependencies regularly and keeps the results.

    `services` are full names of services, each with the dependencies that it needs.
    """

    def __init__(
        self, services: Mapping[str, Collection[str]], checks: Mapping[str, Check]
    ) -> None:
        self._services = services
        self._checks = checks
        self._state = dict.fromkeys(checks, False)
        self._running: dict[str, asyncio.Future[None]] = {}
        self._draining = False
        # Set, and replaced by a new event, after each round of checks.
        self.changed = asyncio.Event()

    async def run(self) -> None:
        """Checks the dependencies until cancelled."""
        while True:
            await self.run_once()
            await asyncio.sleep(_CHECK_INTERVAL)

    async def run_once(self) -> None:
        answers = await asyncio.gather(*(self._responds(name) for name in self._checks))
        for (name, before), now in zip(list(self._state.items()), answers, strict=True):
            if before != now:
                log.info("dependency", name=name, state="ok" if now else "unavailable")
            self._state[name] = now
        self._notify()

    def drain(self) -> None:
        """The process is unhealthy from now on, because it is shutting down."""
        self._draining = True
        self._notify()

    def report(self) -> dict[str, bool]:
        """Whether each dependency responds; `running` is added, as False, during shutdown."""
        return self._state | ({"running": False} if self._draining else {})

    def status(self, service: str) -> int:
        """The status of a service in gRPC's terms; of everything for an empty name."""
        if service and service not in self._services:
            return _Status.SERVICE_UNKNOWN
        needed = self._services[service] if service else self._state
        serving = not self._draining and all(self._state[name] for name in needed)
        return _Status.SERVING if serving else _Status.NOT_SERVING

    def _notify(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def _responds(self, name: str) -> bool:
        """Whether the dependency's check succeeds within the limit.

        A check that still runs is awaited again in the next round. It isn't cancelled, because cancelling can hang too.
        """
        check = self._running.get(name)
        if check is None or check.done():
            check = self._running[name] = asyncio.ensure_future(self._checks[name]())
        await asyncio.wait({check}, timeout=_CHECK_TIMEOUT)
        if not check.done():
            return False
        if error := check.exception():
            log.debug("dependency check failed", error=describe(error))
        return error is None
