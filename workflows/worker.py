"""Temporal workers, which run the features' workflows and activities. A worker that fails is replaced."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import structlog
from temporalio.client import Client, Interceptor
from temporalio.service import RPCError
from temporalio.worker import Worker

from services.platform.config import Settings
from services.platform.observe import tracing
from workflows.activity_interceptor import ActivityInterceptor
from workflows.contract import TASK_QUEUE, WORK_QUEUE
from workflows.feature import Activities
from workflows.registry import FEATURES

log = structlog.get_logger()

# Runs kept in memory between their events, about 0.1 MB each. Other runs are replayed at their next event.
_CACHED_WORKFLOWS: Final = 100
# More would only wait for each other: workflow code runs under one interpreter lock.
_WORKFLOW_TASKS: Final = 16
# Seconds that a workflow task waits for the worker that has the run in memory. That worker may have been killed.
_CACHE_PATIENCE: Final = 3.0
# Replaces a hash of all loaded code, which takes a second and 20 MB at every start. We don't deploy by build ids.
_BUILD_ID: Final = "taskflow"
# Seconds before the next try to connect, or to run workers.
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
                interceptors=_tracing(),
            )
            log.info("connected to temporal")
            return client
        except (RuntimeError, RPCError) as error:
            if not logged:
                log.warning("waiting for temporal", error=type(error).__name__)
                logged = True
        await asyncio.sleep(_PAUSE)


def _tracing() -> list[Interceptor]:
    """Carries an event's trace on through the workflow that it starts, to the calls of its activities."""
    if not tracing.active():
        return []
    from temporalio.contrib.opentelemetry import TracingInterceptor

    return [TracingInterceptor()]


def build_workers(
    client: Client, activities: Sequence[Activities], concurrency: int
) -> list[Worker]:
    """One worker for workflows and quick activities, one for slow activities; `concurrency` activities each."""
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
        # Temporal's library needs two.
        max_concurrent_workflow_tasks=max(2, min(_WORKFLOW_TASKS, concurrency)),
        max_concurrent_activities=concurrency,
        graceful_shutdown_timeout=grace,
    )
    slow = Worker(
        client,
        task_queue=WORK_QUEUE,
        activities=[method for each in activities for method in each.slow],
        interceptors=[ActivityInterceptor()],
        build_id=_BUILD_ID,
        max_concurrent_activities=concurrency,
        graceful_shutdown_timeout=grace,
    )
    return [quick, slow]


async def supervise(settings: Settings, activities: Sequence[Activities]) -> None:
    """Runs workers until cancelled. After a fatal error it waits for a second, connects again and starts new ones."""
    while True:
        client = await connect(settings)
        await _run(build_workers(client, activities, settings.workflow_concurrency))
        await asyncio.sleep(_PAUSE)


async def _run(workers: list[Worker]) -> None:
    """Returns when one of them fails."""
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
    """Lets running activities end."""
    try:
        async with asyncio.timeout(LONGEST_SHUTDOWN):
            await asyncio.gather(*(worker.shutdown() for worker in workers))
    except TimeoutError:
        log.warning("worker didn't end in time")
