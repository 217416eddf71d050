"""Plans reminders from a task's deadline, and sends each reminder at most once.

The database records the outcome of each reminder. Whether one is sent is decided here, under the task's lock, however
often and however late a worker calls. The deadline as the user set it and the offset identify a reminder. So
another time zone or other zone rules move a reminder, but the service never sends it again.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from services.platform.data.db import Transaction
from services.platform.events.outbox import add_event
from services.platform.rpc import directory
from services.platform.rpc.errors import invalid
from services.task.reminders import events, queries, schedule
from services.task.reminders.queries import RemindedTask
from services.task.reminders.schedule import Rules, Slot
from services.task.tasks import queries as task_queries
from services.task.tasks.due import Due
from services.task.tasks.queries import TaskRow
from taskflow.task.v1 import internal_service_pb2 as internal
from taskflow.task.v1.internal_service_pb2 import Reminder, ReminderOutcome


async def plan(tx: Transaction, task_id: UUID, rules: Rules) -> Reminder | None:
    """The task's next reminder, even if its time has passed; None when none is left.

    Records reminders as skipped when a later one, or the deadline, has passed as well, or when their time had passed
    before the user set the deadline.
    """
    task = await _lock(tx, task_id)
    # Reminders of archived projects are planned, too, and held back when a worker wants to send them.
    if task is None or _obstacle(task) not in (None, internal.REMINDER_OUTCOME_ARCHIVED):
        return None
    return await _next(tx, task, rules)


async def emit(
    tx: Transaction, task_id: UUID, reminder: Reminder, rules: Rules
) -> tuple[ReminderOutcome.ValueType, Reminder | None]:
    """Sends a reminder if the task's state allows it; returns the outcome and the task's next reminder.

    Raises INVALID_REQUEST for a `due_time` outside the years 1 to 9999.
    """
    due_at = _deadline(reminder)
    task = await _lock(tx, task_id)
    if task is None:
        return internal.REMINDER_OUTCOME_DELETED, None
    obstacle = _obstacle(task)
    if obstacle == internal.REMINDER_OUTCOME_ARCHIVED:
        ahead = (slot for slot in _slots(task, rules) if slot.at > task.now)
        return obstacle, _reminder(task, next(ahead, None))
    if obstacle is not None:
        return obstacle, None
    slot = _slot_of(task, due_at, reminder, rules)
    if slot is None:
        return internal.REMINDER_OUTCOME_MOVED, await _next(tx, task, rules)
    outcome = await _send(tx, task, slot, rules)
    return outcome, await _next(tx, task, rules)


async def skip_past(tx: Transaction, task_id: UUID, rules: Rules) -> None:
    """Records as skipped the reminders whose time passed while the task was deleted. Call it when undeleting."""
    task = await _lock(tx, task_id)
    if task is None:
        return
    for slot in _slots(task, rules):
        if slot.at <= task.now:
            await _record(tx, task, slot, internal.REMINDER_OUTCOME_SKIPPED_PAST)


async def _lock(tx: Transaction, task_id: UUID) -> RemindedTask | None:
    return await tx.one(queries.LOCK_TASK, task_id=task_id)


def _deadline(reminder: Reminder) -> datetime:
    try:
        return reminder.due_time.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise invalid("reminder.due_time", "lies outside the years 1 to 9999") from None


def _obstacle(task: RemindedTask) -> ReminderOutcome.ValueType | None:
    """Why no reminder of the task may be sent now; None if one may."""
    if task.deleted_at:
        return internal.REMINDER_OUTCOME_DELETED
    if task.finished_at:
        return internal.REMINDER_OUTCOME_FINISHED
    if task.archived_at:
        return internal.REMINDER_OUTCOME_ARCHIVED
    return None


def _said(task: RemindedTask) -> Due:
    """The deadline as the user set it."""
    return Due(task.due_date, task.due_local, task.due_zone if task.due_local else None)


def _slots(task: RemindedTask, rules: Rules) -> Sequence[Slot]:
    """The task's reminders, earliest first."""
    if task.due_at is None:
        return ()
    return schedule.slots(_said(task), task.due_at, task.due_zone or "UTC", rules)


def _slot_of(task: RemindedTask, due_at: datetime, reminder: Reminder, rules: Rules) -> Slot | None:
    """The slot of a reminder that a worker planned; None if the deadline or the reminder has moved since."""
    if task.due_at != due_at:
        return None
    for slot in _slots(task, rules):
        if slot.offset == reminder.offset_seconds:
            planned = reminder.remind_time if reminder.HasField("remind_time") else None
            return slot if planned is None or planned == _stamped(slot).remind_time else None
    return None


async def _send(
    tx: Transaction, task: RemindedTask, slot: Slot, rules: Rules
) -> ReminderOutcome.ValueType:
    recorded = (await _outcomes(tx, task)).get(slot.offset)
    if recorded is not None:
        return recorded
    if slot.at > task.now:
        return internal.REMINDER_OUTCOME_EARLY
    if _is_past(task, slot, rules):
        await _record(tx, task, slot, internal.REMINDER_OUTCOME_SKIPPED_PAST)
        return internal.REMINDER_OUTCOME_SKIPPED_PAST
    await _record(tx, task, slot, internal.REMINDER_OUTCOME_SENT)
    row = await tx.one(task_queries.GET_UNCHECKED, task_id=task.id)
    assert row is not None
    substitutes = await _substitutes(tx, row)
    await add_event(tx, events.reminder_due(row, slot.offset, substitutes))
    return internal.REMINDER_OUTCOME_SENT


async def _next(tx: Transaction, task: RemindedTask, rules: Rules) -> Reminder | None:
    recorded = await _outcomes(tx, task)
    for slot in _slots(task, rules):
        if slot.offset in recorded:
            continue
        if not _is_past(task, slot, rules):
            return _reminder(task, slot)
        await _record(tx, task, slot, internal.REMINDER_OUTCOME_SKIPPED_PAST)
    return None


def _is_past(task: RemindedTask, slot: Slot, rules: Rules) -> bool:
    return _was_past(task, slot) or _is_outdated(task, slot, rules)


def _was_past(task: RemindedTask, slot: Slot) -> bool:
    """Whether it was too late for this reminder when the user set the deadline.

    The deadline had passed, or the morning on which a day's reminder is sent. A reminder of a local time says how much
    time is left, so it is sent while any is left.
    """
    if task.due_at is None or task.due_set_at is None:
        return False
    passed = task.due_at if task.due_date is None else min(task.due_at, slot.at)
    return passed <= task.due_set_at


def _is_outdated(task: RemindedTask, slot: Slot, rules: Rules) -> bool:
    """Whether a later reminder's time, or the deadline, has passed as well. The last reminder is never outdated."""
    if slot.offset == 0 or task.due_at is None:
        return False
    later = [other.at for other in _slots(task, rules) if other.offset < slot.offset]
    return min(task.due_at, *later) <= task.now


def _stamped(slot: Slot) -> Reminder:
    reminder = Reminder(offset_seconds=slot.offset)
    reminder.remind_time.FromDatetime(slot.at)
    return reminder


def _reminder(task: RemindedTask, slot: Slot | None) -> Reminder | None:
    if slot is None or task.due_at is None:
        return None
    reminder = _stamped(slot)
    reminder.due_time.FromDatetime(task.due_at)
    return reminder


async def _outcomes(tx: Transaction, task: RemindedTask) -> dict[int, ReminderOutcome.ValueType]:
    """The recorded outcomes of the task's deadline, by offset."""
    if task.due_at is None:
        return {}
    rows = await tx.all(
        queries.OUTCOMES, task_id=task.id, due_said=_said(task).said, due_at=task.due_at
    )
    found: dict[int, ReminderOutcome.ValueType] = {}
    for row in rows:
        offset: int | None = row.offset_seconds
        if row.due_said is None and task.due_date is not None:
            offset = schedule.offset_of_day(row.offset_seconds)
        if offset is not None:
            found[offset] = row.outcome
    return found


async def _record(
    tx: Transaction, task: RemindedTask, slot: Slot, outcome: ReminderOutcome.ValueType
) -> None:
    await tx.run(
        queries.RECORD,
        task_id=task.id,
        due_said=_said(task).said,
        due_at=task.due_at,
        offset=slot.offset,
        result=outcome,
        remind_at=slot.at,
        zone=task.due_zone or "UTC",
        rule=slot.rule,
    )


async def _substitutes(tx: Transaction, task: TaskRow) -> list[UUID]:
    """Who is reminded when neither the assignee nor the creator is a member: the project's creator, else the owners."""
    people = {task.creator_id} if task.assignee_id is None else {task.creator_id, task.assignee_id}
    if await directory.members_among(tx, task.workspace_id, people):
        return []
    creator = await tx.one(queries.PROJECT_CREATOR, project_id=task.project_id)
    if creator is not None and await directory.members_among(
        tx, task.workspace_id, [creator.creator_id]
    ):
        return [creator.creator_id]
    return await directory.owners(tx, task.workspace_id)
