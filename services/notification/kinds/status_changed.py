"""The kind of notification for a task of the user whose status changed."""

from collections.abc import Sequence

from services.notification.kinds.kind import (
    Kind,
    assignee_and_creator,
    changed,
    task_of,
    task_subject,
)
from taskflow.event.v1.event_pb2 import Event, TaskUpdated
from taskflow.notification.v1 import notification_pb2
from taskflow.task.v1 import task_pb2

_WORDS = {
    # Tasks start with this status, so a change to it is a change back.
    task_pb2.TASK_STATUS_TODO: "is to do again",
    task_pb2.TASK_STATUS_IN_PROGRESS: "is now in progress",
    task_pb2.TASK_STATUS_DONE: "is now done",
    task_pb2.TASK_STATUS_CANCELED: "was canceled",
}


def _recipients(event: Event) -> Sequence[str]:
    return assignee_and_creator(event) if changed(event, "status") else []


def _headline(event: Event) -> str:
    task = task_of(event)
    return f"{task.key} {_WORDS.get(task.status, 'changed its status')}"


STATUS_CHANGED = Kind(
    number=notification_pb2.NOTIFICATION_KIND_STATUS_CHANGED,
    facts=(TaskUpdated,),
    recipients=_recipients,
    subject=task_subject,
    headline=_headline,
)
