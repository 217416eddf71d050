"""Deletes notifications that were read long ago."""

from collections import defaultdict
from datetime import timedelta
from uuid import UUID

from services.notification.inbox import queries
from services.notification.stream import logic as stream
from services.platform.config import Settings
from services.platform.data.db import Transaction
from services.platform.data.retention import Kind
from taskflow.notification.v1.notification_pb2 import NotificationChange, NotificationsRemoved


def kinds(settings: Settings) -> list[Kind]:
    """The kinds of rows to delete. Unread notifications are kept for ever."""
    return [_read(timedelta(seconds=settings.notification_retention))]


def _read(age: timedelta) -> Kind:
    """Deletes notifications that were read longer than `age` ago.

    Each deletion is a change in the user's feed, so that streams agree with lists.
    """

    async def delete(tx: Transaction, rows: int) -> tuple[int, bool]:
        expired = await tx.all(queries.LOCK_READ, age=age, rows=rows)
        if not expired:
            return 0, False
        ids: defaultdict[UUID, list[str]] = defaultdict(list)
        for row in expired:
            ids[row.user_id].append(str(row.id))
        await stream.append_for_users(
            tx,
            {
                user_id: NotificationChange(removed=NotificationsRemoved(ids=sorted(removed)))
                for user_id, removed in ids.items()
            },
        )
        await tx.run(queries.DELETE, ids=[row.id for row in expired])
        return len(expired), len(expired) == rows

    return Kind("notifications", delete)
