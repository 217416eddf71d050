"""The NotificationCreated event."""

from uuid import UUID

from services.platform.observe.tracing import trace_parent
from taskflow.event.v1.event_pb2 import Event, NotificationCreated


def created(notification_id: UUID, *, user_id: UUID, workspace_id: UUID, cause: UUID) -> Event:
    """The event of a new notification. `cause` is the event that it is about; the new event continues its trace."""
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
