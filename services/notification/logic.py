"""Listing, counting and reading notifications."""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from services.notification import queries
from services.notification.messages import Position, cursor, notification
from services.platform import directory, pages
from services.platform.db import Row, Transaction
from services.platform.identity import Caller
from services.platform.seal import Seal
from taskflow.notification.v1.notification_pb2 import (
    AllNotificationsRead,
    NotificationChange,
    NotificationsRead,
)
from taskflow.notification.v1.notification_service_pb2 import (
    ListNotificationsRequest,
    ListNotificationsResponse,
)

# Above every sequence.
_NEWEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Marked:
    """What was marked as read, and the change to announce after the commit; without one, nothing was."""

    count: int = 0
    epoch: str = ""
    change: NotificationChange | None = None


async def head(tx: Transaction, caller: Caller) -> Position:
    """Where the caller's feed stands. Raises SESSION_REVOKED."""
    row = await tx.one(queries.HEAD, caller_id=caller.user_id, session_id=caller.session_id)
    if row is None or not row.alive:
        raise await directory.absence(tx, caller, "feed", caller.user_id)
    return Position(str(row.epoch), row.head)


async def list_notifications(
    tx: Transaction, seal: Seal, caller: Caller, request: ListNotificationsRequest
) -> ListNotificationsResponse:
    """A page, and the cursor of the same state; `tx` is a snapshot."""
    before = pages.position(seal, caller.user_id, request) or [_NEWEST]
    at = await head(tx, caller)
    size = pages.size(request.page_size)
    rows = await tx.all(
        queries.OLDER_UNREAD if request.unread_only else queries.OLDER,
        caller_id=caller.user_id,
        before=before[0],
        count=size + 1,
    )
    page = rows[:size]
    response = ListNotificationsResponse(
        notifications=[notification(row) for row in page],
        cursor=cursor(seal, caller.user_id, at),
    )
    if len(rows) > size:
        response.next_page_token = pages.token(seal, caller.user_id, request, [page[-1].sequence])
    return response


async def unread_count(tx: Transaction, caller: Caller) -> int:
    row = await tx.one(queries.UNREAD_COUNT, caller_id=caller.user_id, session_id=caller.session_id)
    if row is None or not row.alive:
        raise await directory.absence(tx, caller, "feed", caller.user_id)
    count: int = row.unread
    return count


async def mark_read(tx: Transaction, caller: Caller, ids: Iterable[UUID]) -> Marked:
    feed = await _lock(tx, caller)
    if feed is None:
        return Marked()
    rows = await tx.all(queries.MARK, user_id=caller.user_id, ids=sorted(set(ids)), now=feed.now)
    if not rows:
        return Marked()
    change = NotificationChange(read=NotificationsRead(ids=sorted(str(row.id) for row in rows)))
    change.read.read_time.FromDatetime(feed.now)
    return await _change(tx, caller.user_id, feed, len(rows), change)


async def mark_all_read(tx: Transaction, caller: Caller, up_to_sequence: int) -> Marked:
    """`up_to_sequence` 0 means all there are now, and so does one that lies ahead."""
    feed = await _lock(tx, caller)
    if feed is None:
        return Marked()
    # A client that applies the change later, or twice, mustn't take newer ones for read.
    up_to = min(up_to_sequence or feed.last_sequence, feed.last_sequence)
    count = await tx.run(queries.MARK_UP_TO, user_id=caller.user_id, up_to=up_to, now=feed.now)
    if not count:
        return Marked()
    change = NotificationChange(all_read=AllNotificationsRead(up_to_sequence=up_to))
    change.all_read.read_time.FromDatetime(feed.now)
    return await _change(tx, caller.user_id, feed, count, change)


async def _lock(tx: Transaction, caller: Caller) -> Row | None:
    """The caller's feed, locked; None when nothing was ever in it. Raises SESSION_REVOKED."""
    feed = await tx.one(queries.LOCK_FEED, caller_id=caller.user_id, session_id=caller.session_id)
    if feed is None:
        await directory.require_session(tx, caller)
    return feed


async def _change(
    tx: Transaction, user_id: UUID, feed: Row, count: int, change: NotificationChange
) -> Marked:
    """Gives the change the feed's next sequence."""
    change.sequence = feed.last_sequence + 1
    await tx.run(queries.MOVE_FEED, user_id=user_id, sequence=change.sequence)
    await tx.run(
        queries.ADD_CHANGE,
        user_id=user_id,
        sequence=change.sequence,
        payload=change.SerializeToString(),
    )
    return Marked(count, str(feed.epoch), change)
