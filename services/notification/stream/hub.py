"""Serves the open WatchNotifications streams of this process.

Streams get live messages from core NATS, which may lose messages. Streams read lost changes from the database. A repair
compares a room (one user's feed) with the database, and wakes the streams that missed changes.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from uuid import UUID

import nats.errors
import psycopg
import psycopg_pool
import structlog

from services.notification.stream import logic, queries
from services.notification.stream.messages import (
    Position,
    change_message,
    heartbeat_message,
    live_subject,
    position,
    reset_message,
)
from services.notification.stream.queries import ChangeRow
from services.notification.stream.room import Reader, Room
from services.platform.rpc.identity import Caller
from services.platform.runtime import Platform
from taskflow.notification.v1.notification_pb2 import NotificationChange

log = structlog.get_logger()

# The most changes that one query reads for a reader that is behind.
_PAGE = 200
# The most readers that query the database at once. Other calls need connections, too, when thousands of readers resume.
_DATABASE_READERS = 4
# A heartbeat interval has _HEARTBEAT_TICKS ticks. To avoid bursts, each room gets its heartbeat at one of them, and a
# repair at every _REPAIR_TICKS-th.
_HEARTBEAT_TICKS = 15
_REPAIR_TICKS = 5
# Time limit of a repair (seconds), so that heartbeats stay on time. The next tick continues.
_REPAIR_TIMEOUT = 1.0
# Seconds that an opening stream waits for NATS to confirm the subscription. After that it relies on repairs.
_SUBSCRIBE_TIMEOUT = 1


class Hub:
    """The open streams. `run` sends their heartbeats and repairs rooms, so that streams need no timers of their own."""

    def __init__(self, platform: Platform) -> None:
        self._db = platform.db
        self._bus = platform.bus
        self._seal = platform.seal
        self._interval = platform.settings.heartbeat_interval
        self._rooms: dict[UUID, Room] = {}
        self._database_readers = asyncio.Semaphore(_DATABASE_READERS)
        # The number of the NATS connection on which all rooms were last repaired.
        self._repaired_connection = 0

    async def watch(self, caller: Caller, cursor: str) -> AsyncGenerator[bytes, None]:
        """Yields serialized WatchNotificationsResponses for ever.

        Raises INVALID_CURSOR and SESSION_REVOKED at the start.
        """
        user_id = caller.user_id
        start = position(self._seal, user_id, cursor) if cursor else None
        reader = Reader()
        room = self._rooms.get(user_id)
        if room is None:
            room = self._rooms[user_id] = Room(user_id, hash(user_id) % _HEARTBEAT_TICKS)
        # Subscribes before it reads the database: a change in between then arrives twice instead of never.
        room.readers.add(reader)
        try:
            await self._listen(room)
            head = await self._head(room, caller)
            reader.start(start or head)
            if start is None:
                yield self._heartbeat(room, reader)
            reader.behind = reader.sequence < head.sequence
            reader.lost = reader.epoch != head.epoch or reader.sequence > head.sequence
            while True:
                if reader.lost:
                    reader.lost = reader.behind = False
                    reader.start(await self._head(room, caller))
                    yield reset_message(self._seal, user_id, reader.position)
                elif reader.behind:
                    # Clears the flag before reading, because a live message may set it again meanwhile.
                    reader.behind = False
                    known = room.head
                    rows = await self._changes(user_id, reader.sequence)
                    if len(rows) == _PAGE:
                        reader.behind = True
                    elif not rows and reader.sequence < known:
                        # The reader's next change was deleted at the end of its retention.
                        reader.lost = True
                    for row in rows:
                        if row.sequence != reader.sequence + 1:
                            reader.lost = True
                            break
                        reader.sequence = row.sequence
                        change = NotificationChange.FromString(row.payload)
                        yield change_message(self._seal, user_id, reader.epoch, change)
                elif reader.pending:
                    sequence, message = reader.pending.popleft()
                    if sequence == reader.sequence + 1:
                        reader.sequence = sequence
                        yield message
                    elif sequence > reader.sequence:
                        reader.behind = True
                elif reader.beat:
                    reader.beat = False
                    yield self._heartbeat(room, reader)
                else:
                    reader.awake.clear()
                    await reader.awake.wait()
        finally:
            # The next tick closes the room if it is empty. A client that reconnects before that finds the room open.
            room.readers.discard(reader)

    async def run(self) -> None:
        """Sends heartbeats and repairs rooms for ever."""
        loop = asyncio.get_running_loop()
        period = self._interval / _HEARTBEAT_TICKS
        started, tick = loop.time(), 0
        while True:
            # Late ticks run without a pause between them; no tick is skipped.
            await asyncio.sleep(max(0.0, started + tick * period - loop.time()))
            await self.run_once(tick)
            tick += 1

    async def run_once(self, tick: int) -> None:
        """Repairs the rooms of this tick, and sends their heartbeats."""
        await self._close_empty()
        rooms = list(self._rooms.values())
        all_of_them = not self._bus.connected or self._repaired_connection != self._bus.connections
        try:
            async with asyncio.timeout(_REPAIR_TIMEOUT):
                await self._repair(
                    room
                    for room in rooms
                    if all_of_them
                    or room.subscription is None
                    or room.slot % _REPAIR_TICKS == tick % _REPAIR_TICKS
                )
        except (psycopg.Error, psycopg_pool.PoolTimeout, TimeoutError) as error:
            log.warning("streams not checked", error=type(error).__name__)
        for room in rooms:
            if room.slot == tick % _HEARTBEAT_TICKS:
                for reader in room.readers:
                    reader.beat = True
                    reader.awake.set()

    async def _close_empty(self) -> None:
        for room in list(self._rooms.values()):
            # Checks each room just before closing it: a reader may have entered while another room was unsubscribed.
            if room.readers:
                continue
            del self._rooms[room.user_id]
            if room.subscription is not None:
                try:
                    await room.subscription.unsubscribe()
                except nats.errors.Error as error:
                    log.debug("not unsubscribed", error=repr(error))

    async def _repair(self, rooms: Iterable[Room]) -> None:
        """Wakes readers whose live messages were lost, and readers whose position the database doesn't know."""
        connections = self._bus.connections
        known = {}
        for room in rooms:
            known[room.user_id] = room.head
            await self._subscribe(room)
        if known:
            async with self._db.read() as tx:
                rows = await tx.all(queries.HEADS, user_ids=list(known))
            for row in rows:
                found = self._rooms.get(row.user_id)
                if found is not None:
                    found.compare(Position(str(row.epoch), row.head), known[row.user_id])
        self._repaired_connection = connections

    async def _subscribe(self, room: Room) -> bool:
        """Subscribes to the room's live messages; returns whether this call subscribed.

        While NATS is down, `_repair` regularly compares the room with the database and tries to subscribe again.
        """
        async with room.subscribing:
            if room.subscription is not None or not self._bus.connected:
                return False
            try:
                room.subscription = await self._bus.client.subscribe(
                    live_subject(room.user_id), cb=room.deliver
                )
            except nats.errors.Error as error:
                log.debug("not subscribed", error=repr(error))
                return False
            return True

    async def _listen(self, room: Room) -> None:
        """Waits until NATS delivers the user's live messages to this process, at most _SUBSCRIBE_TIMEOUT."""
        if await self._subscribe(room) or not room.listening:
            try:
                await self._bus.flush(_SUBSCRIBE_TIMEOUT)
                room.listening = True
            except (nats.errors.Error, TimeoutError) as error:
                log.debug("not subscribed yet", error=repr(error))

    async def _head(self, room: Room, caller: Caller) -> Position:
        async with self._database_readers, self._db.read() as tx:
            head = await logic.head(tx, caller)
        room.head = max(room.head, head.sequence)
        return head

    async def _changes(self, user_id: UUID, after: int) -> list[ChangeRow]:
        async with self._database_readers, self._db.read() as tx:
            return await tx.all(queries.CHANGES_AFTER, user_id=user_id, after=after, count=_PAGE)

    def _heartbeat(self, room: Room, reader: Reader) -> bytes:
        head = max(room.head, reader.sequence)
        return heartbeat_message(self._seal, room.user_id, reader.position, head)
