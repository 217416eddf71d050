"""The open WatchNotifications streams of this process, fed from core NATS and, where that has holes, the database."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from uuid import UUID

import nats.errors
import psycopg
import psycopg_pool
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from services.notification import logic, queries
from services.notification.messages import (
    SEQUENCE_HEADER,
    Position,
    change_message,
    heartbeat_message,
    live_subject,
    position,
    reset_message,
)
from services.platform.db import Row
from services.platform.identity import Caller
from services.platform.runtime import Platform
from taskflow.notification.v1.notification_pb2 import NotificationChange

log = structlog.get_logger()

# Messages that wait for a slow reader; with more of them it reads the database when it reads again.
_MOST_PENDING = 64
# Changes read at once for a stream that is behind.
_READ = 200
# Streams that read the database at once: thousands that resume leave room for other calls.
_READERS = 4
# The users with streams are spread over this many ticks in a heartbeat interval, and over a third as many for repairs,
# so that neither comes in bursts.
_HEARTBEAT_TICKS = 15
_REPAIR_TICKS = 5
# Repairs that take longer are left to the next tick, so that heartbeats stay on time (seconds).
_REPAIR_TIMEOUT = 1.0
# How long an opening stream waits until NATS has its subscription (seconds). Without, a repair finds what it missed.
_SUBSCRIBE_TIMEOUT = 1


class _Stream:
    """One open stream. What it's to do next is seen from here; `awake` says that there's something."""

    __slots__ = ("awake", "beat", "behind", "epoch", "lost", "pending", "sequence")

    def __init__(self) -> None:
        self.awake = asyncio.Event()
        self.pending: deque[tuple[int, bytes]] = deque()
        # The last change sent; negative until the stream has started.
        self.epoch = ""
        self.sequence = -1
        # There is more in the database than here.
        self.behind = False
        # Its position is none that the database knows.
        self.lost = False
        # A heartbeat is due.
        self.beat = False

    def start(self, at: Position) -> None:
        self.epoch, self.sequence = at.epoch, at.sequence

    def offer(self, sequence: int, message: bytes) -> None:
        if len(self.pending) < _MOST_PENDING:
            self.pending.append((sequence, message))
        else:
            self.pending.clear()
            self.behind = True
        self.awake.set()


class _Feed:
    """What the streams of one user share."""

    __slots__ = ("head", "listening", "slot", "streams", "subscribing", "subscription", "user_id")

    def __init__(self, user_id: UUID) -> None:
        self.user_id = user_id
        self.slot = hash(user_id) % _HEARTBEAT_TICKS
        self.streams: set[_Stream] = set()
        self.subscription: Subscription | None = None
        self.subscribing = asyncio.Lock()
        # NATS has confirmed the subscription.
        self.listening = False
        # The newest sequence that we know of.
        self.head = 0

    def compare(self, head: Position, known: int) -> None:
        """`head` is what the database says after we knew of `known`."""
        # Only a database that was put back to an earlier state says less.
        went_back = head.sequence < known
        self.head = head.sequence if went_back else max(self.head, head.sequence)
        for stream in self.streams:
            if stream.sequence < 0:
                continue
            if stream.epoch != head.epoch or (went_back and stream.sequence > head.sequence):
                stream.lost = True
                stream.awake.set()
            elif stream.sequence < head.sequence and not stream.pending:
                stream.behind = True
                stream.awake.set()

    async def deliver(self, message: Msg) -> None:
        sequence = int((message.headers or {}).get(SEQUENCE_HEADER, 0))
        self.head = max(self.head, sequence)
        for stream in self.streams:
            stream.offer(sequence, message.data)


class Hub:
    """Serves streams. `run` sends heartbeats and repairs; streams themselves have no timers and no tasks."""

    def __init__(self, platform: Platform) -> None:
        self._db = platform.db
        self._bus = platform.bus
        self._seal = platform.seal
        self._interval = platform.settings.heartbeat_interval
        self._feeds: dict[UUID, _Feed] = {}
        self._readers = asyncio.Semaphore(_READERS)
        self._connections = 0

    async def watch(self, caller: Caller, cursor: str) -> AsyncGenerator[bytes, None]:
        """Serialized WatchNotificationsResponses, for ever. Raises INVALID_CURSOR and SESSION_REVOKED at the start."""
        user_id = caller.user_id
        start = position(self._seal, user_id, cursor) if cursor else None
        stream = _Stream()
        feed = self._feeds.get(user_id)
        if feed is None:
            feed = self._feeds[user_id] = _Feed(user_id)
        # First it listens, then it reads: what comes in between is there twice rather than not at all.
        feed.streams.add(stream)
        try:
            await self._listen(feed)
            head = await self._head(feed, caller)
            stream.start(start or head)
            if start is None:
                yield self._heartbeat(feed, stream)
            stream.behind = stream.sequence < head.sequence
            stream.lost = stream.epoch != head.epoch or stream.sequence > head.sequence
            while True:
                if stream.lost:
                    stream.lost = stream.behind = False
                    stream.start(await self._head(feed, caller))
                    yield reset_message(
                        self._seal, user_id, Position(stream.epoch, stream.sequence)
                    )
                elif stream.behind:
                    # Before it reads: what comes meanwhile may set it again.
                    stream.behind = False
                    known = feed.head
                    rows = await self._read(user_id, stream.sequence)
                    if len(rows) == _READ:
                        stream.behind = True
                    elif not rows and stream.sequence < known:
                        # What comes next is so old that it's no longer kept.
                        stream.lost = True
                    for row in rows:
                        if row.sequence != stream.sequence + 1:
                            stream.lost = True
                            break
                        stream.sequence = row.sequence
                        change = NotificationChange.FromString(row.payload)
                        yield change_message(self._seal, user_id, stream.epoch, change)
                elif stream.pending:
                    sequence, message = stream.pending.popleft()
                    if sequence == stream.sequence + 1:
                        stream.sequence = sequence
                        yield message
                    elif sequence > stream.sequence:
                        stream.behind = True
                elif stream.beat:
                    stream.beat = False
                    yield self._heartbeat(feed, stream)
                else:
                    stream.awake.clear()
                    await stream.awake.wait()
        finally:
            # A feed without streams is given up by the next tick: who reconnects finds it.
            feed.streams.discard(stream)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        period = self._interval / _HEARTBEAT_TICKS
        started, tick = loop.time(), 0
        while True:
            # Late ticks follow each other at once: none is left out.
            await asyncio.sleep(max(0.0, started + tick * period - loop.time()))
            await self.run_once(tick)
            tick += 1

    async def run_once(self, tick: int) -> None:
        """Repairs and heartbeats of the users whose turn it is."""
        await self._forget()
        feeds = list(self._feeds.values())
        deaf = not self._bus.connected or self._connections != self._bus.connections
        try:
            async with asyncio.timeout(_REPAIR_TIMEOUT):
                await self._repair(
                    feed
                    for feed in feeds
                    if deaf
                    or feed.subscription is None
                    or feed.slot % _REPAIR_TICKS == tick % _REPAIR_TICKS
                )
        except (psycopg.Error, psycopg_pool.PoolTimeout, TimeoutError) as error:
            log.warning("streams not checked", error=type(error).__name__)
        for feed in feeds:
            if feed.slot == tick % _HEARTBEAT_TICKS:
                for stream in feed.streams:
                    stream.beat = True
                    stream.awake.set()

    async def _forget(self) -> None:
        for feed in list(self._feeds.values()):
            # Looked at now: somebody may have come back while another one was unsubscribed.
            if feed.streams:
                continue
            del self._feeds[feed.user_id]
            if feed.subscription is not None:
                try:
                    await feed.subscription.unsubscribe()
                except nats.errors.Error as error:
                    log.debug("not unsubscribed", error=repr(error))

    async def _repair(self, feeds: Iterable[_Feed]) -> None:
        """Finds the streams that are behind the database, because a live message was lost, or not of it."""
        connections = self._bus.connections
        known = {}
        for feed in feeds:
            known[feed.user_id] = feed.head
            await self._subscribe(feed)
        if known:
            async with self._db.read() as tx:
                rows = await tx.all(queries.HEADS, user_ids=list(known))
            for row in rows:
                found = self._feeds.get(row.user_id)
                if found is not None:
                    found.compare(Position(str(row.epoch), row.head), known[row.user_id])
        self._connections = connections

    async def _subscribe(self, feed: _Feed) -> bool:
        """Whether it did. Without NATS the feed is polled until a later attempt."""
        async with feed.subscribing:
            if feed.subscription is not None or not self._bus.connected:
                return False
            try:
                feed.subscription = await self._bus.client.subscribe(
                    live_subject(feed.user_id), cb=feed.deliver
                )
            except nats.errors.Error as error:
                log.debug("not subscribed", error=repr(error))
                return False
            return True

    async def _listen(self, feed: _Feed) -> None:
        """Returns once NATS knows that live messages of the feed are wanted here."""
        if await self._subscribe(feed) or not feed.listening:
            try:
                await self._bus.flush(_SUBSCRIBE_TIMEOUT)
                feed.listening = True
            except (nats.errors.Error, TimeoutError) as error:
                log.debug("not subscribed yet", error=repr(error))

    async def _head(self, feed: _Feed, caller: Caller) -> Position:
        async with self._readers, self._db.read() as tx:
            head = await logic.head(tx, caller)
        feed.head = max(feed.head, head.sequence)
        return head

    async def _read(self, user_id: UUID, after: int) -> list[Row]:
        async with self._readers, self._db.read() as tx:
            return await tx.all(queries.CHANGES_AFTER, user_id=user_id, after=after, count=_READ)

    def _heartbeat(self, feed: _Feed, stream: _Stream) -> bytes:
        at = Position(stream.epoch, stream.sequence)
        return heartbeat_message(self._seal, feed.user_id, at, max(feed.head, stream.sequence))
