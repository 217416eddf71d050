"""Converts a task's fields in a request into database columns. Raises INVALID_REQUEST for invalid values."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from services.platform.rpc import text
from services.task.jobs import payload
from services.task.tasks import due
from taskflow.task.v1 import task_pb2
from taskflow.task.v1.task_pb2 import Task

WRITABLE = frozenset(
    {
        *("title", "description", "status", "priority", "assignee_id"),
        *("labels", "due", "payload", "parent_id"),
    }
)

_MAX_TITLE = 255
_MAX_DESCRIPTION = 20_000
_MAX_LABEL = 64


def populated(task: Task) -> frozenset[str]:
    """The names of the task's writable fields that the request sets."""
    return frozenset(field.name for field, _ in task.ListFields()) & WRITABLE


def columns(task: Task, fields: Iterable[str]) -> dict[str, Any]:
    """Column → value for these fields of a task. A field that isn't set gets its default."""
    found: dict[str, Any] = {}
    for field in fields:
        match field:
            case "title":
                title = text.line("task.title", task.title)
                found["title"] = text.within("task.title", title, _MAX_TITLE)
            case "description":
                description = text.stored(task.description)
                found["description"] = text.within(
                    "task.description", description, _MAX_DESCRIPTION
                )
            case "status":
                found["status"] = task.status or task_pb2.TASK_STATUS_TODO
            case "priority":
                found["priority"] = task.priority
            case "assignee_id" | "parent_id":
                name = getattr(task, field)
                found[field] = UUID(name) if name else None
            case "labels":
                found["labels"] = labels("task.labels", task.labels)
            case "due":
                parsed = due.parse(task.due) if task.HasField("due") else due.NO_DUE
                found |= {
                    "due_date": parsed.day,
                    "due_local": parsed.local,
                    "due_zone": parsed.zone,
                }
            case "payload":
                present = task.HasField("payload")
                found["payload"] = payload.parse(task.payload, "task.payload") if present else None
    return found


def labels(field: str, sent: Sequence[str]) -> list[str]:
    """The labels in NFC, without surrounding white space and duplicates, in the order sent. Raises INVALID_REQUEST."""
    found: dict[str, None] = {}
    for index, label in enumerate(sent):
        place = f"{field}[{index}]"
        found[text.within(place, text.line(place, label), _MAX_LABEL)] = None
    return list(found)
