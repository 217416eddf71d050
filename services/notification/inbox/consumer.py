"""Turns events into notifications: one transaction per batch, then a live message for each notification."""

from collections.abc import Sequence

from google.protobuf.message import DecodeError
from nats.aio.msg import Msg
from uuid_utils.compat import uuid7

from services.notification.inbox import consumer_queries as queries
from services.notification.inbox import events
from services.notification.inbox.messages import notification
from services.notification.inbox.queries import NotificationRow
from services.notification.kinds.kind import Notice
from services.notification.kinds.registry import EVENT_SUBJECTS, notices
from services.notification.stream.messages import Announcement, announce
from services.platform.data.db import Transaction
from services.platform.data.input_rows import encode_rows
from services.platform.events import dead_letters, outbox
from services.platform.events.consumer import DurableConsumer, PoisonEvent
from services.platform.runtime import Platform
from taskflow.event.v1.event_pb2 import Event
from taskflow.notification.v1.notification_pb2 import NotificationChange

NAME = "notification"

# The most events in one transaction: enough to share the cost of a commit, few enough to hold locks only briefly.
_BATCH = 100


async def run(platform: Platform) -> None:
    """Runs the durable consumer `notification` for ever; any number of processes share its events."""

    async def handle(messages: Sequence[Msg]) -> None:
        wanted = [notice for message in messages for notice in notices(_parse(message))]
        if not wanted:
            return
        async with platform.db.transaction() as tx:
            announcements = await create(tx, wanted)
        for announcement in announcements:
            announce(platform.bus, platform.seal, announcement)

    park = dead_letters.parking(platform.db, NAME)
    await DurableConsumer(platform.bus, NAME, EVENT_SUBJECTS, handle, park, size=_BATCH).run()


def _parse(message: Msg) -> Event:
    try:
        return Event.FromString(message.data)
    except DecodeError:
        raise PoisonEvent("the message can't be read as an event") from None


async def create(tx: Transaction, wanted: Sequence[Notice]) -> list[Announcement]:
    """Writes the notifications of events that this consumer hasn't processed before.

    Returns an announcement for each notification, in the order of each user's feed.
    """
    by_event_and_user = {(notice.event_id, notice.user_id): notice for notice in wanted}
    candidates = list(by_event_and_user.values())
    claims = await tx.all(
        queries.CLAIM,
        consumer=NAME,
        input_rows=encode_rows(
            {
                "n": n,
                "event_id": notice.event_id,
                "workspace_id": notice.workspace_id,
                "user_id": notice.user_id,
            }
            for n, notice in enumerate(candidates)
        ),
    )
    if not claims:
        return []
    rows, announcements = [], []
    for claim in claims:
        notice = candidates[claim.n]
        row = NotificationRow(
            id=uuid7(),
            sequence=claim.sequence,
            kind=notice.kind,
            workspace_id=notice.workspace_id,
            task_id=notice.subject.task_id,
            task_key=notice.subject.key,
            task_title=notice.subject.title,
            headline=notice.headline,
            actor_id=notice.actor_id,
            created_at=claim.now,
            read_at=None,
            due_at=notice.subject.due_time,
            due_date=notice.subject.due_date,
        )
        change = NotificationChange(sequence=row.sequence, created=notification(row))
        event = events.created(
            row.id,
            user_id=notice.user_id,
            workspace_id=row.workspace_id,
            cause=notice.event_id,
        )
        rows.append(
            row._asdict()
            | {"user_id": notice.user_id, "event_id": notice.event_id}
            | {"change": change.SerializeToString()}
            | {f"outbox_{name}": value for name, value in outbox.row(event).items()}
        )
        announcements.append(Announcement(notice.user_id, str(claim.epoch), change))
    await tx.run(queries.ADD_NOTIFICATIONS, input_rows=encode_rows(rows))
    tx.has_events = True
    return announcements
