"""The transactional outbox: a transaction writes an event with the change it reports, and the relay publishes it."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from sqlalchemy import insert
from uuid_utils.compat import uuid7

from services.platform.data.db import Statement, Transaction
from services.platform.data.tables import outbox
from services.platform.events import types as event_types
from services.platform.events.subjects import replay_subject
from services.platform.observe.tracing import trace_parent
from taskflow.event.v1.event_pb2 import Event

# Replaces the workspace id in the subject of an event that belongs to no workspace.
NO_WORKSPACE = "_"

_ADD = Statement(insert(outbox), ["event_id", "subject", "payload"])


def subject(event: Event) -> str:
    """`taskflow.<workspace>.<aggregate>.<event>`; it contains no personal data."""
    return f"taskflow.{event.workspace_id or NO_WORKSPACE}.{event.type}"


async def add_event(tx: Transaction, event: Event) -> UUID:
    """Adds an event to the outbox, and sets its id, time and trace; returns the id.

    The caller holds the lock on the aggregate's row from which it took `event.revision`. The order of ids is then the
    order of revisions, and the relay keeps it.
    """
    columns = row(event)
    await tx.run(_ADD, **columns)
    tx.has_events = True
    event_id: UUID = columns["event_id"]
    return event_id


async def add_events(tx: Transaction, events: Iterable[Event]) -> None:
    """Adds several events to the outbox as `add_event` does, in one round trip."""
    await tx.run_many(_ADD, [row(event) for event in events])
    tx.has_events = True


async def add_events_for(tx: Transaction, consumer: str, events: Iterable[Event]) -> None:
    """Adds several events to the outbox for one consumer only."""
    rows = [row(event) for event in events]
    for columns in rows:
        columns["subject"] = replay_subject(consumer, str(columns["event_id"]))
    await tx.run_many(_ADD, rows)
    tx.has_events = True


async def add_replay(tx: Transaction, consumer: str, event_id: str, payload: bytes) -> None:
    """Adds an event to the outbox again, for one consumer only; `event_id` is the id of the original event."""
    await tx.run(
        _ADD,
        event_id=uuid7(),
        subject=replay_subject(consumer, event_id),
        payload=payload,
    )
    tx.has_events = True


def row(event: Event) -> dict[str, Any]:
    """The outbox columns of an event, for a statement that writes other rows too. Sets the event's id, time and trace.

    Raises UndeclaredEvent for a type that event.proto doesn't declare.
    """
    event_types.check(event)
    event_id = uuid7()
    event.id = str(event_id)
    event.occur_time.GetCurrentTime()
    # A caller that processes another event has set that event's trace.
    event.trace_parent = event.trace_parent or trace_parent()
    return {
        "event_id": event_id,
        "subject": subject(event),
        "payload": event.SerializeToString(),
    }
