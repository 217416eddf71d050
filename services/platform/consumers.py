"""Durable consumers of the event stream: the relay makes them, and keeps them from missing events.

The stream discards its oldest messages when it's full or they are too old, whether they were processed or not. The
relay looks at every consumer about once a second and each time a part of the stream's limit was published. It keeps
each consumer's floor: the sequence up to which the consumer has processed its events. JetStream's own floor jumps over
discarded messages, so a new one counts only while everything behind the kept one is in the stream.

A consumer whose next events are about to be discarded, or were, is detached: the relay deletes it and copies its events
in order from the outbox into a stream of its own, a window at a time. Newer events follow there as well, so that the
order stays. Once the rest is safe in the event stream and all copies are processed, the relay attaches it again there.

Every step is kept in `platform.consumers` before NATS is told, and each look brings NATS to what is kept. A relay that
dies in between, or a broker that was rolled back, repeats events to a consumer, and skips none.
"""

import asyncio
import json
import math
import re
from collections.abc import Iterable, Sequence

import nats.errors
import nats.js.errors
import structlog
from nats.aio.msg import Msg
from nats.js.api import ConsumerInfo, StreamInfo
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Integer,
    Text,
    and_,
    bindparam,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from services.platform import telemetry
from services.platform.bus import KEEP_CONSUMER, STREAM, Bus, copies_stream, copy_subject
from services.platform.config import Settings
from services.platform.db import Database, Row, Statement, Transaction
from services.platform.publisher import Outgoing, Publisher
from services.platform.redaction import describe
from services.platform.tables import consumers, outbox

log = structlog.get_logger()

# Between looks (seconds), and the part of the stream's limit after which there is one before that. A batch of the relay
# is no larger than that part either.
_LOOK_INTERVAL = 1.0
_LOOK_SHARE = 0.04
# How long a look or a page of copies may take (seconds): the relay must show that it lives more often than that.
_TIMEOUT = 3.0
# Shares of the stream's limit that a consumer has yet to process: when operators are warned, when it's detached, and
# below which it's attached again. What is published between two looks has to fit in beside the second one.
_WARN = 0.5
_DETACH = 0.8
_ATTACH = 0.3
# Copies that wait to be processed: more than a consumer takes in a second, and little on disk.
_WINDOW = 2_000
_WINDOW_BYTES = 16 * 1024 * 1024
_PAGE = 250
# Sequences that one page looks through at most, whoever they are for.
_SPAN = 20_000
_NAME = re.compile(r"[a-z0-9_-]{1,100}")

_columns = (
    consumers.c.name,
    consumers.c.subjects,
    consumers.c.floor,
    consumers.c.copied_to,
    consumers.c.copies_created,
    consumers.c.copies_last,
)
_position = func.coalesce(consumers.c.copied_to, consumers.c.floor)
_ALL = Statement(
    select(
        *_columns,
        # Of the oldest event that the consumer may have yet to process (seconds).
        func.coalesce(
            select(func.extract("epoch", func.now() - outbox.c.published_at))
            .where(outbox.c.stream_sequence > _position)
            .order_by(outbox.c.stream_sequence)
            .limit(1)
            .scalar_subquery(),
            0,
        ).label("age"),
    ).order_by(consumers.c.name)
)
_this = consumers.c.name == bindparam("consumer", type_=Text)
_kept = insert(consumers).values(
    name=bindparam("consumer", type_=Text),
    subjects=bindparam("subjects", type_=ARRAY(Text)),
    floor=bindparam("floor", type_=BigInteger),
)
_KEEP = Statement(
    _kept.on_conflict_do_update(index_elements=["name"], set_={"subjects": _kept.excluded.subjects})
)
_RAISE_FLOOR = Statement(
    update(consumers)
    .where(_this, consumers.c.floor < bindparam("floor", type_=BigInteger))
    .values(floor=bindparam("floor", type_=BigInteger))
)
_DETACH_ROW = Statement(
    update(consumers)
    .where(_this, consumers.c.copied_to.is_(None))
    .values(
        floor=bindparam("floor", type_=BigInteger),
        copied_to=bindparam("floor", type_=BigInteger),
        copies_created="",
        copies_last=0,
    )
)
# Each of the following holds only for the state that it was decided on: another relay may have taken over.
_detached_at = and_(_this, consumers.c.copied_to == bindparam("before", type_=BigInteger))
_COPIED = Statement(
    update(consumers)
    .where(_detached_at)
    .values(
        copied_to=bindparam("copied_to", type_=BigInteger),
        copies_last=bindparam("last", type_=BigInteger),
    )
)
_COPY_AGAIN = Statement(
    update(consumers)
    .where(_detached_at)
    .values(
        copied_to=consumers.c.floor,
        copies_created=bindparam("created", type_=Text),
        copies_last=bindparam("last", type_=BigInteger),
    )
)
_ATTACH_ROW = Statement(
    update(consumers).where(_detached_at).values(floor=consumers.c.copied_to, copied_to=None)
)
_NEW_STREAM = Statement(update(consumers).values(floor=0, copied_to=None))
_last = bindparam("last", type_=BigInteger)
_SHORTER_STREAM = Statement(
    update(consumers)
    .where(or_(consumers.c.floor > _last, consumers.c.copied_to > _last))
    .values(
        floor=func.least(consumers.c.floor, _last),
        # NULL stays NULL, which `least` alone would turn into the other.
        copied_to=consumers.c.copied_to + func.least(0, _last - consumers.c.copied_to),
    )
)
_MISSED = Statement(
    select(outbox.c.event_id, outbox.c.subject, outbox.c.payload, outbox.c.stream_sequence)
    .where(
        outbox.c.stream_sequence > bindparam("after", type_=BigInteger),
        outbox.c.stream_sequence <= bindparam("to", type_=BigInteger),
        outbox.c.subject.regexp_match(bindparam("pattern", type_=Text)),
    )
    .order_by(outbox.c.stream_sequence)
    .limit(bindparam("rows", type_=Integer))
)


class Consumers:
    """What the active relay does for them. Not for several tasks at once."""

    def __init__(self, settings: Settings, db: Database, bus: Bus, publisher: Publisher) -> None:
        self._retention = settings.event_retention
        self._db = db
        self._bus = bus
        self._publisher = publisher
        self._limit = settings.event_stream_bytes
        self._asking: dict[str, Msg] = {}
        self._looked = -math.inf
        self._published = 0
        self._warned: set[str] = set()
        # Those that are detached, as of the last look, and those of them whose copies only have to be processed.
        self._detached: set[str] = set()
        self._draining: set[str] = set()

    async def listen(self, wake: asyncio.Event) -> None:
        """Takes requests to keep a consumer, for the next look."""

        async def asked(message: Msg) -> None:
            name = _asked(message)[0]
            if name:
                self._asking[name] = message
                self._looked = -math.inf
                wake.set()

        await self._bus.client.subscribe(KEEP_CONSUMER, cb=asked)

    @property
    def allowance(self) -> int:
        """Bytes that may be published between two looks."""
        return int(self._limit * _LOOK_SHARE)

    def published(self, size: int) -> None:
        self._published += size

    async def reset(self, tx: Transaction, same: bool, last: int) -> None:
        """After the stream was found anew, or maybe shorter than it was, with `last` at its end.

        A new stream gets every event that the outbox holds, and everybody begins there.
        """
        if same:
            await tx.run(_SHORTER_STREAM, last=last)
        else:
            await tx.run(_NEW_STREAM)
        self._looked = -math.inf

    def forget(self) -> None:
        """When this relay isn't the active one any more: what it last saw would look like the present."""
        for gauge in (telemetry.CONSUMER_LAG, telemetry.CONSUMER_UNREAD):
            gauge.clear()
        self._looked = -math.inf

    # Looking

    async def look_if_due(self) -> None:
        """Looks at all consumers if it's time. Publishing goes on when that fails: the kept floors lose nothing."""
        now = asyncio.get_running_loop().time()
        if now - self._looked < _LOOK_INTERVAL and self._published < self.allowance:
            return
        self._looked, self._published = now, 0
        if not self._bus.connected:
            self.forget()
            return
        try:
            async with asyncio.timeout(_TIMEOUT):
                await self._look()
        except (nats.errors.Error, OSError, TimeoutError) as error:
            log.warning("the consumers' progress is unknown", error=describe(error))
            self.forget()

    async def _look(self) -> None:
        before = (await self._bus.jetstream.stream_info(STREAM)).state.last_seq
        asking, self._asking = self._asking, {}
        await self._keep(asking.values(), before)
        async with self._db.read() as tx:
            rows = await tx.all(_ALL)
        found = {row.name: await self._info(row.name) for row in rows}
        # After the consumers: if everything behind a floor is still there, it was when the consumer said its own.
        stream = await self._bus.jetstream.stream_info(STREAM)
        self._limit = _limit(stream) or self._limit
        self._detached = {row.name for row in rows if row.copied_to is not None}
        self._draining &= self._detached
        detached = False
        for row in rows:
            if row.copied_to is None:
                detached |= await self._look_at_attached(row, found[row.name], before, stream)
            else:
                await self._look_at_detached(row, found[row.name], stream)
        if detached:
            # Before anything else is published, which could discard what they have yet to process.
            await self._look()
        for message in asking.values():
            await message.respond(b"")

    async def _keep(self, asking: Iterable[Msg], last: int) -> None:
        """A consumer that isn't known yet, but exists, was made by an older version."""
        for message in asking:
            name, subjects = _asked(message)
            info = await self._info(name)
            floor = _floor(info, last) if info else 0
            async with self._db.single() as tx:
                await tx.run(_KEEP, consumer=name, subjects=subjects, floor=floor)

    async def _info(self, name: str) -> ConsumerInfo | None:
        try:
            info: ConsumerInfo = await self._bus.jetstream.consumer_info(STREAM, name)
        except nats.js.errors.NotFoundError:
            return None
        return info

    async def _look_at_attached(
        self, row: Row, info: ConsumerInfo | None, before: int, stream: StreamInfo
    ) -> bool:
        """Whether it was detached. `before` is where the stream ended before `info` was asked for."""
        floor = row.floor
        missed = _gone(stream) > floor
        if info and not missed:
            floor = max(floor, _floor(info, before))
        share = _share(stream, floor)
        last = stream.state.last_seq
        lag = (info.num_pending or 0) + (info.num_ack_pending or 0) if info else last - floor
        self._report(row, share, lag)
        if missed or share > _DETACH:
            await self._detach(row, floor, share)
            return True
        if floor > row.floor:
            async with self._db.single() as tx:
                await tx.run(_RAISE_FLOOR, consumer=row.name, floor=floor)
        if info is None:
            await self._bus.delete_stream(copies_stream(row.name))
            await self._bus.add_durable(row.name, row.subjects, floor)
        elif set(info.config.filter_subjects or []) != set(row.subjects):
            info.config.filter_subjects = row.subjects
            await self._bus.jetstream.add_consumer(STREAM, info.config)
        return False

    async def _detach(self, row: Row, floor: int, share: float) -> None:
        async with self._db.single() as tx:
            await tx.run(_DETACH_ROW, consumer=row.name, floor=floor)
        log.warning(
            "consumer is too far behind the event stream; it gets its events from the outbox now",
            consumer=row.name,
            after=floor,
            unread_share=round(share, 2),
        )

    async def _look_at_detached(
        self, row: Row, info: ConsumerInfo | None, stream: StreamInfo
    ) -> None:
        if info:
            await self._bus.jetstream.delete_consumer(STREAM, row.name)
        copies = await self._copies(row)
        if copies is None:
            return
        last = stream.state.last_seq
        share = _share(stream, row.copied_to)
        self._report(row, _share(stream, row.floor), copies.state.messages + last - row.copied_to)
        in_stream = _gone(stream) <= row.copied_to
        if not in_stream or share > _WARN:
            self._draining.discard(row.name)
        elif share < _ATTACH:
            self._draining.add(row.name)
        if copies.state.messages:
            return
        if row.name in self._draining:
            await self._attach(row)
        else:
            async with self._db.single() as tx:
                await tx.run(_RAISE_FLOOR, consumer=row.name, floor=row.copied_to)

    async def _copies(self, row: Row) -> StreamInfo | None:
        """The stream of copies that the row speaks of; None when it had to be made, and copying begins again."""
        name = copies_stream(row.name)
        try:
            info = await self._bus.jetstream.stream_info(name)
            await self._bus.jetstream.consumer_info(name, row.name)
            if _is_known(info, row):
                return info
        except nats.js.errors.NotFoundError:
            pass
        info = await self._bus.make_copies_stream(row.name)
        async with self._db.single() as tx:
            await tx.run(
                _COPY_AGAIN,
                consumer=row.name,
                before=row.copied_to,
                created=str(info.created),
                last=info.state.last_seq,
            )
        self._draining.discard(row.name)
        return None

    async def _attach(self, row: Row) -> None:
        async with self._db.single() as tx:
            if not await tx.run(_ATTACH_ROW, consumer=row.name, before=row.copied_to):
                return
        await self._bus.delete_stream(copies_stream(row.name))
        await self._bus.add_durable(row.name, row.subjects, row.copied_to)
        self._detached.discard(row.name)
        log.info("consumer follows the event stream again", consumer=row.name, after=row.copied_to)

    def _report(self, row: Row, share: float, lag: int) -> None:
        """Warns once when the share has risen, and again only after it fell."""
        telemetry.CONSUMER_LAG.labels(row.name).set(lag)
        share = max(share, float(row.age) / self._retention if lag else 0)
        telemetry.CONSUMER_UNREAD.labels(row.name).set(share)
        if share <= _ATTACH:
            self._warned.discard(row.name)
        elif share > _WARN and row.name not in self._warned:
            self._warned.add(row.name)
            log.warning(
                "consumer falls behind: from a share of 1 on, the event stream discards what it has yet to process",
                consumer=row.name,
                unread_share=round(share, 2),
                lag=lag,
            )

    # Copying

    async def copy(self, to: int) -> bool:
        """Copies a page for each consumer that is detached; whether there was one. Up to `to` all events are marked."""
        if not self._detached - self._draining:
            return False
        async with self._db.read() as tx:
            rows = await tx.all(_ALL)
        copied = 0
        try:
            async with asyncio.timeout(_TIMEOUT):
                for row in rows:
                    if row.copied_to is not None and row.name not in self._draining:
                        copied += await self._copy_page(row, to)
        except (nats.errors.Error, OSError, TimeoutError) as error:
            log.warning("events can't be copied", error=describe(error))
            return False
        return copied > 0

    async def _copy_page(self, row: Row, to: int) -> int:
        """How many events it copied."""
        copies = await self._bus.jetstream.stream_info(copies_stream(row.name))
        state = copies.state
        if not _is_known(copies, row):
            self._looked = -math.inf
            return 0
        if row.copied_to >= to or state.messages > _WINDOW or state.bytes > _WINDOW_BYTES:
            return 0
        to = min(to, row.copied_to + _SPAN)
        async with self._db.read() as tx:
            missed = await tx.all(
                _MISSED, after=row.copied_to, to=to, pattern=_pattern(row.subjects), rows=_PAGE
            )
        messages = [
            Outgoing(copy_subject(row.name, _event_id(event)), event.payload) for event in missed
        ]
        # Behind what a relay that died may have copied and not marked: then some events come twice.
        taken = await self._publisher.publish_in_order(messages, state.last_seq)
        count = len(taken.sequences)
        if count == len(missed) < _PAGE:
            copied_to = to
        else:
            copied_to = missed[count - 1].stream_sequence if count else row.copied_to
        async with self._db.single() as tx:
            await tx.run(
                _COPIED,
                consumer=row.name,
                before=row.copied_to,
                copied_to=copied_to,
                last=max([state.last_seq, *taken.sequences]),
            )
        telemetry.EVENTS_COPIED.labels(row.name).inc(count)
        if taken.failure:
            raise taken.failure
        return count


async def count_lost(tx: Transaction, deleted: Iterable[Row]) -> None:
    """Tells of events, deleted from the outbox with the transaction, that a consumer had yet to process."""
    sequences = [row for row in deleted if row.stream_sequence is not None]
    for row in await tx.all(_ALL):
        position = row.floor if row.copied_to is None else row.copied_to
        wanted = re.compile(_pattern(row.subjects))
        lost = sum(
            one.stream_sequence > position and wanted.search(one.subject) is not None
            for one in sequences
        )
        if lost:
            telemetry.EVENTS_LOST.labels(row.name).inc(lost)
            log.error(
                "events were deleted before their consumer came: their retention is over",
                consumer=row.name,
                events=lost,
            )


def _asked(message: Msg) -> tuple[str, list[str]]:
    """Name and subjects of the consumer to keep; an empty name for a request that isn't one."""
    try:
        given = json.loads(message.data)
        name, subjects = given["name"], [str(subject) for subject in given["subjects"]]
    except (ValueError, KeyError, TypeError):
        return "", []
    return (name, subjects) if isinstance(name, str) and _NAME.fullmatch(name) else ("", [])


def _floor(info: ConsumerInfo, last: int) -> int:
    """Up to where a consumer has processed its events; `last` was the stream's end before `info`.

    With nothing left, that's the end: JetStream's own floor stays at the last event that was for it.
    """
    if info.num_pending or info.num_ack_pending:
        return info.ack_floor.stream_seq if info.ack_floor else 0
    return last


def _is_known(copies: StreamInfo, row: Row) -> bool:
    """Whether the stream of copies is the one that the row speaks of, and has lost none of them."""
    known: bool = str(copies.created) == row.copies_created
    return known and copies.state.last_seq >= int(row.copies_last)


def _limit(stream: StreamInfo) -> int:
    """The most bytes that the stream holds; 0 without a limit."""
    return max(0, stream.config.max_bytes or 0)


def _gone(stream: StreamInfo) -> int:
    """The last sequence that the stream has discarded."""
    return max(0, stream.state.first_seq - 1)


def _share(stream: StreamInfo, position: int) -> float:
    """Part of the stream's limit that what was published behind a position takes; it can be more than all of it."""
    state, limit = stream.state, _limit(stream)
    if not state.messages or not limit:
        return 0.0
    return (state.last_seq - position) * state.bytes / state.messages / limit


def _pattern(subjects: Sequence[str]) -> str:
    """A regular expression, of Postgres and of Python, for subjects that match one of the filters."""
    parts = (re.escape(subject).replace(r"\*", "[^.]+").replace(">", ".+") for subject in subjects)
    return f"^({'|'.join(parts)})$"


def _event_id(row: Row) -> str:
    """Of a dead letter on its way back, the id of the event that it is."""
    if row.subject.startswith("taskflow._.replay."):
        return str(row.subject.rpartition(".")[2])
    return str(row.event_id)
