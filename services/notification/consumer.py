"""Events become notifications: a transaction for those that wait, then a live message for each change."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from uuid import UUID

from google.protobuf.message import DecodeError
from nats.aio.msg import Msg
from uuid_utils.compat import uuid7

from services.notification import dead_letters, queries
from services.notification.messages import announce, notification
from services.notification.telling import SUBJECTS, Telling, tell
from services.platform.bus import PoisonEvent, event_id
from services.platform.db import Transaction
from services.platform.outbox import add_events
from services.platform.runtime import Platform
from services.platform.tracing import trace_parent
from taskflow.event.v1.event_pb2 import Event, NotificationCreated
from taskflow.notification.v1.notification_pb2 import NotificationChange

NAME = "notification"

# Events in one transaction: enough to share the cost of its commit, few enough to be quick.
_BATCH = 100


@dataclass(frozen=True, slots=True)
class Told:
    user_id: UUID
    epoch: str
    change: NotificationChange


class Consumer:
    """The durable consumer `notification`; any number of processes share its events."""

    def __init__(self, platform: Platform) -> None:
        self._db = platform.db
        self._bus = platform.bus
        self._seal = platform.seal

    async def run(self) -> None:
        await self._bus.consume_batches(NAME, SUBJECTS, self.handle, self.park, size=_BATCH)

    async def handle(self, messages: Sequence[Msg]) -> None:
        tellings = [telling for message in messages for telling in tell(_read(message))]
        if not tellings:
            return
        async with self._db.transaction() as tx:
            told = await notify(tx, tellings)
        for one in told:
            announce(self._bus, self._seal, one.user_id, one.epoch, one.change)

    async def park(self, message: Msg, error: str) -> None:
        async with self._db.transaction() as tx:
            await dead_letters.park(
                tx,
                consumer=NAME,
                subject=message.subject,
                event_id=event_id(message),
                payload=message.data,
                error=error,
            )


def _read(message: Msg) -> Event:
    try:
        return Event.FromString(message.data)
    except DecodeError:
        raise PoisonEvent("the message can't be read as an event") from None


async def notify(tx: Transaction, tellings: Sequence[Telling]) -> list[Told]:
    """Writes the notifications that weren't written before, and says what became of each feed, in order."""
    due = await _due(tx, tellings)
    if not due:
        return []
    counts = sorted(Counter(telling.user_id for telling in due).items())
    taken = await tx.all(
        queries.TAKE_SEQUENCES,
        user_ids=[user_id for user_id, _ in counts],
        counts=[count for _, count in counts],
    )
    feeds = {row.user_id: row for row in taken}
    following = {user_id: feeds[user_id].last_sequence - count + 1 for user_id, count in counts}
    rows, changes, events, told = [], [], [], []
    for telling in due:
        feed, sequence = feeds[telling.user_id], following[telling.user_id]
        following[telling.user_id] += 1
        row = asdict(telling) | {"id": uuid7(), "sequence": sequence, "created_at": feed.now}
        change = NotificationChange(
            sequence=sequence, created=notification(SimpleNamespace(**row, read_at=None))
        )
        rows.append(row)
        changes.append(
            {
                "user_id": telling.user_id,
                "sequence": sequence,
                "payload": change.SerializeToString(),
            }
        )
        events.append(
            Event(
                type="notification.created",
                workspace_id=str(telling.workspace_id),
                aggregate_id=change.created.id,
                revision=1,
                trace_parent=trace_parent(str(telling.event_id)),
                notification_created=NotificationCreated(
                    notification_id=change.created.id, user_id=str(telling.user_id)
                ),
            )
        )
        told.append(Told(telling.user_id, str(feed.epoch), change))
    await tx.run_many(queries.ADD_NOTIFICATION, rows)
    await tx.run_many(queries.ADD_CHANGE, changes)
    await add_events(tx, events)
    return told


async def _due(tx: Transaction, tellings: Sequence[Telling]) -> list[Telling]:
    """Those whose event is new to us and whose user is a member of the workspace now."""
    by_event_and_user = {(telling.event_id, telling.user_id): telling for telling in tellings}
    claimed = await tx.all(
        queries.CLAIM_EVENTS,
        consumer=NAME,
        event_ids=sorted({telling.event_id for telling in tellings}),
    )
    new = {row.event_id for row in claimed}
    asked = [telling for telling in by_event_and_user.values() if telling.event_id in new]
    if not asked:
        return []
    found = await tx.all(
        queries.RECIPIENTS,
        event_ids=[telling.event_id for telling in asked],
        workspace_ids=[telling.workspace_id for telling in asked],
        user_ids=[telling.user_id for telling in asked],
    )
    recipients = {(row.event_id, row.user_id) for row in found}
    return [telling for telling in asked if (telling.event_id, telling.user_id) in recipients]
