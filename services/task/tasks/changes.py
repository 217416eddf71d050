"""What follows from a task's new state. Created and changed tasks share it."""

from collections.abc import Set
from datetime import UTC, datetime
from uuid import UUID

from services.platform.data.db import Transaction
from services.task.jobs import logic as jobs
from services.task.jobs import payload
from services.task.suggestions.stale import make_stale
from services.task.tasks import events
from services.task.tasks.queries import COLUMNS, TaskRow
from taskflow.event.v1.event_pb2 import Event
from taskflow.task.v1 import task_pb2

FINISHED = (task_pb2.TASK_STATUS_DONE, task_pb2.TASK_STATUS_CANCELED)
TEXT = {"title", "description"}


def finish_time(status: int, finished_at: datetime | None, now: datetime) -> datetime | None:
    """When a task with this status was finished. A finished task keeps its `finished_at` in another finished status."""
    return (finished_at or now) if status in FINISHED else None


def next_update_time(row: TaskRow) -> datetime:
    """Now, but never before the last update: the clocks of two machines differ."""
    return max(datetime.now(UTC), row.updated_at)


def changed_columns(old: TaskRow, new: TaskRow) -> set[str]:
    columns = {name for name in COLUMNS if getattr(old, name) != getattr(new, name)}
    # For Python 1 and True are equal, in JSON they aren't.
    columns.discard("payload")
    if old.payload is not new.payload and not payload.same(old.payload, new.payload):
        columns.add("payload")
    return columns


def next_revision(row: TaskRow, columns: Set[str], now: datetime) -> TaskRow:
    """The row with its revision after a change of these columns."""
    return row._replace(
        revision=row.revision + 1,
        text_revision=row.text_revision + (1 if columns & TEXT else 0),
        updated_at=now,
    )


def event(
    old: TaskRow,
    new: TaskRow,
    columns: Set[str],
    actor_id: UUID | None,
    *,
    ai_disabled: bool = False,
) -> Event:
    """The event of a change of these columns. `ai_disabled` counts only for a change of text."""
    if "deleted_at" in columns:
        if new.deleted_at:
            return events.deleted(new, actor_id)
        return events.undeleted(new, actor_id)
    fields = events.changed_fields(old, new, columns)
    return events.updated(old, new, fields, actor_id, ai_disabled=ai_disabled)


async def follow_up(
    tx: Transaction, new: TaskRow, columns: Set[str], actor_id: UUID | None
) -> None:
    """Updates suggestions and jobs after these columns of a stored task were set, also by its creation."""
    # A new task has no suggestions.
    if columns & TEXT and new.revision > 1:
        await make_stale(tx, new.id, actor_id)
    if "payload" in columns and new.payload is not None:
        await jobs.create(tx, new, actor_id)
