"""Workflows with one empty activity each, on a worker with the product's settings."""

import asyncio
import time
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

_QUEUE = "bench"
# The limits of the product's worker and dispatcher (workflows/worker.py, workflows/dispatcher.py).
_WORKFLOW_TASKS = 16
_CACHED = 200
_STARTS = 16


class Nothing:
    """Counts activities and signals when all are done."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.done = asyncio.Event()

    @activity.defn(name="nothing")
    async def nothing(self, number: int) -> int:
        self.left -= 1
        if not self.left:
            self.done.set()
        return number


@workflow.defn
class OneActivity:
    @workflow.run
    async def run(self, number: int) -> int:
        return await workflow.execute_activity_method(
            Nothing.nothing, number, start_to_close_timeout=timedelta(seconds=30)
        )


async def run(spec: Any, control: Any) -> dict[str, Any]:
    """Start `count` workflows at once on `temporal`. Result: the seconds until the last activity was done."""
    client = await Client.connect(spec["temporal"])
    work = Nothing(spec["count"])
    slots = asyncio.Semaphore(_STARTS)
    worker = Worker(
        client,
        task_queue=_QUEUE,
        workflows=[OneActivity],
        activities=[work.nothing],
        build_id="bench",
        max_cached_workflows=_CACHED,
        max_concurrent_workflow_tasks=_WORKFLOW_TASKS,
        max_concurrent_activities=spec["concurrency"],
    )

    async def start(number: int) -> None:
        async with slots:
            await client.start_workflow(
                OneActivity.run,
                number,
                id=f"bench/{spec['name']}/{number}",
                task_queue=_QUEUE,
            )

    async with worker:
        await control.start()
        begin = time.monotonic()
        async with asyncio.timeout(120):
            await asyncio.gather(*map(start, range(spec["count"])))
            await work.done.wait()
        seconds = time.monotonic() - begin
        # Keep the worker for a moment, because the last workflows are still completing.
        await asyncio.sleep(0.5)
    return {"seconds": seconds, "failed": 0}
