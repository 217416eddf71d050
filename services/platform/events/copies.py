"""Copies of events from the outbox, for a durable consumer that fell too far behind the event stream."""

import nats.js.errors
from nats.js.api import StreamInfo

from services.platform.data.db import Database
from services.platform.events import consumer_queries as queries
from services.platform.events.bus import Bus
from services.platform.events.consumer_queries import ConsumerRow, MissedEvent
from services.platform.events.publisher import Outgoing, Publisher
from services.platform.events.subjects import (
    copies_stream,
    copy_subject,
    pattern,
    replayed_event_id,
)
from services.platform.observe import metrics

# The most copies that wait for a consumer: more than it processes in a second, and little space on disk.
_WINDOW = 2_000
_WINDOW_BYTES = 16 * 1024 * 1024
# The most events in a page of copies.
_PAGE = 250
# The most stream sequences that one page searches, whether the events match the consumer's subjects or not.
_SPAN = 20_000


class CopiesLost(Exception):
    """Raised when the stream of copies isn't the one that the consumer's row names, or when it has lost copies."""


async def find_copies(bus: Bus, db: Database, row: ConsumerRow) -> StreamInfo | None:
    """The stream of copies that the consumer's row names. If it is lost, creates an empty stream and returns None."""
    name = copies_stream(row.name)
    try:
        info = await bus.jetstream.stream_info(name)
        await bus.jetstream.consumer_info(name, row.name)
        if _is_known(info, row):
            return info
    except nats.js.errors.NotFoundError:
        pass
    info = await bus.make_copies_stream(row.name)
    async with db.autocommit() as tx:
        await tx.run(
            queries.COPY_AGAIN,
            consumer=row.name,
            before=row.copied_to,
            created=str(info.created),
            last=info.state.last_seq,
        )
    return None


async def copy_page(
    bus: Bus, db: Database, publisher: Publisher, row: ConsumerRow, copied_to: int, end: int
) -> int:
    """Copies a page of the events after `copied_to`, up to the stream sequence `end`. Returns how many events.

    Raises CopiesLost. When NATS refuses an event, stores how far it got and then raises NATS's error.
    """
    copies = await bus.jetstream.stream_info(copies_stream(row.name))
    state = copies.state
    if not _is_known(copies, row):
        raise CopiesLost
    if copied_to >= end or state.messages > _WINDOW or state.bytes > _WINDOW_BYTES:
        return 0
    end = min(end, copied_to + _SPAN)
    async with db.read() as tx:
        missed = await tx.all(
            queries.MISSED, after=copied_to, to=end, pattern=pattern(row.subjects), rows=_PAGE
        )
    messages = [
        Outgoing(copy_subject(row.name, _event_id(event)), event.payload) for event in missed
    ]
    # A relay that died may have copied events and not stored how far it got. The consumer then gets them twice.
    published = await publisher.publish_in_order(messages, state.last_seq)
    count = len(published.sequences)
    reached = missed[count - 1].stream_sequence if count else copied_to
    if count == len(missed) < _PAGE:
        # All events in the searched span are copied.
        reached = end
    async with db.autocommit() as tx:
        await tx.run(
            queries.COPIED,
            consumer=row.name,
            before=copied_to,
            copied_to=reached,
            last=max([state.last_seq, *published.sequences]),
        )
    metrics.EVENTS_COPIED.labels(row.name).inc(count)
    if published.failure:
        raise published.failure
    return count


def _is_known(copies: StreamInfo, row: ConsumerRow) -> bool:
    """Whether this is the stream of copies that the row names, with all copies that the row counts."""
    return str(copies.created) == row.copies_created and copies.state.last_seq >= row.copies_last


def _event_id(event: MissedEvent) -> str:
    """The event's id; for a replayed event, the id of the original."""
    return replayed_event_id(event.subject) or str(event.event_id)
