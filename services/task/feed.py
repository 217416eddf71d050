"""The events of JetStream: followed by each process once, in order, and read back for streams that were away."""

import asyncio
from contextlib import aclosing

import nats.errors
import nats.js.errors
import structlog
from google.protobuf.message import DecodeError
from nats.aio.msg import Msg
from nats.js.api import StreamInfo
from uuid_utils.compat import uuid7

from services.platform import event_types
from services.platform.bus import STREAM, Bus, event_id, ordered
from services.platform.loops import beside
from services.task.changes import SHOWN_FACTS
from services.task.ring import Entry, Position, Reader, Ring, Room
from taskflow.event.v1.event_pb2 import Event, MemberRemoved

log = structlog.get_logger()

# Of the ring: events, and their bytes.
_EVENTS = 10_000
_BYTES = 64 * 1024 * 1024
# A new process begins this many sequences back, so that clients of the one before it resume from memory.
_BACKLOG = 5_000
# How many streams at once read JetStream for themselves, what they take at a time, and how long it may last (seconds).
_READING_BACK = 16
_CHUNK_EVENTS = 200
_CHUNK_BYTES = 128 * 1024
_CHUNK_SECONDS = 5

# Events that the feed takes at once.
_BATCH = 64

# What is raised while NATS isn't there, or isn't ready.
UNREACHABLE = (nats.errors.Error, OSError, TimeoutError)


class Feed:
    """Keeps `ring` filled; `caught_up` is set once it holds what the stream held when the process began."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.ring = Ring(_EVENTS, _BYTES)
        self.caught_up = asyncio.Event()
        self._reading_back = asyncio.Semaphore(_READING_BACK)

    async def run(self) -> None:
        """Follows the stream for ever."""
        while True:
            try:
                await self._follow_connection()
            except UNREACHABLE as error:
                log.warning("feed starts again", error=repr(error))
            await asyncio.sleep(0.2)

    @property
    def _connection(self) -> int:
        """Changes before anything arrives over a new connection."""
        return self._bus.client.stats["reconnects"] if self._bus.connected else -2

    async def _follow_connection(self) -> None:
        """Follows the stream until the connection ends: what was on its way then would be missing."""
        if self._bus.connected:
            await beside([self._outlive(self._connection)], self._follow())

    async def _outlive(self, connection: int) -> None:
        while True:
            await asyncio.sleep(0.2)
            if connection != self._connection:
                raise nats.errors.StaleConnectionError

    async def _follow(self) -> None:
        """Takes events as they come, until one is missing."""
        await self._locate()
        config = ordered(_subjects("*"), self.ring.head.sequence + 1)
        config.name = f"feed-{uuid7()}"
        if not (await self._bus.jetstream.add_consumer(STREAM, config)).num_pending:
            self.caught_up.set()
        received = 0
        async with aclosing(self._bus.pull_batches(config, _BATCH)) as batches:
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
        """Whether the stream discarded events that should have come before the end of the batch.

        JetStream goes on behind them without a word. Events that aren't shown leave gaps between sequences, too; what
        the stream has discarded by now tells them apart.
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
        """The next entries of a stream that isn't in the ring; moves it behind them, or into the ring.

        Nothing when the ring has yet to get as far as the stream. Raises what is in UNREACHABLE.
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
            # It may have been another stream that was read.
            return []
        if await self._discarded_after(position.sequence):
            # Events were discarded while they were read.
            reader.at = room.tail
            return [Entry(self.ring.head, room, reset=True)]
        reader.at = Entry(reached, room, lost=True)
        return entries

    async def _read(self, room: Room, position: Position) -> tuple[list[Entry], Position]:
        """Some of the workspace's events after `position`, and the position that is reached with them."""
        head = self.ring.head
        config = ordered(_subjects(room.workspace_id), position.sequence + 1)
        config.name = f"watch-{uuid7()}"
        pending = (await self._bus.jetstream.add_consumer(STREAM, config)).num_pending
        entries: list[Entry] = []
        size = 0
        if pending:
            async with aclosing(self._bus.pull(config)) as messages:
                async for message in messages:
                    metadata = message.metadata
                    if metadata.sequence.consumer != len(entries) + 1:
                        raise nats.errors.Error("messages were lost on the way")
                    entries.append(_entry(message, room, position.epoch))
                    size += len(message.data)
                    pending = metadata.num_pending
                    if not pending or len(entries) == _CHUNK_EVENTS or size > _CHUNK_BYTES:
                        break
        await self._bus.jetstream.delete_consumer(STREAM, config.name)
        last = entries[-1].position if entries else position
        if pending or last.sequence > head.sequence or head.epoch != position.epoch:
            return entries, last
        # There was nothing else up to where the process stood at the beginning.
        return entries, head

    async def _locate(self) -> None:
        """Makes sure that the ring's head is where the stream goes on; starts over otherwise."""
        if self.ring.head.epoch and await self._continues(self.ring.head):
            return
        info = await self._stream()
        last = info.state.last_seq
        if self.ring.head.epoch:
            log.warning("the stream is another one; all streams are reset")
            sequence = last
        else:
            sequence = max(info.state.first_seq - 1, last - _BACKLOG, 0)
        self.ring.restart(Position(_epoch(info), sequence, await self._tag(sequence)))

    async def _continues(self, position: Position) -> bool:
        """Whether the stream still holds everything after `position`, and the same before it."""
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
        """Of the event at `sequence`; empty when it's gone."""
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
    """The random end of a UUIDv7 tells two events at the same place apart."""
    return event[-8:]


def _entry(message: Msg, room: Room, epoch: str) -> Entry:
    return Entry(_position(message, epoch), room, message.data, removed=_removed(message))


def _removed(message: Msg) -> str:
    """The user whose removal the event is; empty for other events, and for one that can't be read."""
    if not message.subject.endswith(".member.removed"):
        return ""
    try:
        return Event.FromString(message.data).member_removed.user_id
    except DecodeError:
        log.error("unreadable event", sequence=message.metadata.sequence.stream)
        return ""


def _epoch(info: StreamInfo) -> str:
    """When the stream was created: one that was made anew has another."""
    if info.created is None:
        raise nats.errors.Error("a stream without the time of its creation")
    return f"{info.created.timestamp():.6f}"
