"""Fills the ring with JetStream's events, in order; reads events that the ring has evicted again for single readers."""

import asyncio
from contextlib import aclosing

import nats.errors
import nats.js.errors
import structlog
from google.protobuf.message import DecodeError
from nats.aio.msg import Msg
from nats.js.api import StreamInfo
from uuid_utils.compat import uuid7

from services.platform.background import run_background
from services.platform.events import pull
from services.platform.events import types as event_types
from services.platform.events.bus import Bus
from services.platform.events.subjects import STREAM, event_id
from services.task.board.messages import SHOWN_FACTS
from services.task.board.ring import Entry, Position, Reader, Ring, Room
from taskflow.event.v1.event_pb2 import Event, MemberRemoved

log = structlog.get_logger()

# The most events in the ring, and the most bytes.
_EVENTS = 10_000
_BYTES = 64 * 1024 * 1024
# A new process starts this many stream sequences back, so that clients of the previous process resume from memory.
_BACKLOG = 5_000
# Limits for readers that read evicted events from JetStream: concurrent readers; events, bytes and seconds of one read.
_READING_BACK = 16
_CHUNK_EVENTS = 200
_CHUNK_BYTES = 128 * 1024
_CHUNK_SECONDS = 5

# The most events in a batch of the feed.
_BATCH = 64

# Errors that NATS calls raise while NATS is away or not ready.
UNREACHABLE = (nats.errors.Error, OSError, TimeoutError)


class Feed:
    """Fills `ring`. `caught_up` is set once the ring has all events that the stream had when the process started."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.ring = Ring(_EVENTS, _BYTES)
        self.caught_up = asyncio.Event()
        self._reading_back = asyncio.Semaphore(_READING_BACK)

    async def run(self) -> None:
        """Fills the ring from the event stream until cancelled."""
        while True:
            try:
                await self._follow_connection()
            except UNREACHABLE as error:
                log.warning("feed starts again", error=repr(error))
            await asyncio.sleep(0.2)

    @property
    def _connection(self) -> int:
        """A number for the current NATS connection. It changes before a message can arrive over a new connection."""
        return self._bus.client.stats["reconnects"] if self._bus.connected else -2

    async def _follow_connection(self) -> None:
        """Follows the stream until the connection ends: a lost connection also loses messages in flight."""
        if self._bus.connected:
            await run_background([self._raise_at_end_of(self._connection)], self._follow())

    async def _raise_at_end_of(self, connection: int) -> None:
        while True:
            await asyncio.sleep(0.2)
            if connection != self._connection:
                raise nats.errors.StaleConnectionError

    async def _follow(self) -> None:
        """Appends events to the ring until an event is missing."""
        await self._locate()
        config = pull.ordered(_subjects("*"), self.ring.head.sequence + 1)
        config.name = f"feed-{uuid7()}"
        if not (await self._bus.jetstream.add_consumer(STREAM, config)).num_pending:
            self.caught_up.set()
        received = 0
        async with aclosing(pull.batches(self._bus, config, _BATCH)) as batches:
            async for batch in batches:
                received += len(batch)
                last = batch[-1].metadata
                if last.sequence.consumer != received or await self._misses_events(batch):
                    log.warning("feed missed events", after=self.ring.head.sequence)
                    return
                for message in batch:
                    self._append(message)
                if not last.num_pending:
                    self.caught_up.set()

    async def _misses_events(self, batch: list[Msg]) -> bool:
        """Whether the stream discarded events before the feed received them.

        JetStream skips discarded events without an error. A gap in the sequences alone proves nothing, because events
        of other subjects leave gaps too.
        """
        before, last = self.ring.head.sequence, batch[-1].metadata.sequence.stream
        return last - before > len(batch) and await self._discarded_after(before)

    async def _discarded_after(self, sequence: int) -> bool:
        info = await self._stream()
        return info.state.first_seq - 1 > sequence

    def _append(self, message: Msg) -> None:
        workspace_id = message.subject.split(".")[1]
        position = _position(message, self.ring.head.epoch)
        self.ring.append(workspace_id, position, message.data, _removed(message))

    async def read_back(self, reader: Reader) -> list[Entry]:
        """The next entries for a reader whose entries the ring has evicted; moves the reader after them.

        Returns no entries if the reader can continue in the ring, or if it is ahead of the ring. Raises UNREACHABLE.
        """
        async with self._reading_back, asyncio.timeout(_CHUNK_SECONDS):
            return await self._chunk(reader)

    async def _chunk(self, reader: Reader) -> list[Entry]:
        room, position = reader.room, reader.at.position
        connection = self._connection
        if not await self._continues(position):
            reader.at = room.tail
            return [Entry(self.ring.head, room, reset=True)]
        if position.epoch != self.ring.head.epoch or position.sequence > self.ring.head.sequence:
            return []
        at = self.ring.at(room, position)
        if at is not None:
            reader.at = at
            return []
        entries, reached = await self._read(room, position)
        if connection != self._connection:
            # NATS may have a different stream after a reconnection, so the entries can't be trusted.
            return []
        if await self._discarded_after(position.sequence):
            # The stream discarded events during the read.
            reader.at = room.tail
            return [Entry(self.ring.head, room, reset=True)]
        reader.at = Entry(reached, room, lost=True)
        return entries

    async def _read(self, room: Room, position: Position) -> tuple[list[Entry], Position]:
        """The workspace's next events after `position`, and the position up to which they are complete."""
        head = self.ring.head
        config = pull.ordered(_subjects(room.workspace_id), position.sequence + 1)
        config.name = f"watch-{uuid7()}"
        pending = (await self._bus.jetstream.add_consumer(STREAM, config)).num_pending
        entries: list[Entry] = []
        size = 0
        if pending:
            async with aclosing(pull.messages(self._bus, config)) as messages:
                async for message in messages:
                    metadata = message.metadata
                    if metadata.sequence.consumer != len(entries) + 1:
                        raise nats.errors.Error("JetStream lost messages in flight")
                    entries.append(_entry(message, room, position.epoch))
                    size += len(message.data)
                    pending = metadata.num_pending
                    if not pending or len(entries) == _CHUNK_EVENTS or size > _CHUNK_BYTES:
                        break
        await self._bus.jetstream.delete_consumer(STREAM, config.name)
        last = entries[-1].position if entries else position
        if pending or last.sequence > head.sequence or head.epoch != position.epoch:
            return entries, last
        # The reader has every event of this workspace up to `head`, so it continues there.
        return entries, head

    async def _locate(self) -> None:
        """Keeps the ring if the stream continues where the ring ends; otherwise restarts the ring."""
        if self.ring.head.epoch and await self._continues(self.ring.head):
            return
        info = await self._stream()
        last = info.state.last_seq
        if self.ring.head.epoch:
            log.warning(
                "the event stream was recreated or lost events; all watch streams are reset"
            )
            sequence = last
        else:
            sequence = max(info.state.first_seq - 1, last - _BACKLOG, 0)
        self.ring.restart(Position(_epoch(info), sequence, await self._tag(sequence)))

    async def _continues(self, position: Position) -> bool:
        """Whether the event stream has every event after `position`, and at `position` still the same event."""
        info = await self._stream()
        if position.epoch != _epoch(info):
            return False
        if not info.state.first_seq - 1 <= position.sequence <= info.state.last_seq:
            return False
        tag = await self._tag(position.sequence)
        return not tag or not position.tag or tag == position.tag

    async def _stream(self) -> StreamInfo:
        try:
            return await self._bus.jetstream.stream_info(STREAM)
        except nats.js.errors.NotFoundError:
            return await self._bus.ensure_stream()

    async def _tag(self, sequence: int) -> str:
        """The tag of the event at `sequence`; empty if the stream has no such event."""
        if not sequence:
            return ""
        try:
            message = await self._bus.jetstream.get_msg(STREAM, sequence, direct=True)
        except nats.js.errors.NotFoundError:
            return ""
        return _short((message.headers or {}).get("Nats-Msg-Id", ""))


def _subjects(workspace_id: str) -> list[str]:
    return event_types.subjects(*SHOWN_FACTS, MemberRemoved, workspace=workspace_id)


def _position(message: Msg, epoch: str) -> Position:
    return Position(epoch, message.metadata.sequence.stream, _short(event_id(message)))


def _short(event: str) -> str:
    """The random end of an event's UUIDv7: enough to distinguish two events at the same sequence."""
    return event[-8:]


def _entry(message: Msg, room: Room, epoch: str) -> Entry:
    return Entry(_position(message, epoch), room, message.data, removed=_removed(message))


def _removed(message: Msg) -> str:
    """The user whose membership the event ends; empty for other events and for unreadable events."""
    if not message.subject.endswith(".member.removed"):
        return ""
    try:
        return Event.FromString(message.data).member_removed.user_id
    except DecodeError:
        log.error("unreadable event", sequence=message.metadata.sequence.stream)
        return ""


def _epoch(info: StreamInfo) -> str:
    """The event stream's creation time, which tells a recreated stream from the old one."""
    if info.created is None:
        raise nats.errors.Error("the stream has no creation time")
    return f"{info.created.timestamp():.6f}"
