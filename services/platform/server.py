"""One gRPC server process: health that tells the truth, reflection, and a drain that loses no call."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import grpc
import grpc.aio
import structlog
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from services.platform import telemetry
from services.platform.access import ACCESS, Access
from services.platform.config import Settings
from services.platform.interceptors import Gate

log = structlog.get_logger()

# How often dependencies are asked whether they answer, and how long that may take (seconds).
_CHECK_INTERVAL = 1.0
_CHECK_TIMEOUT = 3.0

Check = Callable[[], Awaitable[None]]


def _public_services() -> list[str]:
    services = {
        method.rpartition("/")[0].removeprefix("/")
        for method, access in ACCESS.items()
        if access is not Access.SERVICE
    }
    return sorted(services)


@dataclass
class Health:
    """Asks the dependencies again and again, and tells gRPC and /healthz what it heard."""

    services: list[str]
    checks: Mapping[str, Check]
    servicer: HealthServicer = field(default_factory=HealthServicer)
    state: dict[str, bool] = field(default_factory=dict)
    draining: bool = False

    def __post_init__(self) -> None:
        self.state = dict.fromkeys(self.checks, False)

    async def run(self) -> None:
        while True:
            await self.run_once()
            await asyncio.sleep(_CHECK_INTERVAL)

    async def run_once(self) -> None:
        answers = await asyncio.gather(*(self._ask(check) for check in self.checks.values()))
        for (name, before), now in zip(list(self.state.items()), answers, strict=True):
            if before != now:
                log.info("dependency", name=name, state="ok" if now else "unavailable")
            self.state[name] = now
        await self.tell()

    async def tell(self) -> None:
        serving = all(self.state.values()) and not self.draining
        status = health_pb2.HealthCheckResponse.ServingStatus
        for service in ("", *self.services):
            await self.servicer.set(service, status.SERVING if serving else status.NOT_SERVING)

    @staticmethod
    async def _ask(check: Check) -> bool:
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT):
                await check()
        except Exception as error:
            log.debug("dependency check failed", error=repr(error))
            return False
        return True

    def report(self) -> dict[str, bool]:
        return self.state | ({"running": False} if self.draining else {})


class Server:
    """A grpc.aio server with everything that all services have; register servicers on `grpc` before `start`.

    `services` are the full names of what is registered, `checks` what they can't work without.
    """

    def __init__(
        self,
        settings: Settings,
        gate: Gate,
        *,
        port: int,
        http_port: int,
        services: list[str],
        checks: Mapping[str, Check],
    ) -> None:
        self._settings = settings
        self._address = f"{settings.host}:{port}"
        self._http_port = http_port
        self.gate = gate
        self.health = Health(services, checks)
        self.grpc = grpc.aio.server(
            interceptors=[gate],
            options=[
                # Without it two processes share a port and nobody notices.
                ("grpc.so_reuseport", 0),
                # A little more than the limit, so that the gate can say what is wrong.
                ("grpc.max_receive_message_length", 4 * settings.max_request_bytes),
                ("grpc.max_concurrent_streams", settings.max_calls + settings.max_streams),
                # grpcio would cancel calls beyond 1,000 pending ones; the gate sheds load with a reason.
                ("grpc.server.max_pending_requests", 4 * settings.max_calls),
                ("grpc.server.max_pending_requests_hard_limit", 8 * settings.max_calls),
                # Agrees with what our client and the gateway send.
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        health_pb2_grpc.add_HealthServicer_to_server(self.health.servicer, self.grpc)
        if settings.reflection:
            reflection.enable_server_reflection(
                _public_services(), self.grpc, descriptor_pool.Default()
            )

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT, then drains."""
        stop = stop_signal()
        if self.grpc.add_insecure_port(self._address) == 0:
            raise OSError(f"{self._address} is taken")
        await self.health.run_once()
        http = await telemetry.serve_http(
            self._settings.host, self._http_port, self.health.report
        )
        await self.grpc.start()
        log.info("serving", address=self._address)
        checking = asyncio.create_task(self.health.run())
        await stop.wait()
        checking.cancel()
        await self._drain()
        http.close()

    async def _drain(self) -> None:
        log.info("draining")
        self.health.draining = True
        await self.health.tell()
        # The gateway's next health check takes us out of its rotation; until then new calls are still served.
        await asyncio.sleep(self._settings.drain_notice)
        self.gate.draining.set()
        await self.grpc.stop(self._settings.drain_grace)
        log.info("stopped")


def stop_signal() -> asyncio.Event:
    """Set on SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
