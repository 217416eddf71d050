"""What is deleted of notifications, their changes, mail and dead letters once its time is over."""

from datetime import timedelta
from itertools import groupby
from operator import attrgetter

from services.notification import queries
from services.notification.models import changes, email_batches
from services.platform import retention
from services.platform.config import Settings
from services.platform.db import Transaction
from services.platform.retention import Kind, aged
from services.platform.runtime import Loop, Platform
from services.platform.tables import dead_letters
from taskflow.notification.v1.notification_pb2 import NotificationChange, NotificationsRemoved

# A worker gives a mail up after a day.
_BATCHES_KEPT = timedelta(days=30)


def loop(platform: Platform) -> Loop:
    return retention.run(platform.settings, platform.db, kinds(platform.settings))


def kinds(settings: Settings) -> list[Kind]:
    """Unread notifications and dead letters that nobody replayed stay for ever.

    A stream that was away for longer than changes are kept is reset, so its client lists again.
    """
    # A replayed event can come once more for as long as events are kept, in the outbox and then in the stream.
    replayable = 2 * settings.event_retention
    return [
        _read(timedelta(seconds=settings.notification_retention)),
        aged(
            "notification_changes",
            changes,
            changes.c.created_at,
            timedelta(seconds=settings.change_retention),
        ),
        aged("email_batches", email_batches, email_batches.c.created_at, _BATCHES_KEPT),
        aged(
            "dead_letters",
            dead_letters,
            dead_letters.c.replayed_at,
            timedelta(seconds=max(settings.dead_letter_retention, replayable)),
        ),
    ]


def _read(after: timedelta) -> Kind:
    """With a change for each of their users, so that streams show what lists do. Streams find it by themselves."""

    async def delete(tx: Transaction, rows: int) -> tuple[int, bool]:
        found = await tx.all(queries.LOCK_READ, age=after, rows=rows)
        if not found:
            return 0, False
        of_user = {
            user_id: sorted(str(row.id) for row in theirs)
            for user_id, theirs in groupby(
                sorted(found, key=attrgetter("user_id")), attrgetter("user_id")
            )
        }
        taken = await tx.all(
            queries.TAKE_SEQUENCES, user_ids=list(of_user), counts=[1] * len(of_user)
        )
        removals = [
            NotificationChange(
                sequence=feed.last_sequence,
                removed=NotificationsRemoved(ids=of_user[feed.user_id]),
            ).SerializeToString()
            for feed in taken
        ]
        await tx.run_many(
            queries.ADD_CHANGE,
            [
                {"user_id": feed.user_id, "sequence": feed.last_sequence, "payload": removal}
                for feed, removal in zip(taken, removals, strict=True)
            ],
        )
        await tx.run(queries.REMOVE, ids=[row.id for row in found])
        return len(found), len(found) == rows

    return Kind("notifications", delete)
