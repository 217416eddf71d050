"""One gRPC server process: health that tells the truth, reflection, and a drain that loses no call."""

import asyncio
import signal
from collections.abc import Mapping

import grpc
import grpc.aio
import structlog
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.platform import telemetry
from services.platform.config import Settings
from services.platform.health import Check, Health, Servicer
from services.platform.interceptors import Gate
from services.platform.methods import public_services

log = structlog.get_logger()

# Of the drain notice, and in how many of them no call may have come before the server stops: together as long as the
# gateway's interval of health checks.
_STEPS = 20
_QUIET_STEPS = 5
# The same as the gateway's.
_STREAMS_PER_CONNECTION = 1000


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
                # Of one connection: each that is only begun costs memory. The gateway opens more connections.
                ("grpc.max_concurrent_streams", _STREAMS_PER_CONNECTION),
                # A connection that doesn't say what it wants.
                ("grpc.server_handshake_timeout_ms", 10_000),
                # grpcio would cancel calls beyond 1,000 pending ones; the gate sheds load with a reason.
                ("grpc.server.max_pending_requests", 4 * settings.max_calls),
                ("grpc.server.max_pending_requests_hard_limit", 8 * settings.max_calls),
                # Agrees with what our client and the gateway send.
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                # By default gRPC waits a minute for both, whatever the keepalive says.
                ("grpc.http2.ping_timeout_ms", 10_000),
                ("grpc.http2.settings_timeout", 10_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        health_pb2_grpc.add_HealthServicer_to_server(Servicer(self.health), self.grpc)
        if settings.reflection:
            # The gateway asks only one process, so each describes the public services of all.
            described = [
                *public_services(),
                health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
            ]
            reflection.enable_server_reflection(described, self.grpc, descriptor_pool.Default())

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop` is set, then drains."""
        if self.grpc.add_insecure_port(self._address) == 0:
            raise OSError(f"{self._address} is taken")
        await self.health.run_once()
        http = await telemetry.serve_http(self._settings.host, self._http_port, self.health.report)
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
        self.health.tell()
        await self._leave_rotation()
        self.gate.drain()
        await self.grpc.stop(self._settings.drain_grace)
        log.info("stopped")

    async def _leave_rotation(self) -> None:
        """Goes on serving until the gateway sends nothing more, which its next health check brings about.

        A stopping grpc.aio server ends what still arrives with CANCELLED. The gateway sends that again, and whoever
        comes past it has lost a call. So it has to be quiet before; on a busy machine that can take longer than the
        notice. It's looked at in steps, as after a standstill there may be calls that haven't been seen yet.
        """
        quiet = 0
        for step in range(2 * _STEPS):
            if step >= _STEPS and quiet >= _QUIET_STEPS:
                return
            before = self.gate.last_arrival
            await asyncio.sleep(self._settings.drain_notice / _STEPS)
            quiet = quiet + 1 if self.gate.last_arrival == before else 0
        log.warning("calls still arrive")


def stop_signal() -> asyncio.Event:
    """Set on SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
