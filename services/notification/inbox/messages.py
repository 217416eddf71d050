"""Converts notification rows into messages."""

from google.type.date_pb2 import Date

from services.notification.inbox.queries import NotificationRow
from taskflow.notification.v1.notification_pb2 import Notification, NotificationKind


def notification(row: NotificationRow) -> Notification:
    message = Notification(
        id=str(row.id),
        sequence=row.sequence,
        kind=NotificationKind.ValueType(row.kind),
        workspace_id=str(row.workspace_id),
        task_id=str(row.task_id),
        task_key=row.task_key,
        task_title=row.task_title,
        headline=row.headline,
        actor_id=str(row.actor_id) if row.actor_id else "",
    )
    message.create_time.FromDatetime(row.created_at)
    if row.read_at:
        message.read_time.FromDatetime(row.read_at)
    if row.due_at:
        message.due_time.FromDatetime(row.due_at)
    if row.due_date:
        day = row.due_date
        message.due_date.CopyFrom(Date(year=day.year, month=day.month, day=day.day))
    return message
