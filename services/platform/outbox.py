"""The transactional outbox: an event is written by the transaction that makes it true, and published by the relay."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from sqlalchemy import insert
from uuid_utils.compat import uuid7

from services.platform import event_types
from services.platform.bus import replay_subject
from services.platform.db import Statement, Transaction
from services.platform.tables import outbox
from services.platform.tracing import trace_parent
from taskflow.event.v1.event_pb2 import Event

# Stands in the subject for the workspace of an event that belongs to none.
NO_WORKSPACE = "_"

_ADD = Statement(insert(outbox), ["event_id", "subject", "payload"])


def subject(event: Event) -> str:
    """`taskflow.<workspace>.<aggregate>.<event>`; holds no personal data."""
    return f"taskflow.{event.workspace_id or NO_WORKSPACE}.{event.type}"


async def add_event(tx: Transaction, event: Event) -> UUID:
    """Writes an event and returns its id, which is set here with the time and the trace.

    The caller holds the lock of the aggregate's row, from which it took `event.revision`: the order of ids is then the
    order of revisions, which is what the relay keeps.
    """
    columns = row(event)
    await tx.run(_ADD, **columns)
    tx.has_events = True
    event_id: UUID = columns["event_id"]
    return event_id


async def add_events(tx: Transaction, events: Iterable[Event]) -> None:
    """As `add_event`, for several without waiting for each."""
    await tx.run_many(_ADD, [row(event) for event in events])
    tx.has_events = True


async def add_events_for(tx: Transaction, consumer: str, events: Iterable[Event]) -> None:
    """As `add_events`, for one consumer alone."""
    rows = [row(event) for event in events]
    for columns in rows:
        columns["subject"] = replay_subject(consumer, str(columns["event_id"]))
    await tx.run_many(_ADD, rows)
    tx.has_events = True


async def add_replay(tx: Transaction, consumer: str, event_id: str, payload: bytes) -> None:
    """Has an event published again, for one consumer alone."""
    await tx.run(
        _ADD,
        event_id=uuid7(),
        subject=replay_subject(consumer, event_id),
        payload=payload,
    )
    tx.has_events = True


def row(event: Event) -> dict[str, Any]:
    """The columns to insert, for a statement that writes the event with something else. Sets id, time and trace.

    Raises UndeclaredEvent for a type that event.proto doesn't declare.
    """
    event_types.check(event)
    event_id = uuid7()
    event.id = str(event_id)
    event.occur_time.GetCurrentTime()
    # Set already where it follows from another event than the current one.
    event.trace_parent = event.trace_parent or trace_parent()
    return {
        "event_id": event_id,
        "subject": subject(event),
        "payload": event.SerializeToString(),
    }
