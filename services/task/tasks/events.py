"""The events of tasks."""

from collections.abc import Set
from datetime import datetime
from typing import Any
from uuid import UUID

from google.protobuf.field_mask_pb2 import FieldMask

from services.task.tasks import due, messages
from services.task.tasks.queries import TaskRow
from taskflow.event.v1.event_pb2 import (
    Event,
    TaskCreated,
    TaskDeleted,
    TaskUndeleted,
    TaskUpdated,
)
from taskflow.task.v1.task_pb2 import Task

_DUE = {"due_date", "due_local", "due_zone"}
# Column → field name in TaskUpdated.changed_fields, where the two differ. None: `changed_fields` never names it.
_FIELDS = {
    "due_date": "due",
    "due_local": "due",
    "due_zone": "due",
    "due_at": "due_time",
    "due_set_at": None,
    "finished_at": None,
    "deleted_at": None,
}


def created(row: TaskRow, task: Task, *, ai_disabled: bool) -> Event:
    """The TaskCreated event; `task` is the message of `row`."""
    facts = TaskCreated(task=task, ai_disabled=ai_disabled)
    return _event("task.created", row, row.creator_id, task_created=facts)


def updated(
    old: TaskRow, new: TaskRow, fields: list[str], actor_id: UUID | None, *, ai_disabled: bool
) -> Event:
    """The TaskUpdated event. `fields` become `changed_fields`; `actor_id` is None for changes by TaskFlow itself."""
    facts = TaskUpdated(
        task=messages.task(new),
        before=messages.task_fields(old, fields),
        changed_fields=FieldMask(paths=fields),
        ai_disabled=ai_disabled,
    )
    return _event("task.updated", new, actor_id, task_updated=facts)


def deleted(new: TaskRow, actor_id: UUID | None) -> Event:
    facts = TaskDeleted(task=messages.task(new))
    return _event("task.deleted", new, actor_id, task_deleted=facts)


def undeleted(new: TaskRow, actor_id: UUID | None) -> Event:
    facts = TaskUndeleted(task=messages.task(new))
    return _event("task.undeleted", new, actor_id, task_undeleted=facts)


def reminders_outdated(task_id: UUID, workspace_id: UUID, revision: int, due_at: datetime) -> Event:
    """Has the dispatcher plan the task's reminders again. Holds only the fields that the dispatcher reads."""
    task = Task(id=str(task_id), revision=revision)
    task.due_time.FromDatetime(due_at)
    return Event(
        type="task.updated",
        workspace_id=str(workspace_id),
        aggregate_id=str(task_id),
        revision=revision,
        task_updated=TaskUpdated(
            task=task, changed_fields=FieldMask(paths=["due_time"]), plan_reminders=True
        ),
    )


def changed_fields(old: TaskRow, new: TaskRow, columns: Set[str]) -> list[str]:
    """The field names that TaskUpdated lists for these changed columns."""
    if due.of(old) == due.of(new):
        columns = columns - _DUE
    return sorted({field for name in columns if (field := _FIELDS.get(name, name))})


def _event(event_type: str, row: TaskRow, actor_id: UUID | None, **facts: Any) -> Event:
    return Event(
        type=event_type,
        workspace_id=str(row.workspace_id),
        aggregate_id=str(row.id),
        revision=row.revision,
        actor_id="" if actor_id is None else str(actor_id),
        **facts,
    )
