"""Plans reminders from a task's deadline, and sends each reminder at most once.

The database records the outcome of each reminder. This module decides, under the task's lock, whether a reminder is
sent. So a worker may call late or repeatedly.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from services.platform.data.db import Transaction
from services.platform.events.outbox import add_event
from services.platform.rpc.errors import invalid
from services.task.reminders import events, queries
from services.task.reminders.queries import RemindedTask
from services.task.tasks import queries as task_queries
from taskflow.task.v1 import internal_service_pb2 as internal
from taskflow.task.v1.internal_service_pb2 import Reminder, ReminderOutcome


async def plan(tx: Transaction, task_id: UUID, offsets: Sequence[int]) -> Reminder | None:
    """The task's next reminder, even if its time has passed; None if no reminder is left.

    `offsets` are seconds before the deadline. Records a reminder as skipped if the time of a later reminder, or the
    deadline, has passed too.
    """
    task = await tx.one(queries.LOCK_TASK, task_id=task_id)
    # Reminders of archived projects are planned too, and held back when a worker wants to send them. Unarchiving a
    # project doesn't change its tasks, so no event would plan them later.
    if task is None or _obstacle(task, task.due_at) not in (
        None,
        internal.REMINDER_OUTCOME_ARCHIVED,
    ):
        return None
    return await _next(tx, task, offsets)


async def emit(
    tx: Transaction, task_id: UUID, reminder: Reminder, offsets: Sequence[int]
) -> tuple[ReminderOutcome.ValueType, Reminder | None]:
    """Sends a reminder if the task's state allows it; returns the outcome and the task's next reminder.

    Raises INVALID_REQUEST for a `due_time` outside the years 1 to 9999.
    """
    due_at = _deadline(reminder)
    task = await tx.one(queries.LOCK_TASK, task_id=task_id)
    if task is None:
        return internal.REMINDER_OUTCOME_DELETED, None
    obstacle = _obstacle(task, due_at)
    if obstacle == internal.REMINDER_OUTCOME_MOVED:
        return obstacle, await _next(tx, task, offsets)
    if obstacle is not None:
        return obstacle, None
    outcome = await _send(tx, task, due_at, reminder.offset_seconds, offsets)
    return outcome, await _next(tx, task, offsets)


async def skip_past(tx: Transaction, task_id: UUID, offsets: Sequence[int]) -> None:
    """Records all reminders whose time has passed as skipped. Undeleting calls it, so that no old reminder is sent."""
    task = await tx.one(queries.LOCK_TASK, task_id=task_id)
    if task is None or task.due_at is None:
        return
    for offset in offsets:
        if _instant(task.due_at, offset) <= task.now:
            await _record(tx, task, task.due_at, offset, internal.REMINDER_OUTCOME_SKIPPED_PAST)


def _deadline(reminder: Reminder) -> datetime:
    try:
        return reminder.due_time.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise invalid("reminder.due_time", "lies outside the years 1 to 9999") from None


def _obstacle(task: RemindedTask, due_at: datetime | None) -> ReminderOutcome.ValueType | None:
    """The outcome that explains why no reminder of this deadline may be sent; None if reminders may be sent."""
    if task.deleted_at:
        return internal.REMINDER_OUTCOME_DELETED
    if task.finished_at:
        return internal.REMINDER_OUTCOME_FINISHED
    if task.archived_at:
        return internal.REMINDER_OUTCOME_ARCHIVED
    if due_at is None or task.due_at != due_at:
        return internal.REMINDER_OUTCOME_MOVED
    return None


async def _send(
    tx: Transaction, task: RemindedTask, due_at: datetime, offset: int, offsets: Sequence[int]
) -> ReminderOutcome.ValueType:
    recorded = (await _outcomes(tx, task, due_at)).get(offset)
    if recorded is not None:
        return recorded
    if _instant(due_at, offset) > task.now:
        return internal.REMINDER_OUTCOME_EARLY
    if _is_outdated(due_at, offset, offsets, task.now):
        await _record(tx, task, due_at, offset, internal.REMINDER_OUTCOME_SKIPPED_PAST)
        return internal.REMINDER_OUTCOME_SKIPPED_PAST
    await _record(tx, task, due_at, offset, internal.REMINDER_OUTCOME_SENT)
    row = await tx.one(task_queries.GET_UNCHECKED, task_id=task.id)
    assert row is not None
    await add_event(tx, events.reminder_due(row, offset))
    return internal.REMINDER_OUTCOME_SENT


async def _next(tx: Transaction, task: RemindedTask, offsets: Sequence[int]) -> Reminder | None:
    if task.due_at is None:
        return None
    recorded = await _outcomes(tx, task, task.due_at)
    for offset in sorted(set(offsets) - recorded.keys(), reverse=True):
        if not _is_outdated(task.due_at, offset, offsets, task.now):
            return _reminder(task.due_at, offset)
        await _record(tx, task, task.due_at, offset, internal.REMINDER_OUTCOME_SKIPPED_PAST)
    return None


def _is_outdated(due_at: datetime, offset: int, offsets: Sequence[int], now: datetime) -> bool:
    """Whether the time of a later reminder, or the deadline, has passed, so that this reminder would come too late."""
    later = [0, *(other for other in offsets if other < offset)]
    return offset > 0 and any(_instant(due_at, other) <= now for other in later)


def _instant(due_at: datetime, offset: int) -> datetime:
    try:
        return due_at - timedelta(seconds=offset)
    except OverflowError:
        # The reminder's time would lie before the year 1.
        return datetime.min.replace(tzinfo=UTC)


def _reminder(due_at: datetime, offset: int) -> Reminder:
    reminder = Reminder(offset_seconds=offset)
    reminder.due_time.FromDatetime(due_at)
    reminder.remind_time.FromDatetime(_instant(due_at, offset))
    return reminder


async def _outcomes(
    tx: Transaction, task: RemindedTask, due_at: datetime
) -> dict[int, ReminderOutcome.ValueType]:
    """The recorded outcomes of the reminders of a deadline, by offset (seconds)."""
    rows = await tx.all(queries.OUTCOMES, task_id=task.id, due_at=due_at)
    return {row.offset_seconds: row.outcome for row in rows}


async def _record(
    tx: Transaction,
    task: RemindedTask,
    due_at: datetime,
    offset: int,
    outcome: ReminderOutcome.ValueType,
) -> None:
    await tx.run(
        queries.RECORD,
        task_id=task.id,
        due_at=due_at,
        offset=offset,
        result=outcome,
        remind_at=_instant(due_at, offset),
        zone=task.due_zone or "UTC",
        rule=_rule(offset),
    )


def _rule(offset: int) -> str:
    for seconds, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if offset and offset % seconds == 0:
            return f"{offset // seconds} {unit} before the deadline"
    return "at the deadline"
