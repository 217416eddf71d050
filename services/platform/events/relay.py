"""The relay: publishes the outbox to JetStream in order, and refills a stream that lost its newest events.

One relay is active at a time, others stand by. The active relay holds an advisory lock on a connection of its own.
Postgres closes that connection when the relay stalls (idle_session_timeout), and a standby takes over. A stalled relay
that wakes up does no harm. Each message names its own id (Nats-Msg-Id) and its predecessor
(Nats-Expected-Last-Msg-Id, Nats-Expected-Last-Sequence), so JetStream refuses a message that is out of order. Postgres
marks events as published only while the stored position is the one that the relay knows.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from uuid import UUID

import nats.errors
import nats.js.errors
import psycopg
import psycopg_pool
import structlog
from nats.js.api import StreamInfo
from psycopg.rows import TupleRow

from services.platform.config import Settings
from services.platform.data.db import Database, Transaction
from services.platform.data.session_check import check_own_session
from services.platform.data.tables import RECREATE_STREAM
from services.platform.events import relay_queries as queries
from services.platform.events.bus import WAKE_RELAY, Bus
from services.platform.events.consumer_keeper import Consumers
from services.platform.events.publisher import Outgoing, Publisher
from services.platform.events.recovery import publish_again
from services.platform.events.relay_queries import Position, UnpublishedEvent
from services.platform.events.subjects import STREAM, workspace_of
from services.platform.observe import metrics
from services.platform.observe.redaction import describe

log = structlog.get_logger()

# Key of the active relay's advisory lock: any number that no other lock uses.
_LOCK = 7_402_001
# A standby takes over when the active relay was paused for this long (seconds).
_TAKEOVER = 4
# Seconds between a standby's attempts to get the lock. A single waiting statement could run for days, and would keep
# Postgres from vacuuming.
_STANDBY = 0.25
# Seconds before the relay starts again after an error.
_RESTART_PAUSE = 0.5
# Bytes that a message takes in the stream besides its payload: subject, headers, record.
_MESSAGE_OVERHEAD = 300


class Relay:
    """Publishes the outbox to the event stream.

    It calls `begin_again` in a transaction when the stream has events that the database lost.
    """

    def __init__(
        self,
        settings: Settings,
        db: Database,
        bus: Bus,
        begin_again: Callable[[Transaction], Awaitable[object]] = publish_again,
    ) -> None:
        self._settings = settings
        self._db = db
        self._bus = bus
        self._begin_again = begin_again
        self._publisher = Publisher(bus.client)
        self._consumers = Consumers(db, bus, self._publisher)
        self._awake = asyncio.Event()
        # The connection on which `refill` last compared outbox and stream.
        self._checked_connection = 0
        # The position: when the stream was created, and its last sequence that the outbox knows.
        self._stream_created = ""
        self._last_sequence = 0
        # The position that this relay stored last.
        self._marked: dict[str, int] = {}
        # The last workspace whose turn it was, when not all of them fit into a batch; else empty.
        self._last_workspace = ""
        # Whether this relay holds the lock.
        self.active = False

    async def run(self) -> None:
        """Runs for ever; stands by while another relay is active."""
        await self._bus.client.subscribe(WAKE_RELAY, cb=self._wake)
        await self._consumers.listen(self._awake)
        while True:
            try:
                async with self._hold_lock() as lock:
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
            await asyncio.sleep(_RESTART_PAUSE)

    async def _wake(self, _: object) -> None:
        self._awake.set()

    @asynccontextmanager
    async def _hold_lock(self) -> AsyncIterator[psycopg.AsyncConnection[TupleRow]]:
        """Waits for the lock and yields the connection that holds it."""
        connection = await psycopg.AsyncConnection.connect(
            self._settings.postgres_direct,
            autocommit=True,
            connect_timeout=5,
            application_name="taskflow-relay-lock",
            options=f"-c idle_session_timeout={_TAKEOVER * 1000}",
        )
        async with connection:
            await check_own_session(connection)
            while True:
                cursor = await connection.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,))
                row = await cursor.fetchone()
                if row and row[0]:
                    break
                await asyncio.sleep(_STANDBY)
            yield connection

    async def _work(self, lock: psycopg.AsyncConnection[TupleRow]) -> None:
        while True:
            self._awake.clear()
            while self._checked_connection != self._bus.connections:
                await self.refill()
            published = await self.drain_once()
            await self._consumers.check_if_due()
            copied = await self._consumers.copy(self._last_sequence)
            # Renews the lock before its session idles out; raises when the session has ended.
            await lock.execute("SELECT 1")
            if published or copied:
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.relay_interval):
                    await self._awake.wait()

    async def drain_once(self) -> int:
        """Publishes a batch of the oldest unpublished events; returns how many JetStream took.

        Errors of NATS and Postgres are raised after the events that JetStream took are marked.
        """
        rows = await self._next_rows()
        if not rows:
            return 0
        batch = self._within_allowance(rows)
        published = await self._publisher.publish_in_order(
            (Outgoing(row.subject, row.payload, str(row.event_id)) for row in batch),
            self._last_sequence,
        )
        marked = 0
        if published.sequences:
            ids = [row.id for row in batch[: len(published.sequences)]]
            marked = await self._mark(dict(zip(ids, published.sequences, strict=True)))
        if published.failure:
            raise published.failure
        return marked

    async def _next_rows(self) -> list[UnpublishedEvent]:
        """The oldest unpublished events. When they are more than a batch, workspaces take turns.

        Of each workspace the oldest come first, and so do those of each aggregate, which belongs to one workspace.
        """
        async with self._db.read() as tx:
            rows = await tx.all(queries.UNPUBLISHED)
            if len(rows) < queries.BATCH:
                return rows
            in_turn = await tx.all(queries.UNPUBLISHED_IN_TURN, after=self._last_workspace)
            if not in_turn:
                in_turn = await tx.all(queries.UNPUBLISHED_IN_TURN, after="")
        # A batch has room for BATCH workspaces. When there are more, the next one goes on behind them.
        full = len({workspace_of(row.subject) for row in in_turn}) == queries.BATCH
        self._last_workspace = in_turn[-1].last_turn if full else ""
        return list(in_turn)

    def _within_allowance(self, rows: list[UnpublishedEvent]) -> list[UnpublishedEvent]:
        """The first rows, at least one, that fit into the bytes allowed before the next check of the consumers."""
        size = 0
        for count, row in enumerate(rows):
            size += len(row.payload) + _MESSAGE_OVERHEAD
            if count and size > self._consumers.allowance:
                return rows[:count]
            self._consumers.published(len(row.payload) + _MESSAGE_OVERHEAD)
        return rows

    async def _mark(self, sequences: dict[int, int]) -> int:
        """Marks events (row id → stream sequence) as published; returns how many.

        0 means that another relay has moved the position; then `refill` compares outbox and stream again.
        """
        before = self._last_sequence
        self._last_sequence = max(before, *sequences.values())
        async with self._db.autocommit() as tx:
            marked = await tx.run(
                queries.MARK,
                ids=list(sequences),
                sequences=list(sequences.values()),
                created=self._stream_created,
                before=before,
                sequence=self._last_sequence,
            )
        if marked:
            self._marked = {self._stream_created: self._last_sequence}
        else:
            self._checked_connection = 0
        metrics.EVENTS_PUBLISHED.inc(marked)
        return marked

    async def refill(self) -> None:
        """Makes the outbox agree with the event stream.

        Events that the stream lost are published again: all for a new stream, else those after its end. Events that a
        relay published before it died, without marking them, are marked. Publishing them again within a batch would
        break the order.

        Events of the stream that the outbox doesn't have were lost by the database, as in a failover to a standby that
        was behind. Then everything begins again from the database, as after a restore.
        """
        connection = self._bus.connections
        async with self._db.read() as tx:
            known = await tx.one(queries.POSITION)
        if known and known.stream_created == RECREATE_STREAM:
            log.warning("creating a new stream, because the database was restored")
            await self._bus.delete_stream()
        info = await self._bus.ensure_stream()
        created, last = _created(info), info.state.last_seq
        same = known is not None and known.stream_created == created
        first = known.last_sequence + 1 if known and same else 1
        found = await self._find_events(first, last) if same else {}
        # A stream of another database, or one that confirms a later position, which this relay had stored.
        stored = self._marked.get(created, 0) if same else 0
        went_back = last > 0 and (not same or first <= stored <= last)
        if went_back or await self._unknown(found):
            await self._begin_again_once(known)
            return
        async with self._db.transaction() as tx:
            if await tx.one(queries.LOCK_POSITION) != known:
                # This relay was paused while another one worked, so its knowledge of the stream is outdated.
                return
            await tx.run(queries.WITHOUT_TIME_LIMIT)
            if known and (not same or known.last_sequence > last):
                count = await tx.run(
                    queries.UNMARK,
                    after=last if same else 0,
                    retention=timedelta(seconds=self._settings.event_retention),
                )
                log.warning("stream lost events; publishing them again", events=count)
            if found:
                await tx.run(
                    queries.MARK_FOUND, event_ids=list(found), sequences=list(found.values())
                )
            await self._consumers.reset(tx, same, last)
            self._stream_created, self._last_sequence = created, last
            await tx.run(queries.SET_POSITION, created=created, sequence=last)
        self._checked_connection = connection

    async def _unknown(self, found: dict[UUID, int]) -> int:
        """How many of these events the outbox doesn't have."""
        if not found:
            return 0
        async with self._db.read() as tx:
            row = await tx.one(queries.COUNT_KNOWN, event_ids=list(found))
        return len(found) - (row.known if row else 0)

    async def _begin_again_once(self, known: Position | None) -> None:
        """Makes the database the only truth, unless another relay did so since the position was `known`."""
        async with self._db.transaction() as tx:
            if await tx.one(queries.LOCK_POSITION) != known:
                return
            await self._begin_again(tx)
        metrics.DATABASE_LOSSES.inc()
        log.error("the database lost committed changes; beginning again from what it has")

    async def _find_events(self, first: int, last: int) -> dict[UUID, int]:
        """The events that the stream holds from sequence `first` to `last`: event id → sequence."""
        found: dict[UUID, int] = {}
        for sequence in range(first, last + 1):
            try:
                message = await self._bus.jetstream.get_msg(STREAM, sequence)
            except nats.js.errors.NotFoundError:
                continue
            with suppress(ValueError):
                found[UUID((message.headers or {}).get("Nats-Msg-Id", ""))] = sequence
        return found


def _created(info: StreamInfo) -> str:
    """When the stream was created, to the nanosecond. It tells a recreated stream from the old one."""
    return str(info.created)
