"""Plans and sends reminders as the worker does, and reads what became of them."""

from datetime import datetime, timedelta

from sqlalchemy import bindparam, select, text, update

from services.platform.data.db import Statement
from services.task.reminders.models import reminders
from services.task.tasks.models import tasks
from taskflow.auth.v1.user_pb2 import User
from taskflow.auth.v1.user_service_pb2 import UpdateCurrentUserRequest
from taskflow.event.v1.event_pb2 import Event
from taskflow.task.v1.internal_service_pb2 import (
    EmitReminderRequest,
    EmitReminderResponse,
    MoveDueTimesRequest,
    PlanReminderRequest,
    Reminder,
    ReminderOutcome,
)
from taskflow.task.v1.task_pb2 import Task
from tests.integration.people import Person, events
from tests.integration.task_world import TaskWorld

LEDGER = Statement(
    select(reminders)
    .where(reminders.c.task_id == bindparam("task_id"))
    .order_by(reminders.c.due_at, reminders.c.offset_seconds)
)
# As if the user had set the deadline long before it.
_SET_EARLIER = Statement(
    update(tasks)
    .where(tasks.c.id == bindparam("task_id"))
    .values(due_set_at=text("timestamptz '0001-01-01 00:00:00Z'"))
)


async def plan(world: TaskWorld, task: Task) -> Reminder | None:
    answer = await world.worker_reminders.PlanReminder(
        PlanReminderRequest(task_id=task.id), metadata=world.service
    )
    return answer.next if answer.HasField("next") else None


async def emit_raw(world: TaskWorld, task: Task, reminder: Reminder) -> EmitReminderResponse:
    answer: EmitReminderResponse = await world.worker_reminders.EmitReminder(
        EmitReminderRequest(task_id=task.id, reminder=reminder), metadata=world.service
    )
    return answer


async def emit(world: TaskWorld, task: Task, instant: datetime, offset: int) -> str:
    """Ask the service to emit the reminder; returns the outcome."""
    return outcome(await emit_raw(world, task, reminder_at(instant, offset)))


def reminder_at(instant: datetime, offset: int) -> Reminder:
    """A reminder of a deadline with a time."""
    reminder = Reminder(offset_seconds=offset)
    reminder.due_time.FromDatetime(instant)
    reminder.remind_time.FromDatetime(instant - timedelta(seconds=offset))
    return reminder


def outcome(answer: EmitReminderResponse) -> str:
    return ReminderOutcome.Name(answer.outcome).removeprefix("REMINDER_OUTCOME_")


async def ledger(world: TaskWorld, task: Task) -> dict[tuple[datetime, int], str]:
    async with world.db.read() as tx:
        rows = await tx.all(LEDGER, task_id=task.id)
    return {
        (row.due_at, row.offset_seconds): ReminderOutcome.Name(row.outcome).removeprefix(
            "REMINDER_OUTCOME_"
        )
        for row in rows
    }


async def sent(world: TaskWorld, task: Task) -> list[Event]:
    return await events(world.db, f"taskflow.{world.workspace_id}.task.reminder_due", task.id)


async def run(world: TaskWorld, task: Task) -> list[int]:
    """Send all reminders that are due now, as the workflow does; returns their offsets."""
    offsets = []
    reminder = await plan(world, task)
    while reminder is not None:
        answer = await emit_raw(world, task, reminder)
        if outcome(answer) in ("EARLY", "ARCHIVED"):
            break
        if outcome(answer) == "SENT":
            offsets.append(reminder.offset_seconds)
        reminder = answer.next if answer.HasField("next") else None
    return offsets


async def missed(world: TaskWorld, task: Task) -> Task:
    """Makes the task one whose reminders nobody sent in time: the user set its deadline long before."""
    async with world.db.transaction() as tx:
        await tx.run(_SET_EARLIER, task_id=task.id)
    return task


async def move(world: TaskWorld, person: Person, zone: str) -> None:
    """The person lives in another time zone now, and the dispatcher has moved the person's deadlines."""
    request = UpdateCurrentUserRequest(user=User(time_zone=zone))
    request.update_mask.paths.append("time_zone")
    await world.team.users.UpdateCurrentUser(request, metadata=person.credentials)
    more = True
    while more:
        answer = await world.worker_reminders.MoveDueTimes(
            MoveDueTimesRequest(user_id=person.id), metadata=world.service
        )
        more = answer.more
