"""Reads and extends a user's feed of changes."""

from uuid import UUID

from services.notification.stream import queries
from services.notification.stream.messages import Announcement, Position
from services.notification.stream.queries import FeedRow
from services.platform.data.db import Transaction
from services.platform.rpc import directory
from services.platform.rpc.identity import Caller
from taskflow.notification.v1.notification_pb2 import NotificationChange


async def head(tx: Transaction, caller: Caller) -> Position:
    """The position of the newest change in the caller's feed. Raises SESSION_REVOKED."""
    row = await tx.one(queries.HEAD, caller_id=caller.user_id, session_id=caller.session_id)
    if row is None or not row.alive:
        raise await directory.absence(tx, caller, "feed", caller.user_id)
    return Position(str(row.epoch), row.head)


async def lock_feed(tx: Transaction, caller: Caller) -> FeedRow | None:
    """Locks the caller's feed; returns None for a feed that never had a change. Raises SESSION_REVOKED."""
    feed = await tx.one(queries.LOCK_FEED, caller_id=caller.user_id, session_id=caller.session_id)
    if feed is None:
        await directory.require_session(tx, caller)
    return feed


async def append(tx: Transaction, feed: FeedRow, change: NotificationChange) -> Announcement:
    """Adds a change to a locked feed, with the feed's next sequence. The caller announces it after the commit."""
    change.sequence = feed.last_sequence + 1
    await tx.run(queries.MOVE_FEED, user_id=feed.user_id, sequence=change.sequence)
    await tx.run(
        queries.ADD_CHANGE,
        user_id=feed.user_id,
        sequence=change.sequence,
        payload=change.SerializeToString(),
    )
    return Announcement(feed.user_id, str(feed.epoch), change)


async def append_for_users(tx: Transaction, changes: dict[UUID, NotificationChange]) -> None:
    """Adds one change to each user's feed.

    The caller sends no live message for these changes. The hub finds them at its next repair (hub.py).
    """
    feeds = await tx.all(queries.TAKE_SEQUENCES, user_ids=sorted(changes))
    rows = []
    for feed in feeds:
        change = changes[feed.user_id]
        change.sequence = feed.last_sequence
        rows.append(
            {
                "user_id": feed.user_id,
                "sequence": feed.last_sequence,
                "payload": change.SerializeToString(),
            }
        )
    await tx.run_many(queries.ADD_CHANGE, rows)
