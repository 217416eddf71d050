"""The Temporal workers of this process: connected in the background, and started again when one fails."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog
from temporalio.client import Client, Interceptor
from temporalio.service import RPCError
from temporalio.worker import Worker

from services.platform import tracing
from services.platform.config import Settings
from workflows import contracts
from workflows.activities import (
    EmailActivities,
    EnrichmentActivities,
    JobActivities,
    ReminderActivities,
)
from workflows.edge import Edge
from workflows.email import EmailBatch
from workflows.enrichment import EnrichTask
from workflows.job import ProcessJob
from workflows.reminder import DeadlineReminder

log = structlog.get_logger()

DEFINITIONS: Final[Sequence[type]] = (EnrichTask, DeadlineReminder, ProcessJob, EmailBatch)

# Runs kept in memory between their events, about 0.1 MB each; others are replayed when something happens to them.
_CACHED_WORKFLOWS: Final = 100
# More at once would only wait for each other: definitions run under one interpreter lock.
_WORKFLOW_TASKS: Final = 16
# How long something to do for a run waits for the worker that keeps it in memory (seconds): that may have been killed.
_CACHE_PATIENCE: Final = 3.0
# Instead of a hash over all loaded code, which takes a second and 20 MB at every start. We don't deploy by build ids.
_BUILD_ID: Final = "taskflow"
# Seconds: before another connection or worker is tried, how long activities may go on at the end, and how long the end
# may take in all.
_PAUSE: Final = 1.0
_GRACE: Final = 3.0
LONGEST_SHUTDOWN: Final = 5.0


@dataclass(frozen=True)
class Activities:
    enrichment: EnrichmentActivities
    reminders: ReminderActivities
    jobs: JobActivities
    email: EmailActivities


async def connect(settings: Settings) -> Client:
    """Returns once Temporal answers; waits as long as it takes."""
    told = False
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
            if not told:
                log.warning("waiting for temporal", error=type(error).__name__)
                told = True
        await asyncio.sleep(_PAUSE)


def _tracing() -> list[Interceptor]:
    """Continues an event's trace through the workflow that it starts, to the calls of its activities."""
    if not tracing.active():
        return []
    from temporalio.contrib.opentelemetry import TracingInterceptor

    return [TracingInterceptor()]


def build_workers(client: Client, activities: Activities, concurrency: int) -> list[Worker]:
    """One for definitions and quick activities, one for what waits on others; `concurrency` activities each."""
    grace = timedelta(seconds=_GRACE)
    quick = Worker(
        client,
        task_queue=contracts.TASK_QUEUE,
        workflows=DEFINITIONS,
        activities=[
            activities.enrichment.fail,
            activities.reminders.plan,
            activities.reminders.emit,
            activities.jobs.fail,
            activities.email.finish,
        ],
        interceptors=[Edge()],
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
        task_queue=contracts.WORK_QUEUE,
        activities=[
            activities.enrichment.suggest,
            activities.jobs.process,
            activities.email.send,
        ],
        interceptors=[Edge()],
        build_id=_BUILD_ID,
        max_concurrent_activities=concurrency,
        graceful_shutdown_timeout=grace,
    )
    return [quick, slow]


async def supervise(settings: Settings, activities: Activities) -> None:
    """Runs workers for ever; a fatal error costs a second and a new connection. Cancelled, it lets activities end."""
    while True:
        client = await connect(settings)
        await _run(build_workers(client, activities, settings.workflow_concurrency))
        await asyncio.sleep(_PAUSE)


async def _run(workers: list[Worker]) -> None:
    """Until one of them fails."""
    runs = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        done, _ = await asyncio.wait(runs, return_when=asyncio.FIRST_COMPLETED)
        for run in done:
            log.error("worker failed; starting another", error=repr(run.exception()))
    finally:
        await _end(workers)
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)


async def _end(workers: list[Worker]) -> None:
    try:
        async with asyncio.timeout(LONGEST_SHUTDOWN):
            await asyncio.gather(*(worker.shutdown() for worker in workers))
    except TimeoutError:
        log.warning("worker didn't end in time")
