"""Deadlines keep their words while their instants move: zones, assignees, archives, zone rules and members change."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, LiteralString

from google.protobuf.field_mask_pb2 import FieldMask
from google.type.date_pb2 import Date
from google.type.datetime_pb2 import DateTime, TimeZone

from taskflow.auth.v1.user_pb2 import User
from taskflow.auth.v1.user_service_pb2 import UpdateCurrentUserRequest
from taskflow.auth.v1.workspace_service_pb2 import RemoveMemberRequest
from taskflow.event.v1.event_pb2 import Event
from taskflow.task.v1.project_service_pb2 import ArchiveProjectRequest, UnarchiveProjectRequest
from taskflow.task.v1.task_pb2 import Due, Task
from taskflow.task.v1.task_service_pb2 import AssignTaskRequest, CreateTaskRequest
from tests.faults.harness import events
from tests.faults.harness.scenario import Run, Tally
from tests.faults.harness.world import SeededPerson, World, a_world

PROMISE = "A reminder's identity is the deadline as said"
LIMIT_SECONDS = {"short": 150.0, "long": 900.0}

_KILLED: Final = ("task", "task-2", "worker")
# Seconds from the creation of a task to its deadline.
_LEAD: Final = 8.0
# Seconds until a reminder comes: after an outage, and once its project is live.
_AFTER_OUTAGE: Final = 60.0
_UNARCHIVED: Final = 10.0
_RULED_ANEW: Final = "Asia/Beirut"

_LAST_WEEK: LiteralString = """
UPDATE task.tasks SET due_date = current_date - 7, due_zone = 'UTC', due_at = current_date - 6 - interval '1 second',
  assignee_id = %(assignee)s
WHERE id = ANY(%(ids)s::uuid[])
"""
_IN_ZONE: LiteralString = """
SELECT count(*) FROM task.tasks WHERE id = ANY(%(ids)s::uuid[]) AND due_zone = %(zone)s
"""
# As an older release of tzdata computed the deadlines, an hour off.
_OLDER_RULES: LiteralString = """
WITH walk AS (UPDATE task.walks SET rules = 'older' WHERE scope = 'due times')
UPDATE task.tasks SET due_at = due_at - interval '1 hour' WHERE id = ANY(%(ids)s::uuid[])
"""
_DUE_TIMES: LiteralString = """
SELECT count(*) FROM task.tasks JOIN unnest(%(ids)s::uuid[], %(due)s::timestamptz[]) AS right_ones (id, due_at)
  USING (id, due_at)
"""
_LEDGER: LiteralString = """
SELECT task_id::text, outcome, count(*) FROM task.reminders WHERE task_id = ANY(%(ids)s::uuid[]) GROUP BY 1, 2
"""
_SENT, _SKIPPED_PAST = 1, 2


@dataclass
class Tasks:
    """Ids of tasks by what happens to them."""

    # Due on a day of last week, and told in three zones and to two assignees.
    overdue: list[str]
    # Created when their deadlines had passed.
    past: list[str]
    # Due while their project is archived.
    held_back: list[str]
    # Their creator and assignee leaves.
    left: list[str]
    # The rules of their zone change.
    ruled: list[Task]


async def run(run: Run, tally: Tally) -> None:
    count = run.choose(10, 200)
    async with a_world(run, people=4, projects=2) as world:
        owner, ann, ben, leaver = world.people
        tasks = await _create(world, count, ann, leaver)
        deadline = time.time() + _LEAD
        projects = world.stubs.projects
        archived = world.workspace.projects[1]
        await _call(projects.ArchiveProject, ArchiveProjectRequest(id=archived), owner)
        removal = RemoveMemberRequest(workspace_id=world.workspace.id, user_id=leaver.id)
        await _call(world.stubs.workspaces.RemoveMember, removal, owner)
        await world.fetch(_OLDER_RULES, {"ids": _ids(tasks.ruled)})
        await _kill(run, tally)

        run.say("zones change")
        for zone in ("Europe/Berlin", "America/New_York"):
            await _move(world, ann, zone)
            await _until(partial(_all_in, world, tasks.overdue, zone), _AFTER_OUTAGE)
        await _move(world, ben, "America/Los_Angeles")
        for task_id in tasks.overdue:
            request = AssignTaskRequest(id=task_id, assignee_id=ben.id)
            await _call(world.stubs.tasks.AssignTask, request, owner)

        await asyncio.sleep(max(0.0, deadline + 1 - time.time()))
        run.say("the archived project comes back")
        unarchived = time.time()
        await _call(projects.UnarchiveProject, UnarchiveProjectRequest(id=archived), owner)
        expected = {*tasks.overdue, *tasks.held_back, *tasks.left}
        await _until(partial(_all_sent, world, expected), _AFTER_OUTAGE)
        await _until(partial(_are_due, world, tasks.ruled), _AFTER_OUTAGE)
        # A killed worker's activity is tried again once its time limit has passed.
        await _until(partial(_all_skipped, world, tasks.past), _AFTER_OUTAGE)
        await events.settled(world.settings, 60)
        tally.operations = 4 * count + len(tasks.past) + len(tasks.overdue)
        await _check(world, tasks, unarchived, tally)


async def _create(world: World, count: int, ann: SeededPerson, leaver: SeededPerson) -> Tasks:
    owner = world.people[0]
    first, second = world.workspace.projects
    now = datetime.now(UTC)
    last_week = now - timedelta(days=7)
    long_ago = [_local(last_week, "UTC"), _day(last_week)]
    far = _local(now.replace(year=now.year + 4, month=7, day=1), _RULED_ANEW)
    overdue = await world.write_tasks(count)
    await world.fetch(_LAST_WEEK, {"ids": overdue, "assignee": ann.id})
    past = [await _new(world, owner, first, long_ago[n % 2], assignee_id=ann.id) for n in range(60)]
    ruled = [await _new(world, owner, first, far) for _ in range(count)]
    left = [await _new(world, leaver, first, _soon(), assignee_id=leaver.id) for _ in range(count)]
    held_back = [await _new(world, owner, second, _soon()) for _ in range(count)]
    return Tasks(overdue, _ids(past), _ids(held_back), _ids(left), ruled)


def _ids(tasks: Sequence[Task]) -> list[str]:
    return [task.id for task in tasks]


async def _new(
    world: World, creator: SeededPerson, project_id: str, due: Due, **fields: Any
) -> Task:
    request = CreateTaskRequest(
        project_id=project_id, task=Task(title="Open the sluice", due=due, **fields)
    )
    answer = await _call(world.stubs.tasks.CreateTask, request, creator)
    task: Task = answer.task
    return task


def _soon() -> Due:
    return _local(datetime.now(UTC) + timedelta(seconds=_LEAD), "UTC")


def _local(at: datetime, zone: str) -> Due:
    """This time of day in the zone."""
    return Due(
        date_time=DateTime(
            year=at.year,
            month=at.month,
            day=at.day,
            hours=at.hour,
            minutes=at.minute,
            seconds=at.second,
            time_zone=TimeZone(id=zone),
        )
    )


def _day(at: datetime) -> Due:
    return Due(date=Date(year=at.year, month=at.month, day=at.day))


async def _call(method: Any, request: Any, person: SeededPerson) -> Any:
    return await method(request, metadata=person.credentials, timeout=20, wait_for_ready=True)


async def _move(world: World, person: SeededPerson, zone: str) -> None:
    request = UpdateCurrentUserRequest(
        user=User(time_zone=zone), update_mask=FieldMask(paths=["time_zone"])
    )
    await _call(world.stubs.users.UpdateCurrentUser, request, person)


async def _kill(run: Run, tally: Tally) -> None:
    """Kill both task services and a worker, in any order; the new ones find deadlines of older zone rules."""
    names = list(_KILLED)
    run.random.shuffle(names)
    for name in names:
        await run.stack.hold(name)
        tally.faults += 1
    run.say(f"killed {', '.join(names)}")
    for name in names:
        run.stack.release(name)
    for name in names:
        await run.stack.wait_ready(name, 60)


async def _until(condition: Callable[[], Awaitable[bool]], seconds: float) -> None:
    """Waits, but not for longer than this. The checks say what is missing."""
    give_up = time.monotonic() + seconds
    while not await condition() and time.monotonic() < give_up:
        await asyncio.sleep(0.3)


async def _all_in(world: World, ids: Sequence[str], zone: str) -> bool:
    ((count,),) = await world.fetch(_IN_ZONE, {"ids": ids, "zone": zone})
    return bool(count == len(ids))


async def _are_due(world: World, tasks: Sequence[Task]) -> bool:
    """Whether the database has the same due time for each task as the response to its creation."""
    values = {
        "ids": _ids(tasks),
        "due": [task.due_time.ToDatetime(UTC) for task in tasks],
    }
    ((count,),) = await world.fetch(_DUE_TIMES, values)
    return bool(count == len(tasks))


async def _skipped(world: World, ids: Sequence[str]) -> int:
    """How many tasks have all their reminders in the ledger as skipped, because they were past when created."""
    rows = await world.fetch(_LEDGER, {"ids": ids})
    return sum(count == 3 for _, outcome, count in rows if outcome == _SKIPPED_PAST)


async def _all_skipped(world: World, ids: Sequence[str]) -> bool:
    return await _skipped(world, ids) == len(ids)


async def _all_sent(world: World, expected: set[str]) -> bool:
    return expected <= {event.aggregate_id for event in await _reminders(world) if _is_last(event)}


def _is_last(event: Event) -> bool:
    return event.task_reminder_due.offset_seconds == 0


async def _reminders(world: World) -> list[Event]:
    stored = await events.outbox(world.settings, world.workspace.id)
    return [event for one in stored if (event := one.event).type == "task.reminder_due"]


async def _check(world: World, tasks: Tasks, unarchived: float, tally: Tally) -> None:
    found = await _reminders(world)
    identities = Counter(
        (
            event.aggregate_id,
            event.task_reminder_due.task.due.SerializeToString(deterministic=True),
            event.task_reminder_due.offset_seconds,
        )
        for event in found
    )
    tally.doubled += sum(count - 1 for count in identities.values())
    last = {event.aggregate_id: event for event in found if _is_last(event)}
    for group in (tasks.overdue, tasks.held_back, tasks.left):
        tally.lost += sum(task_id not in last for task_id in group)

    silent = {*tasks.past, *_ids(tasks.ruled)}
    wrong = sum(event.aggregate_id in silent for event in found)
    tally.expect(wrong == 0, f"{wrong} reminders of deadlines in the past or in four years")
    skipped = await _skipped(world, tasks.past)
    tally.expect(
        skipped == len(tasks.past),
        f"{len(tasks.past) - skipped} tasks created in the past lack the reason in the ledger",
    )
    owner = world.people[0].id
    for task_id in tasks.left:
        if task_id in last:
            substitutes = list(last[task_id].task_reminder_due.substitute_ids)
            tally.expect(substitutes == [owner], f"the reminder of task {task_id} reached nobody")
    tally.expect(
        await _are_due(world, tasks.ruled), "a deadline wasn't computed by the new zone rules"
    )
    late = [
        last[task_id].occur_time.ToMicroseconds() / 1e6 - unarchived
        for task_id in tasks.held_back
        if task_id in last
    ]
    slowest = max(late, default=0.0)
    tally.recovered_after(slowest)
    tally.expect_speed(
        slowest <= _UNARCHIVED, f"a reminder came {slowest:.1f} s after its project was unarchived"
    )
    had = await events.effects(world.settings, world.workspace.id)
    tally.lost += had.missing
    tally.doubled += had.surplus
    tally.figures["reminders"] = f"{len(found)} of {len(identities)} identities"
    tally.figures["after unarchiving"] = f"{slowest:.1f} s at the most"
