"""Converts events into the responses of WatchTasks."""

from functools import lru_cache
from typing import NamedTuple

from services.task.tasks.filters import Folded, folded
from taskflow.event.v1.event_pb2 import (
    Event,
    JobChanged,
    SuggestionChanged,
    TaskCreated,
    TaskDeleted,
    TaskUndeleted,
    TaskUpdated,
)
from taskflow.task.v1 import task_service_pb2
from taskflow.task.v1.task_pb2 import Task
from taskflow.task.v1.task_service_pb2 import TaskChange, WatchTasksResponse

# The facts of the events that WatchTasks shows.
SHOWN_FACTS = (
    TaskCreated,
    TaskUpdated,
    TaskDeleted,
    TaskUndeleted,
    JobChanged,
    SuggestionChanged,
)

# Events that are kept parsed. Streams that lag further behind parse again; with the largest texts it's some megabytes.
_KEPT = 32

_KINDS = {
    "task_created": task_service_pb2.TASK_CHANGE_KIND_CREATED,
    "task_updated": task_service_pb2.TASK_CHANGE_KIND_UPDATED,
    "task_deleted": task_service_pb2.TASK_CHANGE_KIND_DELETED,
    "task_undeleted": task_service_pb2.TASK_CHANGE_KIND_UNDELETED,
}


def response(event: Event, cursor: str) -> WatchTasksResponse | None:
    """The response that shows the event; None for an event that WatchTasks doesn't show."""
    facts = event.WhichOneof("facts")
    if facts == "job_changed":
        return WatchTasksResponse(cursor=cursor, job=event.job_changed.job)
    if facts == "suggestion_changed":
        return WatchTasksResponse(cursor=cursor, suggestion=event.suggestion_changed.suggestion)
    if facts not in _KINDS:
        return None
    change = TaskChange(
        kind=_KINDS[facts],
        task=getattr(event, facts).task,
        actor_id=event.actor_id,
        change_time=event.occur_time,
    )
    if facts == "task_updated":
        change.changed_fields.CopyFrom(event.task_updated.changed_fields)
    return WatchTasksResponse(cursor=cursor, change=change)


class Parsed(NamedTuple):
    """What filters need of an event: the id of a job's or suggestion's task, or the task before and after the event,
    each with its folded texts."""

    task_id: str
    versions: tuple[tuple[Task, Folded], ...]


@lru_cache(maxsize=_KEPT)
def parsed(payload: bytes) -> Parsed:
    """Parses an event once for all filtered streams of the process, which read it at nearly the same time."""
    event = Event.FromString(payload)
    if id := task_id(event):
        return Parsed(id, ())
    before, after = before_and_after(event)
    versions = (after,) if before is None else (after, before)
    return Parsed("", tuple((task, folded(task)) for task in versions))


def before_and_after(event: Event) -> tuple[Task | None, Task]:
    """The task before the event, and after it. The first is None for a creation or an undeletion."""
    match event.WhichOneof("facts"):
        case "task_updated":
            return _before(event), event.task_updated.task
        case "task_deleted":
            live = Task()
            live.CopyFrom(event.task_deleted.task)
            live.ClearField("delete_time")
            return live, event.task_deleted.task
        case "task_undeleted":
            # None: streams that hide deleted tasks didn't show the task before.
            return None, event.task_undeleted.task
        case _:
            return None, event.task_created.task


def _before(event: Event) -> Task:
    updated = event.task_updated
    before = Task()
    before.CopyFrom(updated.task)
    for path in updated.changed_fields.paths:
        before.ClearField(path)  # type: ignore[arg-type]
    # `updated.before` holds only the changed fields.
    before.MergeFrom(updated.before)
    return before


def task_id(event: Event) -> str:
    """The id of the task of a job or suggestion event; empty for other events."""
    match event.WhichOneof("facts"):
        case "job_changed":
            return event.job_changed.job.task_id
        case "suggestion_changed":
            return event.suggestion_changed.suggestion.task_id
        case _:
            return ""
