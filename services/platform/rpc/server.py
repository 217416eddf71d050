"""The gRPC server of a service: health, reflection, and a drain that loses no call."""

import asyncio
from collections.abc import Mapping

import grpc.aio
import structlog
from grpc_health.v1 import health_pb2_grpc

from services.platform.config import Settings
from services.platform.http.probes import probes
from services.platform.http.server import http_server
from services.platform.observe.health import Check, Health
from services.platform.rpc import health_service
from services.platform.rpc.gate import Gate
from services.platform.rpc.grpc_services import MAX_METADATA_BYTES
from services.platform.rpc.methods import public_services
from services.platform.rpc.reflection import add_reflection
from services.platform.rpc.service_tls import server_credentials

log = structlog.get_logger()

# The drain notice has _STEPS steps. After it the server stops at the first _QUIET_STEPS steps in a row without a call;
# together these last as long as the gateway's interval between health checks.
_STEPS = 20
_QUIET_STEPS = 5
# Concurrent calls and streams on one connection; the gateway's setting is the same.
_STREAMS_PER_CONNECTION = 1000


class Server:
    """A grpc.aio server with the gate, health and reflection. Callers register their servicers on `grpc` before `run`.

    `services` are the full names of these services; `checks` are the health checks of their dependencies.
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
        self.health = Health(dict.fromkeys(services, checks), checks)
        self._everything = health_service.health_of_everything(settings)
        self.grpc = grpc.aio.server(
            interceptors=[gate],
            options=[
                # Otherwise a second process on the same port would silently get a part of the calls.
                ("grpc.so_reuseport", 0),
                # A higher limit than the gate's, so that the gate rejects large requests, with a public reason.
                ("grpc.max_receive_message_length", 4 * settings.max_request_bytes),
                # Above the gate's limit too, and above what the gateway passes on (60 KiB).
                ("grpc.max_metadata_size", 8 * MAX_METADATA_BYTES),
                ("grpc.absolute_max_metadata_size", 8 * MAX_METADATA_BYTES),
                # Each stream that is only begun costs memory. The gateway opens more connections when it needs more.
                ("grpc.max_concurrent_streams", _STREAMS_PER_CONNECTION),
                # Time limit (milliseconds) after which a connection that hasn't begun HTTP/2 is closed.
                ("grpc.server_handshake_timeout_ms", 10_000),
                # By default grpcio cancels calls beyond 1,000 pending ones. The gate rejects them with a reason.
                ("grpc.server.max_pending_requests", 4 * settings.max_calls),
                ("grpc.server.max_pending_requests_hard_limit", 8 * settings.max_calls),
                # Allows the keepalive pings of our client and the gateway.
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                # Time limits (milliseconds) for the answers to ping and settings. By default gRPC waits a minute.
                ("grpc.http2.ping_timeout_ms", 10_000),
                ("grpc.http2.settings_timeout", 10_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        health_pb2_grpc.add_HealthServicer_to_server(
            health_service.Servicer(self.health, self._everything), self.grpc
        )
        if settings.reflection:
            # The gateway routes reflection to one process, so each process describes the public services of all.
            add_reflection(self.grpc, [*public_services(), "grpc.health.v1.Health"])

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop` is set, then drains."""
        credentials = server_credentials(self._settings)
        port = (
            self.grpc.add_secure_port(self._address, credentials)
            if credentials
            else self.grpc.add_insecure_port(self._address)
        )
        if port == 0:
            raise OSError(f"{self._address} is taken")
        await self.health.run_once()
        async with http_server(self._settings.host, self._http_port, probes(self.health.report)):
            await self.grpc.start()
            log.info("serving", address=self._address)
            checking = [
                asyncio.create_task(health.run()) for health in (self.health, self._everything)
            ]
            await stop.wait()
            for task in checking:
                task.cancel()
            await self._drain()

    async def _drain(self) -> None:
        log.info("draining")
        self.health.drain()
        await self._leave_rotation()
        self.gate.streams.drain()
        await self.grpc.stop(self._settings.drain_grace)
        log.info("stopped")

    async def _leave_rotation(self) -> None:
        """Serves until the gateway has noticed the drain at its next health check and sends no more calls.

        A stopping grpc.aio server answers new calls with CANCELLED. The gateway retries them, but a client that
        connects directly loses the call. So the server first waits until calls stop arriving, for up to twice the
        notice. It needs several quiet steps: after a stall of this process some calls still wait to be read.
        """
        quiet = 0
        for step in range(2 * _STEPS):
            if step >= _STEPS and quiet >= _QUIET_STEPS:
                return
            before = self.gate.last_arrival
            await asyncio.sleep(self._settings.drain_notice / _STEPS)
            quiet = quiet + 1 if self.gate.last_arrival == before else 0
        log.warning("calls still arrive")
