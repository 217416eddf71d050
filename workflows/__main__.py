"""python -m workflows: the dispatcher and the Temporal workers, until SIGTERM."""

import asyncio
import logging as std_logging
from datetime import timedelta
from typing import Final

import structlog
from temporalio.client import Client
from temporalio.runtime import LogForwardingConfig, LoggingConfig, Runtime, TelemetryConfig
from temporalio.service import RPCError

from services.platform import config, generated_secrets
from services.platform.background import run_background, stop_signal
from services.platform.config import Settings
from services.platform.events.bus import Bus
from services.platform.http.probes import probes
from services.platform.http.server import http_server
from services.platform.observe import logging, tracing
from workflows import worker
from workflows.dispatcher import Dispatcher
from workflows.registry import FEATURES
from workflows.service_stubs import ServiceStubs

log = structlog.get_logger()

# Seconds between checks of Temporal, and how long a check may take.
_CHECK_INTERVAL: Final = 1.0
_CHECK_TIMEOUT: Final = timedelta(seconds=2)


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Runs until `stop` is set. The process is healthy while it is connected to both NATS and Temporal."""
    bus = Bus(settings, name="worker")
    stubs = ServiceStubs(settings)
    health = {"temporal": False, "nats": False}

    def report() -> dict[str, bool]:
        return health | {"nats": bus.connected}

    activities = [feature.build_activities(settings, stubs) for feature in FEATURES]

    async def dispatch() -> None:
        temporal = await worker.connect(settings)
        await run_background(
            [_watch(temporal, health)], Dispatcher(settings, bus, temporal, stubs).run()
        )

    loops = [bus.connect(), dispatch(), worker.supervise(settings, activities)]
    async with http_server(settings.host, settings.worker_http_port, probes(report)):
        # Workers need time to shut down, see worker.py.
        await run_background(loops, stop.wait(), patience=worker.LONGEST_SHUTDOWN + 1)
    await bus.close()
    for each in activities:
        if each.close is not None:
            await each.close()
    await stubs.close()
    log.info("stopped")


async def _watch(temporal: Client, health: dict[str, bool]) -> None:
    """Keeps `health` up to date."""
    while True:
        try:
            health["temporal"] = await temporal.service_client.check_health(timeout=_CHECK_TIMEOUT)
        except RPCError:
            health["temporal"] = False
        await asyncio.sleep(_CHECK_INTERVAL)


async def _serve(settings: Settings) -> None:
    await run(settings, stop_signal())


def main() -> None:
    settings = generated_secrets.or_exit(config.load())
    logging.configure(settings, "worker")
    tracing.start("worker")
    # ActivityInterceptor logs the failures of activities already.
    std_logging.getLogger("temporalio.activity").setLevel(std_logging.ERROR)
    core = LogForwardingConfig(std_logging.getLogger("temporal"))
    Runtime.set_default(
        Runtime(telemetry=TelemetryConfig(logging=LoggingConfig("ERROR", forwarding=core)))
    )
    asyncio.run(_serve(settings))


# The workflow sandbox imports this module again.
if __name__ == "__main__":
    main()
