"""MoveDueTimes: small steps with pauses, one run for a user, and only the newest time zone counts."""

from __future__ import annotations

import asyncio
import itertools
from datetime import timedelta
from uuid import uuid4

from temporalio.client import WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from tests.workflows.conftest import Examine
from tests.workflows.services_double import Services
from workflows.contract import HISTORY_LIMIT, TASK_QUEUE
from workflows.due_times.contract import CALLS_PER_STEP, STEP_PAUSE, UserZone, due_times_id
from workflows.due_times.workflow import MoveDueTimes

_Handle = WorkflowHandle[MoveDueTimes, None]


async def start(env: WorkflowEnvironment) -> _Handle:
    """Starts or signals a user's run, as the dispatcher does."""
    user_id = str(uuid4())
    return await env.client.start_workflow(
        MoveDueTimes.run,
        UserZone(user_id),
        id=due_times_id(user_id),
        task_queue=TASK_QUEUE,
        start_signal="changed",
    )


async def test_many_tasks_are_moved_in_steps_with_pauses(
    env: WorkflowEnvironment, services: Services, examine: Examine
) -> None:
    services.moves_left = 2 * CALLS_PER_STEP + 1
    handle = await start(env)
    await handle.result()
    calls = services.calls["MoveDueTimes"]
    assert len(calls) == 2 * CALLS_PER_STEP + 1
    steps = [calls[n] for n in range(0, len(calls), CALLS_PER_STEP)]
    for earlier, later in itertools.pairwise(steps):
        assert later - earlier >= STEP_PAUSE
    await examine(handle, "due_times_moved")


async def test_changes_during_a_run_cost_one_more_look(
    env: WorkflowEnvironment, services: Services, examine: Examine
) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        entered.set()
        await go_on.wait()

    services.during["MoveDueTimes"] = wait
    handle = await start(env)
    await entered.wait()
    for _ in range(20):
        await handle.signal(MoveDueTimes.changed)
    go_on.set()
    await handle.result()
    assert len(services.calls["MoveDueTimes"]) == 2
    await examine(handle, "due_times_changed_again")


async def test_a_run_that_takes_long_continues_as_new(
    env: WorkflowEnvironment, services: Services, examine: Examine
) -> None:
    services.moves_left = CALLS_PER_STEP * HISTORY_LIMIT // 8
    handle = await start(env)
    first = env.client.get_workflow_handle(handle.id, run_id=handle.result_run_id)
    await handle.result()
    assert services.moves_left == 0
    events = (await examine(first, "due_times_continued"))["events"]
    assert len(events) < HISTORY_LIMIT + 50
    assert "workflowExecutionContinuedAsNewEventAttributes" in events[-1]
    first_call, *_, last_call = services.calls["MoveDueTimes"]
    assert last_call - first_call < timedelta(hours=1)
