"""Which rows of the platform's tables are deleted, and when. The relay's process deletes them."""

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

import structlog
from sqlalchemy import ColumnElement, Table, Text, cast, exists, not_, select

from services.platform.config import Settings
from services.platform.data.db import Statement, Transaction
from services.platform.data.retention import Delete, Kind, aged, delete_oldest
from services.platform.data.tables import consumed_events, dead_letters, idempotency_keys, outbox
from services.platform.events import consumer_queries
from services.platform.events.subjects import pattern
from services.platform.observe import metrics
from services.platform.rpc import idempotency

log = structlog.get_logger()


class _DeletedEvent(NamedTuple):
    stream_sequence: int | None
    subject: str


_DELETE_EVENTS = Statement(
    delete_oldest(outbox, outbox.c.published_at).returning(
        outbox.c.stream_sequence, outbox.c.subject
    ),
    row=_DeletedEvent,
)


def kinds(settings: Settings) -> list[Kind]:
    """The kinds of rows to delete. Dead letters that nobody replayed are kept for ever.

    `consumed_events` has to show that an event was processed for as long as a consumer can get it again. The relay can
    publish it again while it is in the outbox (`event_retention`), and the stream then keeps it as long once more. An
    operator can replay a dead letter at any time.
    """
    retention = timedelta(seconds=settings.event_retention)
    replayable = 2 * retention
    return [
        Kind("outbox", _delete_events(retention)),
        aged(
            "idempotency_keys",
            idempotency_keys,
            idempotency_keys.c.created_at,
            idempotency.LIFETIME,
        ),
        aged(
            "consumed_events",
            consumed_events,
            consumed_events.c.consumed_at,
            replayable,
            _absent(outbox, outbox.c.event_id == consumed_events.c.event_id),
            _absent(
                dead_letters,
                dead_letters.c.consumer == consumed_events.c.consumer,
                dead_letters.c.event_id == cast(consumed_events.c.event_id, Text),
            ),
        ),
        aged(
            "dead_letters",
            dead_letters,
            dead_letters.c.replayed_at,
            max(timedelta(seconds=settings.dead_letter_retention), replayable),
        ),
    ]


def _delete_events(age: timedelta) -> Delete:
    async def delete(tx: Transaction, rows: int) -> tuple[int, bool]:
        deleted = await tx.all(_DELETE_EVENTS, age=age, rows=rows)
        await _report_lost(tx, deleted)
        return len(deleted), len(deleted) == rows

    return delete


async def _report_lost(tx: Transaction, deleted: Sequence[_DeletedEvent]) -> None:
    """Counts and logs deleted events that a consumer had yet to process."""
    for consumer in await tx.all(consumer_queries.ALL):
        position = consumer.floor if consumer.copied_to is None else consumer.copied_to
        wanted = re.compile(pattern(consumer.subjects))
        lost = sum(
            event.stream_sequence is not None
            and event.stream_sequence > position
            and wanted.search(event.subject) is not None
            for event in deleted
        )
        if lost:
            metrics.EVENTS_LOST.labels(consumer.name).inc(lost)
            log.error(
                "events were deleted after their retention, before their consumer processed them",
                consumer=consumer.name,
                events=lost,
            )


def _absent(table: Table, *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """The condition that the table has no row that meets the conditions; Postgres looks it up by an index.

    Without the OFFSET Postgres may join both tables whole: it expects that most rows exist, but hardly any does.
    """
    return not_(exists(select(1).select_from(table).where(*conditions).offset(0)))
