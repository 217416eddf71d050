"""DeadlineReminder: on time and once, whatever happens to the task, the services and the signals."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import grpc
import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.testing import WorkflowEnvironment

from services.platform.config import Settings
from taskflow.event.v1.event_pb2 import TaskUpdated
from taskflow.task.v1.task_pb2 import Task as TaskMessage
from tests.workflows.conftest import Examine
from tests.workflows.services_double import Services, Task
from workflows import history_limit
from workflows.contract import HISTORY_LIMIT, TASK_QUEUE
from workflows.reminders.contract import REMINDER_ARCHIVED_PAUSE, TaskDeadline, reminder_id
from workflows.reminders.starts import on_task_updated
from workflows.reminders.workflow import DeadlineReminder

Handle = WorkflowHandle[DeadlineReminder, None]

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
# This many signals make a run's history too long, so that the run continues as new.
MANY = HISTORY_LIMIT + 50


async def change(env: WorkflowEnvironment, task_id: str, revision: int) -> Handle:
    """Starts or signals the workflow, as the dispatcher does for each change."""
    return await env.client.start_workflow(
        DeadlineReminder.run,
        TaskDeadline(task_id),
        id=reminder_id(task_id),
        task_queue=TASK_QUEUE,
        start_signal="changed",
        start_signal_args=[revision],
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
    )


async def later(env: WorkflowEnvironment, wait: timedelta) -> datetime:
    now = await env.get_current_time()
    return now.replace(microsecond=250_000) + wait


def sent(services: Services, task_id: str) -> list[tuple[datetime, int]]:
    """Deadline and offset of the sent reminders, in the order they were sent."""
    rows = [
        (at, due, offset)
        for (task, due, offset), (state, at) in services.ledger.items()
        if task == task_id and state == "SENT"
    ]
    return [(due, offset) for _, due, offset in sorted(rows)]


async def test_reminders_go_out_at_every_offset_within_a_second(
    env: WorkflowEnvironment, services: Services, examine: Examine, task_id: str
) -> None:
    due = await later(env, 2 * DAY)
    services.tasks[task_id] = Task(due=due)
    handle = await change(env, task_id, 1)
    await handle.result()
    assert sent(services, task_id) == [(due, 86400), (due, 3600), (due, 0)]
    for (_, _, offset), (_, at) in services.ledger.items():
        assert timedelta(0) <= at - (due - timedelta(seconds=offset)) <= SECOND
    await examine(handle, "reminder_sent")


async def test_a_moved_deadline_reminds_at_the_new_instants_only(
    env: WorkflowEnvironment, services: Services, examine: Examine, task_id: str
) -> None:
    first = await later(env, 3 * HOUR)
    services.tasks[task_id] = Task(due=first)
    services.offsets = (3600, 0)
    await change(env, task_id, 1)
    await env.sleep(HOUR)
    moved = first + 5 * HOUR
    services.tasks[task_id].due = moved
    handle = await change(env, task_id, 2)
    await handle.result()
    assert sent(services, task_id) == [(moved, 3600), (moved, 0)]
    await examine(handle, "reminder_moved")


async def test_a_deadline_that_moves_before_its_signal_comes_reminds_at_the_new_time(
    env: WorkflowEnvironment, services: Services, task_id: str
) -> None:
    first = await later(env, 2 * HOUR)
    services.tasks[task_id] = Task(due=first)
    services.offsets = (3600,)
    handle = await change(env, task_id, 1)
    await env.sleep(SECOND)
    services.tasks[task_id].due = first + HOUR
    await handle.result()
    assert sent(services, task_id) == [(first + HOUR, 3600)]


async def test_a_finished_task_ends_its_timer_at_once(
    env: WorkflowEnvironment, services: Services, task_id: str
) -> None:
    services.tasks[task_id] = Task(due=await later(env, 2 * DAY))
    await change(env, task_id, 1)
    await env.sleep(HOUR)
    services.tasks[task_id].finished = True
    handle = await change(env, task_id, 2)
    with env.auto_time_skipping_disabled():
        await handle.result()
    assert services.ledger == {}


async def test_a_task_deleted_just_before_its_reminder_does_not_remind(
    env: WorkflowEnvironment, services: Services, examine: Examine, task_id: str
) -> None:
    async def delete() -> None:
        services.tasks[task_id].deleted = True

    services.tasks[task_id] = Task(due=await later(env, HOUR))
    services.offsets = (0,)
    services.during["EmitReminder"] = delete
    handle = await change(env, task_id, 1)
    await handle.result()
    assert services.ledger == {}
    await examine(handle, "reminder_deleted")


async def test_an_undeleted_task_reminds_again(
    env: WorkflowEnvironment, services: Services, task_id: str
) -> None:
    due = await later(env, 2 * HOUR)
    services.tasks[task_id] = Task(due=due, deleted=True)
    handle = await change(env, task_id, 2)
    with env.auto_time_skipping_disabled():
        await handle.result()
    services.tasks[task_id].deleted = False
    await (await change(env, task_id, 3)).result()
    assert sent(services, task_id)[-1] == (due, 0)


async def test_a_signal_that_comes_while_the_run_completes_is_not_lost(
    env: WorkflowEnvironment, services: Services, examine: Examine, task_id: str
) -> None:
    """The plan has no reminder left, and the task changes before the run can complete."""
    due = await later(env, 2 * HOUR)
    calls = 0

    async def edit() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            await change(env, task_id, 2)
            services.during.clear()

    services.tasks[task_id] = Task(due=None)
    services.offsets = (0,)
    services.outages["PlanReminder"] = [grpc.StatusCode.UNAVAILABLE]
    services.during["PlanReminder"] = edit
    handle = await change(env, task_id, 1)
    with env.auto_time_skipping_disabled():
        await handle.result()
    # The run saw the signal that came during its last plan, and planned once more.
    assert len(services.calls["PlanReminder"]) == 3
    services.tasks[task_id].due = due
    await (await change(env, task_id, 3)).result()
    assert sent(services, task_id) == [(due, 0)]
    await examine(handle, "reminder_signalled_at_the_end")


async def test_no_change_is_lost_when_signals_race_with_the_end_of_runs(
    env: WorkflowEnvironment, services: Services, task_id: str
) -> None:
    """Each change is followed by a plan that sees it, whether it reached the old run or a new one."""
    services.tasks[task_id] = Task(due=None)
    for revision in range(1, 41):
        services.tasks[task_id].text_revision = revision
        handle = await change(env, task_id, revision)
    seen: list[int] = []

    async def look() -> None:
        seen.append(services.tasks[task_id].text_revision)

    services.during["PlanReminder"] = look
    for revision in range(41, 81):
        services.tasks[task_id].text_revision = revision
        handle = await change(env, task_id, revision)
    await handle.result()
    assert seen[-1] == 80


async def test_late_and_repeated_signals_change_nothing(
    env: WorkflowEnvironment, services: Services, task_id: str
) -> None:
    due = await later(env, 2 * HOUR)
    services.tasks[task_id] = Task(due=due)
    services.offsets = (0,)
    await change(env, task_id, 7)
    await env.sleep(SECOND)
    for revision in (3, 7, 5):
        handle = await change(env, task_id, revision)
    await handle.result()
    assert len(services.calls["PlanReminder"]) == 1
    assert sent(services, task_id) == [(due, 0)]


async def test_a_reminder_that_is_too_early_for_the_database_is_tried_again(
    env: WorkflowEnvironment, services: Services, examine: Examine, task_id: str
) -> None:
    due = await later(env, HOUR)
    services.tasks[task_id] = Task(due=due)
    services.offsets = (0,)
    clock = services.clock

    async def behind() -> datetime:
        return await clock() - 3 * SECOND

    services.clock = behind
    handle = await change(env, task_id, 1)
    await handle.result()
    services.clock = clock
    assert sent(services, task_id) == [(due, 0)]
    assert 2 <= len(services.calls["EmitReminder"]) <= 5
    await examine(handle, "reminder_early")


async def test_an_outage_at_the_reminder_time_delays_it_and_doubles_none(
    env: WorkflowEnvironment, services: Services, examine: Examine, task_id: str
) -> None:
    due = await later(env, 2 * HOUR)
    services.tasks[task_id] = Task(due=due)
    services.offsets = (3600,)
    services.outages["EmitReminder"] = [grpc.StatusCode.UNAVAILABLE] * 12
    handle = await change(env, task_id, 1)
    await handle.result()
    assert sent(services, task_id) == [(due, 3600)]
    await examine(handle)


async def test_reminders_of_an_archived_project_are_held_back_until_it_is_unarchived(
    env: WorkflowEnvironment, services: Services, examine: Examine, task_id: str
) -> None:
    due = await later(env, 30 * HOUR)
    services.tasks[task_id] = Task(due=due, archived=True)
    services.offsets = (86400,)
    handle = await change(env, task_id, 1)
    await env.sleep(10 * HOUR)
    assert services.ledger == {}
    services.tasks[task_id].archived = False
    unarchived = await env.get_current_time()
    await handle.result()
    ((_, at),) = services.ledger.values()
    assert at - unarchived <= REMINDER_ARCHIVED_PAUSE + SECOND
    await examine(handle, "reminder_archived")


async def test_a_project_unarchived_just_before_a_deadline_still_reminds_of_it_on_time(
    env: WorkflowEnvironment, services: Services, examine: Examine, task_id: str
) -> None:
    """Nothing tells the run that the project is live again."""
    due = await later(env, 2 * HOUR)
    services.tasks[task_id] = Task(due=due, archived=True)
    services.offsets = (3600 + 1800, 1800, 0)
    handle = await change(env, task_id, 1)
    await env.sleep(due - SECOND * 6 - await env.get_current_time())
    assert services.ledger == {}
    services.tasks[task_id].archived = False
    await handle.result()
    assert sent(services, task_id) == [(due, 0)]
    _, at = services.ledger[task_id, due, 0]
    assert timedelta(0) <= at - due <= 2 * SECOND
    await examine(handle, "reminder_unarchived")


async def test_a_reminder_planned_again_replaces_the_sleeping_run(
    env: WorkflowEnvironment, services: Services, task_id: str
) -> None:
    """The dispatcher gets such an event when a project is unarchived, or when settings or zone rules change."""
    due = await later(env, 30 * DAY)
    services.tasks[task_id] = Task(due=due)
    services.offsets = (0,)
    await change(env, task_id, 1)
    await env.sleep(SECOND)
    # The same task at the same revision, but with an earlier instant.
    services.tasks[task_id].due = due - 10 * DAY
    facts = TaskUpdated(task=TaskMessage(id=task_id, revision=1), plan_reminders=True)
    [start] = on_task_updated(facts, Settings())
    assert (start.id, start.replace_running) == (reminder_id(task_id), True)
    handle = await env.client.start_workflow(
        start.workflow,
        start.argument,
        id=start.id,
        task_queue=TASK_QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.TERMINATE_EXISTING,
    )
    await handle.result()
    assert sent(services, task_id) == [(due - 10 * DAY, 0)]


async def test_a_task_that_does_not_exist_ends_its_timer(
    env: WorkflowEnvironment, services: Services, task_id: str
) -> None:
    services.outages["PlanReminder"] = [grpc.StatusCode.NOT_FOUND]
    await (await change(env, task_id, 1)).result()


async def test_many_edits_continue_as_a_new_run_and_the_reminder_still_comes(
    env: WorkflowEnvironment, services: Services, examine: Examine, task_id: str
) -> None:
    services.offsets = (0,)
    services.tasks[task_id] = Task(due=await later(env, DAY))
    started = await change(env, task_id, 1)
    first = env.client.get_workflow_handle(started.id, run_id=started.result_run_id)
    revision = 1
    while (await first.describe()).status is WorkflowExecutionStatus.RUNNING:
        revision += 1
        plans = len(services.calls["PlanReminder"])
        await change(env, task_id, revision)
        assert revision < 3000, "the first run goes on for ever"
        while len(services.calls["PlanReminder"]) == plans:
            await env.sleep(0.001)
    history = await examine(first, "reminder_continued")
    assert len(history["events"]) < 2 * HISTORY_LIMIT
    due = await later(env, 2 * HOUR)
    services.tasks[task_id].due = due
    handle = await change(env, task_id, revision + 1)
    await handle.result()
    assert sent(services, task_id) == [(due, 0)]


async def storm(env: WorkflowEnvironment, task_id: str, count: int, revision: int = 1) -> None:
    """Signals the same change as fast as Temporal accepts it."""
    for _ in range(0, count, 50):
        await asyncio.gather(*(change(env, task_id, revision) for _ in range(50)))


async def first_run(env: WorkflowEnvironment, handle: Handle) -> Handle:
    """A handle of the run that `handle` started, which has continued as new since."""
    first = env.client.get_workflow_handle_for(
        DeadlineReminder.run, handle.id, run_id=handle.result_run_id
    )
    async with asyncio.timeout(10):
        while (await first.describe()).status is not WorkflowExecutionStatus.CONTINUED_AS_NEW:
            await asyncio.sleep(0.02)
    return first


async def test_a_sleeping_reminder_goes_on_in_new_runs_and_comes_on_time(
    env: WorkflowEnvironment, services: Services, examine: Examine, task_id: str
) -> None:
    """A signal with a revision that the workflow already knows doesn't wake it, but lengthens its history."""
    services.offsets = (0,)
    due = await later(env, HOUR)
    services.tasks[task_id] = Task(due=due)
    handle = await change(env, task_id, 1)
    with env.auto_time_skipping_disabled():
        await storm(env, task_id, MANY)
    first = await first_run(env, handle)
    await handle.result()
    ((_, at),) = services.ledger.values()
    assert timedelta(0) <= at - due <= SECOND
    await examine(first, "reminder_continued_asleep")


async def test_a_long_run_plans_again_before_it_ends_even_without_a_signal(
    env: WorkflowEnvironment,
    services: Services,
    task_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the signal limit Temporal refuses signals, so a user can set a deadline without a signal."""
    monkeypatch.setattr(history_limit, "HISTORY_LIMIT", 10_000)
    services.offsets = (0,)
    services.tasks[task_id] = Task(due=None)
    due = await later(env, HOUR)

    async def signals() -> None:
        services.during["PlanReminder"] = without_a_signal
        await storm(env, task_id, 100)
        monkeypatch.setattr(history_limit, "HISTORY_LIMIT", 50)

    async def without_a_signal() -> None:
        services.tasks[task_id].due = due

    services.during["PlanReminder"] = signals
    handle = await change(env, task_id, 1)
    await handle.result()
    await first_run(env, handle)
    assert sent(services, task_id) == [(due, 0)]


async def test_a_deadline_in_the_far_future_fits_a_timer(
    env: WorkflowEnvironment, services: Services, task_id: str
) -> None:
    services.tasks[task_id] = Task(due=(await later(env, DAY)).replace(year=9999))
    services.offsets = (0,)
    await change(env, task_id, 1)
    await env.sleep(SECOND)
    services.tasks[task_id].finished = True
    await (await change(env, task_id, 2)).result()
    assert services.ledger == {}
