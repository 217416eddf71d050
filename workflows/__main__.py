"""python -m workflows: the dispatcher and the Temporal workers, until SIGTERM."""

import asyncio
import logging as std_logging
import signal
from datetime import timedelta
from typing import Final

import structlog
from temporalio.client import Client
from temporalio.runtime import LogForwardingConfig, LoggingConfig, Runtime, TelemetryConfig
from temporalio.service import RPCError

from services.platform import config, logging, telemetry, tracing
from services.platform.bus import Bus
from services.platform.config import Settings
from services.platform.loops import beside
from workflows import worker
from workflows.activities import (
    EmailActivities,
    EnrichmentActivities,
    JobActivities,
    ReminderActivities,
)
from workflows.dispatcher import Dispatcher
from workflows.enrichers import Enricher, build_enricher
from workflows.front_door import FrontDoor
from workflows.handlers import load_handlers
from workflows.mail import Mailer, SmtpSettings
from workflows.text_process import TextProcess

log = structlog.get_logger()

# Seconds between looks at Temporal, and how long one may take.
_CHECK_INTERVAL: Final = 1.0
_CHECK_TIMEOUT: Final = timedelta(seconds=2)


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Runs until `stop` is set. The process is healthy while it has both NATS and Temporal."""
    bus = Bus(settings, name="worker")
    door = FrontDoor(settings)
    health = {"temporal": False, "nats": False}

    def report() -> dict[str, bool]:
        return health | {"nats": bus.connected}

    http = await telemetry.serve_http(settings.host, settings.worker_http_port, report)
    enricher = _enricher(settings)
    activities = build_activities(settings, door, enricher)

    async def dispatch() -> None:
        temporal = await worker.connect(settings)
        await beside([_watch(temporal, health)], Dispatcher(settings, bus, temporal, door).run())

    work = worker.supervise(settings, activities)
    loops = [bus.connect(), dispatch(), work]
    # Workers end in their own time: see worker.py.
    await beside(loops, stop.wait(), patience=worker.LONGEST_SHUTDOWN + 1)
    http.close()
    await bus.close()
    await enricher.close()
    await door.close()
    log.info("stopped")


def build_activities(settings: Settings, door: FrontDoor, enricher: Enricher) -> worker.Activities:
    return worker.Activities(
        EnrichmentActivities(door.suggestions, enricher),
        ReminderActivities(door.reminders),
        JobActivities(door.jobs, load_handlers()),
        EmailActivities(door.email, Mailer(_smtp(settings)), settings.mail_from),
    )


def _enricher(settings: Settings) -> Enricher:
    return build_enricher(
        TextProcess(settings.text_cpu_seconds),
        settings.ai_base_url or "",
        settings.ai_model or "",
        settings.ai_api_key.get_secret_value() if settings.ai_api_key else "",
        timeout=settings.ai_timeout,
        output_tokens=settings.ai_max_output_tokens,
        allow_private=settings.ai_allow_private,
    )


def _smtp(settings: Settings) -> SmtpSettings:
    """The configured server, or the local catcher."""
    standard = {"none": 25, "starttls": 587, "tls": 465}[settings.smtp_tls]
    local = settings.smtp_host is None
    return SmtpSettings(
        settings.smtp_host or settings.host,
        settings.smtp_port or (settings.mail_port if local else standard),
        settings.smtp_username,
        settings.smtp_password.get_secret_value() if settings.smtp_password else None,
        use_tls=settings.smtp_tls == "tls",
        start_tls=settings.smtp_tls == "starttls",
    )


async def _watch(temporal: Client, health: dict[str, bool]) -> None:
    """Keeps `health` up to date for ever."""
    while True:
        try:
            health["temporal"] = await temporal.service_client.check_health(timeout=_CHECK_TIMEOUT)
        except RPCError:
            health["temporal"] = False
        await asyncio.sleep(_CHECK_INTERVAL)


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run(settings, stop)


def main() -> None:
    settings = config.load()
    logging.configure(settings, "worker")
    tracing.start("worker")
    # Edge logs what activities fail with, and where: not once more with a trace.
    std_logging.getLogger("temporalio.activity").setLevel(std_logging.ERROR)
    core = LogForwardingConfig(std_logging.getLogger("temporal"))
    Runtime.set_default(
        Runtime(telemetry=TelemetryConfig(logging=LoggingConfig("ERROR", forwarding=core)))
    )
    asyncio.run(_serve(settings))


# The workflow sandbox imports modules anew.
if __name__ == "__main__":
    main()
