"""Events, read directly: contents of outbox and stream, and the effects at the consumers."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import nats
import nats.errors
import nats.js.errors
import psycopg
from google.protobuf.message import DecodeError
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from services.platform.config import Settings
from services.platform.events.subjects import STREAM
from taskflow.event.v1.event_pb2 import Event
from tests.faults.harness.world import fetch

CONSUMERS = ("notification", "dispatcher")

# Messages read from the stream per batch, and the time limit of a batch (seconds).
_BATCH = 500
_PATIENCE = 10.0

# A notification's event id and recipient.
Delivery = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Stored:
    """An event in the outbox or the stream. `place` is the row id or the stream sequence."""

    place: int
    id: str
    payload: bytes

    @property
    def event(self) -> Event:
        return Event.FromString(self.payload)


@asynccontextmanager
async def nats_client(settings: Settings) -> AsyncIterator[Client]:
    client = await nats.connect(settings.nats, max_reconnect_attempts=-1, reconnect_time_wait=0.2)
    try:
        yield client
    finally:
        await client.close()


async def outbox(settings: Settings, workspace_id: str) -> list[Stored]:
    """A workspace's events in the order they were written."""
    rows = await fetch(
        settings,
        "SELECT id, event_id, payload FROM platform.outbox WHERE subject LIKE %(subjects)s ORDER BY id",
        {"subjects": f"taskflow.{workspace_id}.%"},
    )
    return [Stored(place, str(event_id), bytes(payload)) for place, event_id, payload in rows]


async def stream(settings: Settings, workspace_id: str) -> list[Stored]:
    """All of a workspace's events in JetStream's order, including repeated ones."""
    found: list[Stored] = []
    config = ConsumerConfig(
        ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL, mem_storage=True
    )
    async with nats_client(settings) as client:
        reading = await client.jetstream().pull_subscribe(
            f"taskflow.{workspace_id}.>", stream=STREAM, config=config
        )
        left = (await reading.consumer_info()).num_pending or 0
        while left:
            for message in await reading.fetch(min(left, _BATCH), timeout=_PATIENCE):
                event_id = (message.headers or {}).get("Nats-Msg-Id", "")
                found.append(Stored(message.metadata.sequence.stream, event_id, message.data))
                left = message.metadata.num_pending
    return found


def inverted(events: Iterable[Stored]) -> int:
    """Events that follow an event of the same aggregate with a higher revision."""
    highest: dict[str, int] = {}
    count = 0
    for stored in events:
        event = stored.event
        known = highest.get(event.aggregate_id, 0)
        count += event.revision < known
        highest[event.aggregate_id] = max(known, event.revision)
    return count


def tellings(events: Iterable[Stored]) -> set[Delivery]:
    """The notifications that the events call for, provided that every named user is a member."""
    return {
        (stored.id, user_id)
        for stored, event in _readable(events)
        for user_id in _recipients(event)
        if user_id and user_id != event.actor_id
    }


async def notification_counts(settings: Settings, workspace_id: str) -> Counter[Delivery]:
    """How often each user was notified of each event."""
    rows = await fetch(
        settings,
        "SELECT event_id, user_id FROM notification.notifications WHERE workspace_id = %(workspace)s",
        {"workspace": workspace_id},
    )
    return Counter((str(event_id), str(user_id)) for event_id, user_id in rows)


@dataclass(frozen=True)
class Effects:
    """Differences between notifications and the events that call for them."""

    missing: int
    # Duplicate notifications, and notifications of events that call for none.
    surplus: int
    total: int


async def effects(settings: Settings, workspace_id: str, without: Collection[str] = ()) -> Effects:
    """Compare notifications with events. `without` are ids of events that can't have an effect."""
    written = await outbox(settings, workspace_id)
    wanted = tellings(stored for stored in written if stored.id not in without)
    had = await notification_counts(settings, workspace_id)
    surplus = sum(count - (telling in wanted) for telling, count in had.items())
    return Effects(len(wanted - had.keys()), surplus, sum(had.values()))


async def settled(settings: Settings, seconds: float) -> float | None:
    """Wait until all events are published and consumed. Returns the seconds, or None on timeout."""
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        # Twice in a row, because consuming an event may emit another one.
        if not await backlog(settings):
            await asyncio.sleep(0.1)
            if not await backlog(settings):
                return time.monotonic() - started
        await asyncio.sleep(0.1)
    return None


async def backlog(settings: Settings) -> int:
    """Number of events waiting to be published or processed; 1 while unknown."""
    try:
        ((waiting,),) = await fetch(
            settings, "SELECT count(*) FROM platform.outbox WHERE published_at IS NULL"
        )
        async with asyncio.timeout(_PATIENCE), nats_client(settings) as client:
            jetstream = client.jetstream()
            for name in CONSUMERS:
                info = await jetstream.consumer_info(STREAM, name)
                waiting += (info.num_pending or 0) + (info.num_ack_pending or 0)
    except (nats.errors.Error, psycopg.Error, OSError, TimeoutError):
        return 1
    return int(waiting)


def _readable(events: Iterable[Stored]) -> Iterator[tuple[Stored, Event]]:
    for stored in events:
        try:
            yield stored, stored.event
        except DecodeError:
            continue


def _recipients(event: Event) -> Iterator[str]:
    facts: Any = getattr(event, event.WhichOneof("facts") or "task_created")
    match event.WhichOneof("facts"):
        case "task_created":
            yield facts.task.assignee_id
        case "task_updated":
            if "assignee_id" in facts.changed_fields.paths:
                yield facts.task.assignee_id
            if "status" in facts.changed_fields.paths:
                yield from (facts.task.assignee_id, facts.task.creator_id)
        case "task_reminder_due":
            yield from facts.substitute_ids or (facts.task.assignee_id, facts.task.creator_id)
