"""Promises of reminders: each fires once, on time, and never for a moved, finished, deleted or archived task."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.type.date_pb2 import Date

from services.platform.config import Settings
from taskflow.task.v1 import task_pb2
from taskflow.task.v1.internal_service_pb2 import Reminder
from taskflow.task.v1.project_service_pb2 import ArchiveProjectRequest, UnarchiveProjectRequest
from taskflow.task.v1.task_pb2 import Due, Task
from taskflow.task.v1.task_service_pb2 import AssignTaskRequest
from tests.integration.people import events, refusal
from tests.integration.reminding import (
    LEDGER,
    emit,
    emit_raw,
    ledger,
    missed,
    move,
    outcome,
    plan,
    reminder_at,
    run,
    sent,
)
from tests.integration.task_world import TaskWorld, a_task_world, due_at

_DAY, _HOUR = 86400, 3600


@pytest.fixture
async def world(services: Settings) -> AsyncIterator[TaskWorld]:
    async with a_task_world(services) as made:
        yield made


def ahead(**span: float) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(**span)


async def due(world: TaskWorld, instant: datetime, **fields: Any) -> Task:
    task = await world.create(due=due_at(instant), **fields)
    assert task.due_time.ToDatetime(tzinfo=UTC) == instant
    return task


# Planning.


async def test_the_next_reminder_is_the_earliest_that_is_still_ahead(world: TaskWorld) -> None:
    instant = ahead(days=3)
    task = await due(world, instant)
    assert await plan(world, task) == reminder_at(instant, _DAY)
    assert await ledger(world, task) == {}


async def test_tasks_without_deadline_and_finished_or_deleted_tasks_have_no_reminder(
    world: TaskWorld,
) -> None:
    assert await plan(world, await world.create()) is None
    task = await due(world, ahead(days=3))
    for status in (task_pb2.TASK_STATUS_DONE, task_pb2.TASK_STATUS_CANCELED):
        await world.set_status(task, status)
        assert await plan(world, task) is None
    await world.set_status(task, task_pb2.TASK_STATUS_TODO)
    await world.delete(task)
    assert await plan(world, task) is None
    await world.undelete(task)
    assert await plan(world, Task(id=world.workspace_id)) is None


async def test_an_archived_project_delays_reminders_and_loses_none(world: TaskWorld) -> None:
    instant = ahead(minutes=30)
    task = await due(world, instant)
    project = world.project_id
    await world.projects.ArchiveProject(ArchiveProjectRequest(id=project), metadata=world.me)
    assert await plan(world, task) == reminder_at(instant, _HOUR)
    held_back = await emit_raw(world, task, reminder_at(instant, _HOUR))
    # The worker looks again when the next reminder's time comes.
    assert (outcome(held_back), held_back.next) == ("ARCHIVED", reminder_at(instant, 0))
    await world.projects.UnarchiveProject(UnarchiveProjectRequest(id=project), metadata=world.me)
    assert await run(world, task) == [_HOUR]


async def test_of_several_missed_reminders_only_the_one_nearest_to_the_deadline_is_sent(
    world: TaskWorld,
) -> None:
    instant = ahead(minutes=30)
    task = await due(world, instant)
    assert await plan(world, task) == reminder_at(instant, _HOUR)
    assert await ledger(world, task) == {(instant, _DAY): "SKIPPED_PAST"}
    assert await run(world, task) == [_HOUR]
    assert await plan(world, task) == reminder_at(instant, 0)


async def test_a_missed_reminder_is_sent_once_while_the_deadline_is_ahead(
    world: TaskWorld,
) -> None:
    instant = ahead(hours=2)
    task = await due(world, instant)
    assert await run(world, task) == [_DAY]
    assert await run(world, task) == []
    assert await plan(world, task) == reminder_at(instant, _HOUR)
    assert await ledger(world, task) == {(instant, _DAY): "SENT"}


async def test_after_the_deadline_only_the_overdue_reminder_is_sent(
    world: TaskWorld,
) -> None:
    instant = ahead(days=-2)
    task = await missed(world, await due(world, instant))
    assert await run(world, task) == [0]
    assert await plan(world, task) is None
    assert await ledger(world, task) == {
        (instant, _DAY): "SKIPPED_PAST",
        (instant, _HOUR): "SKIPPED_PAST",
        (instant, 0): "SENT",
    }


async def test_reminders_are_planned_for_deadlines_at_both_ends_of_the_calendar(
    world: TaskWorld,
) -> None:
    first = await world.create(due=Due(date=Date(year=1, month=1, day=1)))
    assert await run(world, await missed(world, first)) == [0]
    last = await world.create(due=Due(date=Date(year=9999, month=12, day=31)))
    assert (await plan(world, last)) is not None


# Sending reminders.


async def test_a_reminder_event_has_task_and_offset_and_changes_no_task(
    world: TaskWorld,
) -> None:
    instant = ahead(minutes=30)
    task = await due(world, instant)
    answer = await emit_raw(world, task, reminder_at(instant, _HOUR))
    assert outcome(answer) == "SENT"
    assert answer.next == reminder_at(instant, 0)
    (event,) = await sent(world, task)
    assert event.task_reminder_due.task == task
    assert event.task_reminder_due.offset_seconds == _HOUR
    assert (event.revision, event.actor_id) == (task.revision, "")
    assert await world.get(task) == task


async def test_each_reminder_is_sent_once_however_often_it_is_requested(world: TaskWorld) -> None:
    instant = ahead(minutes=30)
    task = await due(world, instant)
    answers = await asyncio.gather(*(emit(world, task, instant, _HOUR) for _ in range(10)))
    assert set(answers) == {"SENT"}
    assert len(await sent(world, task)) == 1


async def test_a_reminder_is_sent_on_time_and_never_early(world: TaskWorld) -> None:
    instant = ahead(seconds=2)
    task = await due(world, instant)
    assert await emit(world, task, instant, 0) == "EARLY"
    while datetime.now(UTC) < instant + timedelta(seconds=0.1):
        await asyncio.sleep(0.05)
    assert await emit(world, task, instant, 0) == "SENT"


async def test_an_earlier_reminder_is_not_sent_after_a_later_one(world: TaskWorld) -> None:
    instant = ahead(minutes=30)
    task = await due(world, instant)
    assert await emit(world, task, instant, _HOUR) == "SENT"
    assert await emit(world, task, instant, _DAY) == "SKIPPED_PAST"
    assert len(await sent(world, task)) == 1


async def test_a_reminder_is_sent_for_the_new_deadline_and_not_for_the_old_one(
    world: TaskWorld,
) -> None:
    old, new = ahead(minutes=30), ahead(minutes=40)
    task = await due(world, old)
    await world.update(task, due=due_at(new))
    answer = await emit_raw(world, task, reminder_at(old, _HOUR))
    assert outcome(answer) == "MOVED"
    assert answer.next == reminder_at(new, _HOUR)
    await world.update(task, "due")
    assert await emit(world, task, new, _HOUR) == "MOVED"
    assert await sent(world, task) == []


async def test_a_deadline_moved_away_and_back_is_reminded_of_once(
    world: TaskWorld,
) -> None:
    first, second = ahead(minutes=30), ahead(minutes=40)
    task = await due(world, first)
    for instant in (first, second, first, second):
        await world.update(task, due=due_at(instant))
        await run(world, task)
    assert len(await sent(world, task)) == 2


async def test_finished_deleted_and_archived_tasks_never_remind(world: TaskWorld) -> None:
    instant = ahead(minutes=30)
    task = await due(world, instant)
    await world.set_status(task, task_pb2.TASK_STATUS_CANCELED)
    assert await emit(world, task, instant, _HOUR) == "FINISHED"
    await world.delete(task)
    assert await emit(world, task, instant, _HOUR) == "DELETED"
    assert await emit(world, Task(id=world.workspace_id), instant, _HOUR) == "DELETED"
    other = await due(world, instant)
    project = world.project_id
    await world.projects.ArchiveProject(ArchiveProjectRequest(id=project), metadata=world.me)
    assert await emit(world, other, instant, _HOUR) == "ARCHIVED"
    assert await sent(world, task) == await sent(world, other) == []
    assert await ledger(world, other) == {}


async def test_a_reopened_task_gets_its_remaining_reminders(world: TaskWorld) -> None:
    instant = ahead(minutes=30)
    task = await due(world, instant)
    await world.set_status(task)
    assert await run(world, task) == []
    await world.set_status(task, task_pb2.TASK_STATUS_TODO)
    assert await run(world, task) == [_HOUR]


async def test_reminders_missed_while_a_task_was_deleted_are_skipped(world: TaskWorld) -> None:
    instant = ahead(minutes=30)
    task = await due(world, instant)
    await world.delete(task)
    await world.undelete(task)
    assert await emit(world, task, instant, _HOUR) == "SKIPPED_PAST"
    assert await run(world, task) == []
    assert await plan(world, task) == reminder_at(instant, 0)
    overdue = await missed(world, await due(world, ahead(days=-1)))
    await world.delete(overdue)
    await world.undelete(overdue)
    assert await run(world, overdue) == []


async def test_a_reassignment_leaves_one_reminder(world: TaskWorld) -> None:
    instant = ahead(minutes=30)
    task = await due(world, instant)
    await run(world, task)
    request = AssignTaskRequest(id=task.id, assignee_id=world.owner.id)
    await world.tasks.AssignTask(request, metadata=world.me)
    await run(world, task)
    assert len(await sent(world, task)) == 1


async def test_the_reminder_ledger_has_instant_zone_and_rule(world: TaskWorld) -> None:
    instant = ahead(minutes=30)
    task = await due(world, instant)
    await run(world, task)
    async with world.db.read() as tx:
        rows = await tx.all(LEDGER, task_id=task.id)
    assert [(row.remind_at, row.zone, row.rule) for row in rows] == [
        (instant - timedelta(hours=1), "UTC", "1 h before the deadline"),
        (instant - timedelta(days=1), "UTC", "1 d before the deadline"),
    ]


async def test_nonexistent_instants_are_refused(world: TaskWorld) -> None:
    task = await due(world, ahead(days=3))
    reminder = Reminder(offset_seconds=0)
    reminder.due_time.seconds = 10**15
    answer = await refusal(emit_raw(world, task, reminder))
    assert answer.reason == "INVALID_REQUEST"


@pytest.mark.parametrize("seed", range(3))
async def test_edits_near_the_reminder_time_cause_no_duplicate_or_wrong_reminder(
    world: TaskWorld, seed: int
) -> None:
    """Workers keep asking while users move, finish and delete tasks. Every reminder sent was valid at its revision."""
    chance = random.Random(seed)
    instants = [ahead(minutes=30), ahead(minutes=40), ahead(minutes=50)]
    tasks = [await due(world, chance.choice(instants)) for _ in range(6)]

    async def work(task: Task) -> None:
        for _ in range(12):
            await asyncio.gather(*(emit(world, task, instant, _HOUR) for instant in instants))

    async def edit(task: Task) -> None:
        for _ in range(8):
            match chance.randrange(4):
                case 0 | 1:
                    await world.update(task, due=due_at(chance.choice(instants)))
                case 2:
                    await world.set_status(task, chance.choice((1, 3)))
                case 3:
                    await world.delete(task)
                    await world.undelete(task)

    await asyncio.gather(*(work(task) for task in tasks), *(edit(task) for task in tasks))
    subject = f"taskflow.{world.workspace_id}.task.%"
    for task in tasks:
        state: Task | None = None
        seen = set()
        for event in await events(world.db, subject, task.id):
            if event.HasField("task_reminder_due"):
                told = event.task_reminder_due.task
                assert told == state
                assert not told.HasField("finish_time")
                assert not told.HasField("delete_time")
                assert told.due_time.seconds not in seen
                seen.add(told.due_time.seconds)
            else:
                facts: Any = event.WhichOneof("facts")
                state = getattr(event, facts).task
        assert len(seen) == len(await sent(world, task))


async def test_date_deadlines_follow_the_time_zone_of_the_responsible_user(
    world: TaskWorld,
) -> None:
    task = await world.create(due=Due(date=Date(year=2040, month=6, day=1)))
    await move(world, world.owner, "Asia/Tokyo")
    moved = (await world.get(task)).due_time.ToDatetime()
    assert moved == datetime(2040, 6, 1, 14, 59, 59)
