"""What follows from a new or changed task: its revision, event, jobs, and suggestions that become stale."""

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
    """When a task with this status was finished; None for an open task.

    A finished task keeps its time when it changes to another finished status.
    """
    return (finished_at or now) if status in FINISHED else None


def next_update_time(row: TaskRow) -> datetime:
    """The current time, but never before the task's last update: the clocks of two machines differ."""
    return max(datetime.now(UTC), row.updated_at)


def changed_columns(old: TaskRow, new: TaskRow) -> set[str]:
    columns = {name for name in COLUMNS if getattr(old, name) != getattr(new, name)}
    # Payloads are compared as JSON: in Python 1 equals True, in JSON it doesn't.
    columns.discard("payload")
    if old.payload is not new.payload and not payload.same(old.payload, new.payload):
        columns.add("payload")
    return columns


def next_revision(row: TaskRow, columns: Set[str], now: datetime) -> TaskRow:
    """The row with the revisions and update time that it gets when these columns change."""
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
    """The event of a change of these columns. `ai_disabled` matters only if title or description changed."""
    if "deleted_at" in columns:
        if new.deleted_at:
            return events.deleted(new, actor_id)
        return events.undeleted(new, actor_id)
    fields = events.changed_fields(old, new, columns)
    return events.updated(old, new, fields, actor_id, ai_disabled=ai_disabled)


async def follow_up(
    tx: Transaction, new: TaskRow, columns: Set[str], actor_id: UUID | None
) -> None:
    """Makes a task's suggestions stale if its text changed, and creates a job if its payload changed.

    The caller has created or changed the task; `columns` are the columns that it set.
    """
    # Skips new tasks, because they have no suggestions yet.
    if columns & TEXT and new.revision > 1:
        await make_stale(tx, new.id, actor_id)
    if "payload" in columns and new.payload is not None:
        await jobs.create(tx, new, actor_id)
