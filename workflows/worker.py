"""Temporal workers, which run the features' workflows and activities. A worker that fails is replaced."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

import structlog
from temporalio.client import Client, Interceptor
from temporalio.service import RPCError, TLSConfig
from temporalio.worker import Worker

from services.platform.config import Settings
from services.platform.observe import tracing
from workflows.activity_interceptor import ActivityInterceptor
from workflows.contract import MAIL_QUEUE, TASK_QUEUE, WORK_QUEUE
from workflows.feature import Activities
from workflows.registry import FEATURES

log = structlog.get_logger()

# Workflow runs that a worker keeps in memory, about 0.1 MB each. It replays any other run at the run's next event.
_CACHED_WORKFLOWS: Final = 100
# Concurrent workflow tasks. More would only wait for each other, because all workflow code shares one interpreter lock.
_WORKFLOW_TASKS: Final = 16
# Seconds that a workflow task waits for the worker that has the run in memory. That worker may have been killed.
_CACHE_PATIENCE: Final = 3.0
# A fixed build id, because we don't deploy by build ids. Temporal's default, a hash of all loaded code, costs a second
# and 20 MB at every start.
_BUILD_ID: Final = "taskflow"
# Pause (seconds) before the process connects again or starts new workers.
_PAUSE: Final = 1.0
# Seconds that running activities get at shutdown, and that the whole shutdown may take.
_GRACE: Final = 3.0
LONGEST_SHUTDOWN: Final = 5.0


async def connect(settings: Settings) -> Client:
    """Returns once Temporal answers; waits as long as it takes."""
    logged = False
    while True:
        try:
            client = await Client.connect(
                settings.temporal,
                namespace=settings.temporal_namespace,
                tls=_tls(settings),
                api_key=_api_key(settings),
                interceptors=_tracing(),
            )
            log.info("connected to temporal")
            return client
        except (RuntimeError, RPCError) as error:
            if not logged:
                log.warning("waiting for temporal", error=type(error).__name__)
                logged = True
        await asyncio.sleep(_PAUSE)


def _tls(settings: Settings) -> TLSConfig | bool:
    """Raises OSError for certificates that can't be read."""
    if not settings.temporal_tls:
        return False
    return TLSConfig(
        server_root_ca_cert=_content(settings.temporal_tls_ca),
        client_cert=_content(settings.temporal_tls_cert),
        client_private_key=_content(settings.temporal_tls_key),
    )


def _content(file: Path | None) -> bytes | None:
    return file.read_bytes() if file else None


def _api_key(settings: Settings) -> str | None:
    key = settings.temporal_api_key
    return key.get_secret_value() if key else None


def _tracing() -> list[Interceptor]:
    """Continues an event's trace in the workflow that the event starts, and in its activities' calls."""
    if not tracing.active():
        return []
    from temporalio.contrib.opentelemetry import TracingInterceptor

    return [TracingInterceptor()]


def build_workers(
    client: Client, activities: Sequence[Activities], concurrency: int
) -> list[Worker]:
    """Workers for workflows and quick activities, for slow ones, and for mail; `concurrency` activities each."""
    grace = timedelta(seconds=_GRACE)
    quick = Worker(
        client,
        task_queue=TASK_QUEUE,
        workflows=[feature.definition for feature in FEATURES],
        activities=[method for each in activities for method in each.quick],
        interceptors=[ActivityInterceptor()],
        build_id=_BUILD_ID,
        max_cached_workflows=_CACHED_WORKFLOWS,
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=_CACHE_PATIENCE),
        # Temporal's library requires at least two.
        max_concurrent_workflow_tasks=max(2, min(_WORKFLOW_TASKS, concurrency)),
        max_concurrent_activities=concurrency,
        graceful_shutdown_timeout=grace,
    )
    waiting = [
        Worker(
            client,
            task_queue=queue,
            activities=methods,
            interceptors=[ActivityInterceptor()],
            build_id=_BUILD_ID,
            max_concurrent_activities=concurrency,
            graceful_shutdown_timeout=grace,
        )
        for queue, methods in (
            (WORK_QUEUE, [method for each in activities for method in each.slow]),
            (MAIL_QUEUE, [method for each in activities for method in each.mail]),
        )
    ]
    return [quick, *waiting]


async def supervise(settings: Settings, activities: Sequence[Activities]) -> None:
    """Runs workers until cancelled. After a fatal error it waits for a second, connects again and starts new ones."""
    while True:
        client = await connect(settings)
        await _run(build_workers(client, activities, settings.workflow_concurrency))
        await asyncio.sleep(_PAUSE)


async def _run(workers: list[Worker]) -> None:
    """Runs the workers until one of them fails."""
    runs = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        done, _ = await asyncio.wait(runs, return_when=asyncio.FIRST_COMPLETED)
        for run in done:
            log.error("worker failed; starting another", error=repr(run.exception()))
    finally:
        await _shut_down(workers)
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)


async def _shut_down(workers: list[Worker]) -> None:
    """Stops the workers; running activities get some seconds to end."""
    try:
        async with asyncio.timeout(LONGEST_SHUTDOWN):
            await asyncio.gather(*(worker.shutdown() for worker in workers))
    except TimeoutError:
        log.warning("worker didn't end in time")
