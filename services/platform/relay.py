"""The relay: publishes the outbox to JetStream, in order, and refills a stream that lost its tail.

One relay works at a time, by an advisory lock that lives as long as its connection; others stand by. Postgres ends
that connection when a relay is paused (idle_session_timeout), so a standby takes over. What the paused one does when
it wakes up is harmless: each message names its own id (Nats-Msg-Id) and what it goes behind (Nats-Expected-Last-Msg-Id,
Nats-Expected-Last-Sequence), and what it marks counts only behind the position that it knows.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from uuid import UUID

import nats.errors
import nats.js.errors
import psycopg
import psycopg_pool
import structlog
from nats.js.api import StreamInfo
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Interval,
    Text,
    Uuid,
    bindparam,
    column,
    exists,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from services.platform import telemetry
from services.platform.bus import STREAM, WAKE_RELAY, Bus
from services.platform.config import Settings
from services.platform.consumers import Consumers
from services.platform.db import Database, Row, Statement
from services.platform.publisher import Outgoing, Publisher
from services.platform.redaction import describe
from services.platform.tables import ANY_STREAM_GOES, outbox, relay_position

log = structlog.get_logger()

# Any number that nothing else locks.
_LOCK = 7_402_001
# How long a relay may be paused before a standby takes over (seconds).
_TAKEOVER = 4
# How often a standby asks whether it's the only one now (seconds). It doesn't wait in a statement for that: one that
# runs for days keeps Postgres from cleaning up.
_STANDBY = 0.25
# Few enough to be through well before _TAKEOVER on a slow disk.
_BATCH = 250
# What a message takes in the stream besides its payload: subject, headers, record (bytes).
_MESSAGE_OVERHEAD = 300
_REPORT_INTERVAL = 1.0

_UNPUBLISHED = Statement(
    select(outbox.c.id, outbox.c.event_id, outbox.c.subject, outbox.c.payload)
    .where(outbox.c.published_at.is_(None))
    .order_by(outbox.c.id)
    .limit(_BATCH)
)
_acked = (
    func.unnest(
        bindparam("ids", type_=ARRAY(BigInteger)), bindparam("sequences", type_=ARRAY(BigInteger))
    )
    .table_valued(column("id", BigInteger), column("sequence", BigInteger), name="acked")
    .render_derived()
)
_position = select(relay_position.c.stream_created, relay_position.c.last_sequence).where(
    relay_position.c.stream == STREAM
)
_POSITION = Statement(_position)
_LOCK_POSITION = Statement(_position.with_for_update())
_set_position = insert(relay_position).values(
    stream=STREAM,
    stream_created=bindparam("created", type_=Text),
    last_sequence=bindparam("sequence", type_=BigInteger),
)
_MOVE = Statement(
    _set_position.on_conflict_do_update(
        index_elements=["stream"],
        set_={
            "stream_created": _set_position.excluded.stream_created,
            "last_sequence": _set_position.excluded.last_sequence,
        },
    )
)
_moved = (
    update(relay_position)
    .where(
        relay_position.c.stream == STREAM,
        relay_position.c.stream_created == bindparam("created", type_=Text),
        relay_position.c.last_sequence == bindparam("before", type_=BigInteger),
    )
    .values(last_sequence=bindparam("sequence", type_=BigInteger))
    .returning(relay_position.c.stream)
    .cte("moved")
)
# With the position in the same statement, which is a transaction by itself: one round trip between two batches.
# Postgres carries it out also for a relay that has died, maybe after another one has found the stream shorter or anew:
# then it marks nothing.
_MARK = Statement(
    update(outbox)
    .where(outbox.c.id == _acked.c.id, exists(select(_moved.c.stream)))
    .values(published_at=func.now(), stream_sequence=_acked.c.sequence)
)
_found = (
    func.unnest(
        bindparam("event_ids", type_=ARRAY(Uuid)), bindparam("sequences", type_=ARRAY(BigInteger))
    )
    .table_valued(column("event_id", Uuid), column("sequence", BigInteger), name="found")
    .render_derived()
)
_RECOGNISE = Statement(
    update(outbox)
    .where(outbox.c.event_id == _found.c.event_id, outbox.c.published_at.is_(None))
    .values(published_at=func.now(), stream_sequence=_found.c.sequence)
)
_UNMARK = Statement(
    update(outbox)
    .where(
        outbox.c.stream_sequence > bindparam("after", type_=BigInteger),
        outbox.c.published_at > func.now() - bindparam("retention", type_=Interval),
    )
    .values(published_at=None, stream_sequence=None)
)
_WITHOUT_LIMIT = Statement(text("SET LOCAL statement_timeout = 0"))
_BACKLOG = Statement(
    select(
        func.count().label("depth"),
        func.coalesce(func.extract("epoch", func.now() - func.min(outbox.c.created_at)), 0).label(
            "age"
        ),
    ).where(outbox.c.published_at.is_(None))
)


class Relay:
    """Drains the outbox into the stream."""

    def __init__(self, settings: Settings, db: Database, bus: Bus) -> None:
        self._settings = settings
        self._db = db
        self._bus = bus
        self._publisher = Publisher(bus.client)
        self._consumers = Consumers(settings, db, bus, self._publisher)
        self._awake = asyncio.Event()
        self._checked_connection = 0
        self._stream_created = ""
        self._last_sequence = 0
        self.active = False

    async def run(self) -> None:
        """Works for ever; stands by while another relay works."""
        await self._bus.client.subscribe(WAKE_RELAY, cb=self._wake)
        await self._consumers.listen(self._awake)
        while True:
            try:
                async with self._sole() as lock:
                    log.info("relay active")
                    self.active = True
                    await self._work(lock)
            except (
                psycopg.Error,
                psycopg_pool.PoolTimeout,
                nats.errors.Error,
                OSError,
                TimeoutError,
            ) as error:
                log.warning("relay starts again", error=describe(error))
            finally:
                self.active = False
                self._checked_connection = 0
                self._consumers.forget()
            await asyncio.sleep(0.5)

    async def _wake(self, _: object) -> None:
        self._awake.set()

    @asynccontextmanager
    async def _sole(self) -> AsyncIterator[psycopg.AsyncConnection[Row]]:
        """Waits for the lock and holds it."""
        connection = await psycopg.AsyncConnection.connect(
            self._settings.postgres,
            autocommit=True,
            connect_timeout=5,
            application_name="taskflow-relay-lock",
            options=f"-c idle_session_timeout={_TAKEOVER * 1000}",
        )
        async with connection:
            while True:
                cursor = await connection.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,))
                row = await cursor.fetchone()
                if row and row[0]:
                    break
                await asyncio.sleep(_STANDBY)
            yield connection

    async def _work(self, lock: psycopg.AsyncConnection[Row]) -> None:
        while True:
            self._awake.clear()
            while self._checked_connection != self._bus.connections:
                await self.refill()
            published = await self.drain_once()
            await self._consumers.look_if_due()
            copied = await self._consumers.copy(self._last_sequence)
            # Keeps the lock's session from idling out, and raises once it's gone.
            await lock.execute("SELECT 1")
            if published or copied:
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.relay_interval):
                    await self._awake.wait()

    async def drain_once(self) -> int:
        """Publishes the oldest unpublished events, and returns how many JetStream took.

        They go out without waiting for each other and are taken in order or not at all. Raises what NATS or Postgres
        raised, after marking those that were taken.
        """
        async with self._db.read() as tx:
            rows = await tx.all(_UNPUBLISHED)
        if not rows:
            return 0
        batch = self._within_allowance(rows)
        taken = await self._publisher.publish_in_order(
            (Outgoing(row.subject, row.payload, str(row.event_id)) for row in batch),
            self._last_sequence,
        )
        marked = 0
        if taken.sequences:
            ids = [row.id for row in batch[: len(taken.sequences)]]
            marked = await self._mark(dict(zip(ids, taken.sequences, strict=True)))
        if taken.failure:
            raise taken.failure
        return marked

    def _within_allowance(self, rows: list[Row]) -> list[Row]:
        """As many of the first rows, at least one, as may be published before the next look at the consumers."""
        size = 0
        for count, row in enumerate(rows):
            size += len(row.payload) + _MESSAGE_OVERHEAD
            if count and size > self._consumers.allowance:
                return rows[:count]
            self._consumers.published(len(row.payload) + _MESSAGE_OVERHEAD)
        return rows

    async def _mark(self, taken: dict[int, int]) -> int:
        """Keeps the sequences of rows by id; 0 when the position is another by now, so that it's looked up again."""
        before, self._last_sequence = self._last_sequence, max(self._last_sequence, *taken.values())
        async with self._db.single() as tx:
            marked = await tx.run(
                _MARK,
                ids=list(taken),
                sequences=list(taken.values()),
                created=self._stream_created,
                before=before,
                sequence=self._last_sequence,
            )
        if not marked:
            self._checked_connection = 0
        telemetry.EVENTS_PUBLISHED.inc(marked)
        return marked

    async def refill(self) -> None:
        """Makes the outbox agree with the stream.

        Has what the stream no longer holds published again: all if it's a new one, else what came after its end. What
        it holds already, from a relay that died before it could say so, is marked: a repetition in the midst of a batch
        would upset the order.
        """
        connection = self._bus.connections
        async with self._db.read() as tx:
            known = await tx.one(_POSITION)
        if known and known.stream_created == ANY_STREAM_GOES:
            log.warning("beginning a new stream, after the database was put back")
            await self._bus.delete_stream()
        info = await self._bus.ensure_stream()
        created, last = _identity(info), info.state.last_seq
        same = known is not None and known.stream_created == created
        held = await self._held(known.last_sequence + 1, last) if known and same else {}
        async with self._db.transaction() as tx:
            if await tx.one(_LOCK_POSITION) != known:
                # Another relay has worked meanwhile: this one was paused, and what it knows of the stream is old.
                return
            # A week of events may take longer than a statement may.
            await tx.run(_WITHOUT_LIMIT)
            if known and (not same or known.last_sequence > last):
                count = await tx.run(
                    _UNMARK,
                    after=last if same else 0,
                    retention=timedelta(seconds=self._settings.event_retention),
                )
                log.warning("stream lost events; publishing them again", events=count)
            if held:
                await tx.run(_RECOGNISE, event_ids=list(held), sequences=list(held.values()))
            await self._consumers.reset(tx, same, last)
            self._stream_created, self._last_sequence = created, last
            await tx.run(_MOVE, created=created, sequence=last)
        self._checked_connection = connection

    async def _held(self, first: int, last: int) -> dict[UUID, int]:
        """Events of these sequences that are in the stream, by id."""
        found: dict[UUID, int] = {}
        for sequence in range(first, last + 1):
            try:
                message = await self._bus.jetstream.get_msg(STREAM, sequence)
            except nats.js.errors.NotFoundError:
                continue
            with suppress(ValueError):
                found[UUID((message.headers or {}).get("Nats-Msg-Id", ""))] = sequence
        return found

    async def report_backlog(self) -> None:
        """Tells operators for ever how much waits. Apart from the work, as it matters most when that stands still."""
        while True:
            try:
                await self.report_backlog_once()
            except (psycopg.Error, psycopg_pool.PoolTimeout):
                telemetry.OUTBOX_DEPTH.set(math.nan)
                telemetry.OUTBOX_AGE.set(math.nan)
            await asyncio.sleep(_REPORT_INTERVAL)

    async def report_backlog_once(self) -> None:
        async with self._db.read() as tx:
            row = await tx.one(_BACKLOG)
        if row:
            telemetry.OUTBOX_DEPTH.set(row.depth)
            telemetry.OUTBOX_AGE.set(float(row.age))


def _identity(info: StreamInfo) -> str:
    """When the stream was created, to the nanosecond: a stream made anew has another one."""
    return str(info.created)
