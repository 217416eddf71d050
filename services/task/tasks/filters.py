"""Decides which tasks match a TaskFilter. `matches` and the statements in list_queries.py have to agree."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from services.platform.rpc import text
from services.platform.rpc.errors import invalid
from services.task.tasks.fields import labels
from taskflow.task.v1.task_pb2 import Task, TaskFilter

# Seconds since the epoch that a google.protobuf.Timestamp may hold: the years 1 to 9999.
_SECONDS = range(-62_135_596_800, 253_402_300_800)


def normalize(sent: TaskFilter) -> TaskFilter:
    """The filter as statements and `matches` need it: ids in lower case, texts in NFC, times in microseconds.

    Raises INVALID_REQUEST for blank labels and times outside the range of a Timestamp.
    """
    normal = TaskFilter(
        project_ids=_ids(sent.project_ids),
        statuses=sent.statuses,
        priorities=sent.priorities,
        assignee_ids=_ids(sent.assignee_ids),
        creator_ids=_ids(sent.creator_ids),
        labels=labels("filter.labels", sent.labels),
        text=text.stored(sent.text),
        include_deleted=sent.include_deleted,
    )
    for name in ("due_before", "due_after", "updated_after"):
        if sent.HasField(name):
            getattr(normal, name).CopyFrom(_in_microseconds(f"filter.{name}", getattr(sent, name)))
    return normal


def _ids(names: Iterable[str]) -> list[str]:
    return [str(UUID(name)) if name else "" for name in names]


def _in_microseconds(field: str, sent: Timestamp) -> Timestamp:
    """The time rounded up to microseconds. Tasks' times are in microseconds, so the filter selects the same tasks."""
    if sent.seconds not in _SECONDS or not 0 <= sent.nanos < 1_000_000_000:
        raise invalid(field, "lies outside the years 1 to 9999")
    seconds, micros = sent.seconds, -(-sent.nanos // 1000)
    if micros == 1_000_000:
        seconds, micros = seconds + 1, 0
    if seconds not in _SECONDS:
        seconds, micros = _SECONDS[-1], 999_999
    return Timestamp(seconds=seconds, nanos=micros * 1000)


Folded = tuple[str, str]


def folded(task: Task) -> Folded:
    """The title and the description for comparison with a filter's text."""
    return task.title.casefold(), task.description.casefold()


def matches(wanted: TaskFilter, task: Task, texts: Folded | None = None) -> bool:
    """Whether a list with this normalized filter contains the task. `texts` is `folded(task)`, if it's known."""
    return (
        (wanted.include_deleted or not task.HasField("delete_time"))
        and _allows(wanted.project_ids, task.project_id)
        and _allows(wanted.statuses, task.status)
        and _allows(wanted.priorities, task.priority)
        and _allows(wanted.assignee_ids, task.assignee_id)
        and _allows(wanted.creator_ids, task.creator_id)
        and (not wanted.labels or any(label in wanted.labels for label in task.labels))
        and _allows_due_time(wanted, task)
        and (
            not wanted.HasField("updated_after")
            or _instant(task.update_time) >= _instant(wanted.updated_after)
        )
        and (not wanted.text or _contains(texts or folded(task), wanted.text))
    )


def _allows(values: Any, value: object) -> bool:
    """Whether a filter's list of values allows the value. An empty list allows all."""
    return not values or value in values


def _allows_due_time(wanted: TaskFilter, task: Task) -> bool:
    before, after = wanted.HasField("due_before"), wanted.HasField("due_after")
    if not before and not after:
        return True
    due = _instant(task.due_time)
    return (
        task.HasField("due_time")
        and (not before or due < _instant(wanted.due_before))
        and (not after or due >= _instant(wanted.due_after))
    )


def _instant(at: Timestamp) -> tuple[int, int]:
    return at.seconds, at.nanos


def _contains(texts: Folded, text: str) -> bool:
    sought = text.casefold()
    return any(sought in found for found in texts)
