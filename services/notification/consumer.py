"""Events become notifications: a transaction for those that wait, then a live message for each change."""

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
from services.platform import outbox
from services.platform.bus import PoisonEvent, event_id
from services.platform.db import Transaction
from services.platform.given import as_given
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
    by_event_and_user = {(telling.event_id, telling.user_id): telling for telling in tellings}
    asked = list(by_event_and_user.values())
    places = await tx.all(
        queries.CLAIM,
        consumer=NAME,
        given=as_given(
            {
                "n": n,
                "event_id": telling.event_id,
                "workspace_id": telling.workspace_id,
                "user_id": telling.user_id,
            }
            for n, telling in enumerate(asked)
        ),
    )
    if not places:
        return []
    rows, told = [], []
    for place in places:
        telling = asked[place.n]
        row = asdict(telling) | {
            "id": uuid7(),
            "sequence": place.sequence,
            "created_at": place.now,
        }
        change = NotificationChange(
            sequence=place.sequence, created=notification(SimpleNamespace(**row, read_at=None))
        )
        event = outbox.row(_created(telling, change.created.id))
        rows.append(
            row
            | {"change": change.SerializeToString()}
            | {f"outbox_{name}": value for name, value in event.items()}
        )
        told.append(Told(telling.user_id, str(place.epoch), change))
    await tx.run(queries.ADD_NOTIFICATIONS, given=as_given(rows))
    tx.has_events = True
    return told


def _created(telling: Telling, notification_id: str) -> Event:
    return Event(
        type="notification.created",
        workspace_id=str(telling.workspace_id),
        aggregate_id=notification_id,
        revision=1,
        trace_parent=trace_parent(str(telling.event_id)),
        notification_created=NotificationCreated(
            notification_id=notification_id, user_id=str(telling.user_id)
        ),
    )
