"""The event that a notification was created."""

from uuid import UUID

from services.platform.observe.tracing import trace_parent
from taskflow.event.v1.event_pb2 import Event, NotificationCreated


def created(notification_id: UUID, *, user_id: UUID, workspace_id: UUID, cause: UUID) -> Event:
    """`cause` is the event that created the notification, and whose trace goes on."""
    return Event(
        type="notification.created",
        workspace_id=str(workspace_id),
        aggregate_id=str(notification_id),
        revision=1,
        trace_parent=trace_parent(str(cause)),
        notification_created=NotificationCreated(
            notification_id=str(notification_id), user_id=str(user_id)
        ),
    )
