"""Reminders: planned from the task's deadline, sent once, and kept in a ledger that says what became of each.

Whether one is sent is decided here, under the task's lock, however often and however late a worker asks.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import DateTime, Integer, SmallInteger, Text, Uuid, bindparam, func, literal, select
from sqlalchemy.dialects.postgresql import insert

from services.platform.db import Row, Statement, Transaction
from services.platform.errors import invalid
from services.platform.outbox import add_event
from services.task import messages
from services.task.models import projects, reminders, tasks
from taskflow.event.v1.event_pb2 import Event, ReminderDue
from taskflow.task.v1 import internal_service_pb2 as internal
from taskflow.task.v1.internal_service_pb2 import Reminder, ReminderOutcome

_SENT = internal.REMINDER_OUTCOME_SENT
_SKIPPED_PAST = internal.REMINDER_OUTCOME_SKIPPED_PAST

_task_id = bindparam("task_id", type_=Uuid)

# The project can't be archived before the transaction ends.
_archive = (
    select(projects.c.archived_at)
    .where(projects.c.id == tasks.c.project_id)
    .with_for_update(read=True, key_share=True)
    .lateral("project")
)
# Instants are compared with the database's clock: there is one of it.
_LOCK = Statement(
    select(tasks, _archive.c.archived_at, func.clock_timestamp().label("now"))
    .select_from(tasks.join(_archive, literal(True)))
    .where(tasks.c.id == _task_id)
    .with_for_update(of=tasks, key_share=True)
)
_CLOCK = Statement(select(func.clock_timestamp().label("now")))
_LEDGER = Statement(
    select(reminders.c.offset_seconds, reminders.c.outcome).where(
        reminders.c.task_id == _task_id,
        reminders.c.due_at == bindparam("due_at", type_=DateTime(timezone=True)),
    )
)
_RECORD = Statement(
    insert(reminders)
    .values(
        {
            reminders.c.task_id: _task_id,
            reminders.c.due_at: bindparam("due_at", type_=DateTime(timezone=True)),
            reminders.c.offset_seconds: bindparam("offset", type_=Integer),
            reminders.c.outcome: bindparam("result", type_=SmallInteger),
            reminders.c.remind_at: bindparam("remind_at", type_=DateTime(timezone=True)),
            reminders.c.zone: bindparam("zone", type_=Text),
            reminders.c.rule: bindparam("rule", type_=Text),
            reminders.c.recorded_at: func.now(),
        }
    )
    .on_conflict_do_nothing()
)


async def plan(tx: Transaction, task_id: UUID, offsets: Sequence[int]) -> Reminder | None:
    """The task's next reminder, also one that is late; None when there is none left.

    `offsets` are seconds before the deadline. Of several that are late only the one nearest to the deadline is sent;
    the others are recorded as skipped, and all of them once the deadline has passed, but for the one at the deadline.
    """
    task = await tx.one(_LOCK, task_id=task_id)
    # An archived project holds reminders back when they're to be sent. Were none planned, nobody would plan them later:
    # no task of it changes when the project is taken out of the archive.
    held_back = (None, internal.REMINDER_OUTCOME_ARCHIVED)
    if task is None or _obstacle(task, task.due_at) not in held_back:
        return None
    return await _next(tx, task, offsets)


async def emit(
    tx: Transaction, task_id: UUID, reminder: Reminder, offsets: Sequence[int]
) -> tuple[ReminderOutcome.ValueType, Reminder | None]:
    """Sends a reminder or says why not, and returns the one after it."""
    due_at = _deadline(reminder)
    task = await tx.one(_LOCK, task_id=task_id)
    if task is None:
        return internal.REMINDER_OUTCOME_DELETED, None
    obstacle = _obstacle(task, due_at)
    if obstacle == internal.REMINDER_OUTCOME_MOVED:
        return obstacle, await _next(tx, task, offsets)
    if obstacle is not None:
        return obstacle, None
    outcome = await _settle(tx, task, reminder.offset_seconds, offsets)
    return outcome, await _next(tx, task, offsets)


async def skip_past(tx: Transaction, task: Row, offsets: Sequence[int]) -> None:
    """For a task that is being undeleted: what it would have reminded of meanwhile isn't sent any more."""
    if task.due_at is None:
        return
    row: Row = await tx.one(_CLOCK)
    for offset in offsets:
        if _instant(task, offset) <= row.now:
            await _record(tx, task, offset, _SKIPPED_PAST)


def _deadline(reminder: Reminder) -> datetime:
    try:
        return reminder.due_time.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise invalid("reminder.due_time", "lies outside the years 1 to 9999") from None


def _obstacle(task: Row, due_at: datetime | None) -> ReminderOutcome.ValueType | None:
    """Why nobody is reminded of this task and deadline, if so."""
    if task.deleted_at:
        return internal.REMINDER_OUTCOME_DELETED
    if task.finished_at:
        return internal.REMINDER_OUTCOME_FINISHED
    if task.archived_at:
        return internal.REMINDER_OUTCOME_ARCHIVED
    if due_at is None or task.due_at != due_at:
        return internal.REMINDER_OUTCOME_MOVED
    return None


async def _settle(
    tx: Transaction, task: Row, offset: int, offsets: Sequence[int]
) -> ReminderOutcome.ValueType:
    recorded = (await _ledger(tx, task)).get(offset)
    if recorded is not None:
        return recorded
    if _instant(task, offset) > task.now:
        return internal.REMINDER_OUTCOME_EARLY
    if _is_outdated(task, offset, offsets):
        await _record(tx, task, offset, _SKIPPED_PAST)
        return _SKIPPED_PAST
    await _record(tx, task, offset, _SENT)
    await add_event(
        tx,
        Event(
            type="task.reminder_due",
            workspace_id=str(task.workspace_id),
            aggregate_id=str(task.id),
            # The task hasn't changed.
            revision=task.revision,
            task_reminder_due=ReminderDue(task=messages.task(task), offset_seconds=offset),
        ),
    )
    return _SENT


async def _next(tx: Transaction, task: Row, offsets: Sequence[int]) -> Reminder | None:
    if task.due_at is None:
        return None
    ledger = await _ledger(tx, task)
    for offset in sorted(set(offsets) - ledger.keys(), reverse=True):
        if not _is_outdated(task, offset, offsets):
            return _reminder(task, offset)
        await _record(tx, task, offset, _SKIPPED_PAST)
    return None


def _is_outdated(task: Row, offset: int, offsets: Sequence[int]) -> bool:
    """Whether a later reminder's time has come as well, or the deadline's."""
    later = [0, *(other for other in offsets if other < offset)]
    return offset > 0 and any(_instant(task, other) <= task.now for other in later)


def _instant(task: Row, offset: int) -> datetime:
    at: datetime = task.due_at
    try:
        return at - timedelta(seconds=offset)
    except OverflowError:
        # Before the year 1.
        return datetime.min.replace(tzinfo=UTC)


def _reminder(task: Row, offset: int) -> Reminder:
    reminder = Reminder(offset_seconds=offset)
    reminder.due_time.FromDatetime(task.due_at)
    reminder.remind_time.FromDatetime(_instant(task, offset))
    return reminder


async def _ledger(tx: Transaction, task: Row) -> dict[int, ReminderOutcome.ValueType]:
    rows = await tx.all(_LEDGER, task_id=task.id, due_at=task.due_at)
    return {row.offset_seconds: row.outcome for row in rows}


async def _record(tx: Transaction, task: Row, offset: int, outcome: int) -> None:
    await tx.run(
        _RECORD,
        task_id=task.id,
        due_at=task.due_at,
        offset=offset,
        result=outcome,
        remind_at=_instant(task, offset),
        zone=task.due_zone or "UTC",
        rule=_rule(offset),
    )


def _rule(offset: int) -> str:
    for seconds, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if offset and offset % seconds == 0:
            return f"{offset // seconds} {unit} before the deadline"
    return "at the deadline"
