"""Lists and counts notifications, and marks them as read."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from services.notification.inbox import queries
from services.notification.inbox.messages import notification
from services.notification.inbox.queries import NotificationRow
from services.notification.stream import logic as stream
from services.notification.stream.messages import Announcement, cursor
from services.platform.data.db import Transaction
from services.platform.rpc import directory, pages
from services.platform.rpc.identity import Caller
from services.platform.rpc.seal import Seal
from taskflow.notification.v1.notification_pb2 import (
    AllNotificationsRead,
    NotificationChange,
    NotificationsRead,
)
from taskflow.notification.v1.notification_service_pb2 import (
    ListNotificationsRequest,
    ListNotificationsResponse,
)

# Notifications that one transaction of `mark_all_read` marks.
MARKED_AT_ONCE = 1000
# Greater than every sequence.
_NEWEST = 2**63 - 1


async def list_notifications(
    tx: Transaction, seal: Seal, caller: Caller, request: ListNotificationsRequest
) -> ListNotificationsResponse:
    """A page, and the cursor of the same state; `tx` is a snapshot."""
    at = await stream.head(tx, caller)
    query = queries.OLDER_UNREAD if request.unread_only else queries.OLDER

    async def fetch(after: list[Any] | None, count: int) -> list[NotificationRow]:
        [before] = after or [_NEWEST]
        return await tx.all(query, caller_id=caller.user_id, before=before, count=count)

    page, token = await pages.read(
        seal, caller.user_id, request, fetch, notification, lambda row: [row.sequence]
    )
    return ListNotificationsResponse(
        notifications=page, next_page_token=token, cursor=cursor(seal, caller.user_id, at)
    )


async def unread_count(tx: Transaction, caller: Caller) -> int:
    row = await tx.one(queries.UNREAD_COUNT, caller_id=caller.user_id, session_id=caller.session_id)
    if row is None or not row.alive:
        raise await directory.absence(tx, caller, "feed", caller.user_id)
    return row.unread


async def mark_read(
    tx: Transaction, caller: Caller, ids: Iterable[UUID]
) -> tuple[int, Announcement | None]:
    """Marks notifications of the caller as read.

    Returns how many were unread, and the change to announce after the commit (None if none was unread).
    """
    feed = await stream.lock_feed(tx, caller)
    if feed is None:
        return 0, None
    rows = await tx.all(queries.MARK, user_id=caller.user_id, ids=sorted(set(ids)), now=feed.now)
    if not rows:
        return 0, None
    change = NotificationChange(read=NotificationsRead(ids=sorted(str(row.id) for row in rows)))
    change.read.read_time.FromDatetime(feed.now)
    return len(rows), await stream.append(tx, feed, change)


async def mark_all_read(
    tx: Transaction, caller: Caller, up_to_sequence: int
) -> tuple[int, Announcement | None]:
    """As `mark_read`, up to a sequence, but at most MARKED_AT_ONCE, the oldest first.

    0, or a sequence after the feed's end, means the feed's end.
    """
    feed = await stream.lock_feed(tx, caller)
    if feed is None:
        return 0, None
    # The change names the sequence, so that a client that applies it later doesn't mark newer notifications.
    up_to = min(up_to_sequence or feed.last_sequence, feed.last_sequence)
    marked = await tx.all(
        queries.MARK_UP_TO,
        user_id=caller.user_id,
        up_to=up_to,
        now=feed.now,
        count=MARKED_AT_ONCE,
    )
    if not marked:
        return 0, None
    if len(marked) == MARKED_AT_ONCE:
        up_to = max(row.sequence for row in marked)
    change = NotificationChange(all_read=AllNotificationsRead(up_to_sequence=up_to))
    change.all_read.read_time.FromDatetime(feed.now)
    return len(marked), await stream.append(tx, feed, change)
