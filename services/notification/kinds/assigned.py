"""The kind of notification for a task that was assigned to the user."""

from services.notification.kinds.kind import Kind, changed, task_of, task_subject
from taskflow.event.v1.event_pb2 import Event, TaskCreated, TaskUpdated
from taskflow.notification.v1 import notification_pb2


def _recipients(event: Event) -> list[str]:
    if event.HasField("task_updated") and not changed(event, "assignee_id"):
        return []
    return [task_of(event).assignee_id]


def _headline(event: Event) -> str:
    return f"{task_of(event).key} was assigned to you"


ASSIGNED = Kind(
    number=notification_pb2.NOTIFICATION_KIND_ASSIGNED,
    facts=(TaskCreated, TaskUpdated),
    recipients=_recipients,
    subject=task_subject,
    headline=_headline,
)
