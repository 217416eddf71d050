"""WatchTasks: one reader of JetStream per process feeds all its streams from memory."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any
from uuid import UUID

import nats.errors
import nats.js.errors
import structlog
from google.protobuf.message import DecodeError
from nats.aio.msg import Msg
from nats.js.api import StreamInfo
from uuid_utils.compat import uuid7

from services.platform import directory
from services.platform.bus import STREAM, event_id, ordered
from services.platform.errors import DomainError, public
from services.platform.identity import Caller
from services.platform.runtime import Platform
from services.task import changes, snapshot
from services.task.filters import matches
from services.task.ring import Entry, Position, Reader, Ring, Room
from taskflow.error.v1 import error_reason_pb2 as reasons
from taskflow.event.v1.event_pb2 import Event
from taskflow.task.v1.task_pb2 import Task, TaskFilter
from taskflow.task.v1.task_service_pb2 import WatchTasksRequest, WatchTasksResponse

log = structlog.get_logger()

# Of the ring: events, and their bytes.
_EVENTS = 10_000
_BYTES = 64 * 1024 * 1024
# A new process begins this many sequences back, so that clients of the one before it resume from memory.
_BACKLOG = 5_000
# How many streams at once read JetStream for themselves, what they take at a time, and how long it may last (seconds).
_CATCHING_UP = 16
_CHUNK_EVENTS = 200
_CHUNK_BYTES = 128 * 1024
_CHUNK_SECONDS = 5
# How long a call waits for the first contact with JetStream (seconds).
_START_PATIENCE = 2
# After so many events in a row that a filter withheld, others get a turn.
_TURN = 200

_UNREACHABLE = (nats.errors.Error, OSError, TimeoutError)


class Board:
    """The changes of all workspaces' tasks, and the streams that show them."""

    def __init__(self, platform: Platform) -> None:
        self._settings = platform.settings
        self._db = platform.db
        self._bus = platform.bus
        self._seal = platform.seal
        self._ring = Ring(_EVENTS, _BYTES)
        self._caught_up = asyncio.Event()
        self._readers: set[Reader] = set()
        self._catching_up = asyncio.Semaphore(_CATCHING_UP)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._follow_for_ever())
            loops.create_task(self._check_members_for_ever())

    async def watch(
        self, caller: Caller, request: WatchTasksRequest, context: Any
    ) -> AsyncGenerator[bytes, None]:
        """The messages of one stream, serialized. See task_service.proto for what they promise."""
        await self._started()
        workspace_id = UUID(request.workspace_id)
        with self._reader(workspace_id, caller.user_id) as reader:
            # Taken before the membership is looked up: a removal after that is met on the way.
            start = self._ring.head
            await self._authorize(caller, workspace_id)
            self._readers.add(reader)
            wanted = _restriction(request.filter)
            if request.cursor:
                self._resume(reader, request.cursor)
            elif request.snapshot:
                cursor = self._cursor(reader.room, start)
                pages = snapshot.pages(self._db, caller, workspace_id, request.filter)
                async with aclosing(pages):
                    async for page in pages:
                        for task in page:
                            yield _message(cursor, snapshot=task)
                complete = WatchTasksResponse.SnapshotComplete()
                yield _message(cursor, snapshot_complete=complete)
            else:
                yield self._heartbeat(reader.room, start)
            async with aclosing(self._changes(reader, wanted)) as messages:
                async for message in messages:
                    yield message

    # Streams

    async def _started(self) -> None:
        try:
            async with asyncio.timeout(_START_PATIENCE):
                await self._caught_up.wait()
        except TimeoutError:
            raise DomainError(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE) from None

    @contextmanager
    def _reader(self, workspace_id: UUID, user_id: UUID) -> Iterator[Reader]:
        room = self._ring.enter(str(workspace_id))
        reader = Reader(room, user_id, self._settings.heartbeat_interval)
        try:
            yield reader
        finally:
            self._readers.discard(reader)
            reader.close()
            self._ring.leave(room)

    async def _authorize(self, caller: Caller, workspace_id: UUID) -> None:
        async with self._db.read() as tx:
            await directory.authorize(tx, caller, workspace_id)

    def _resume(self, reader: Reader, cursor: str) -> None:
        try:
            position = Position(
                *self._seal.open(cursor, purpose="watch-tasks", context=reader.room.workspace_id)
            )
        except ValueError:
            raise DomainError(reasons.ERROR_REASON_INVALID_CURSOR) from None
        at = self._ring.at(reader.room, position) if self._ring.holds(position) else None
        reader.at = at or Entry(position, reader.room, lost=True)

    async def _changes(
        self, reader: Reader, wanted: TaskFilter | None
    ) -> AsyncGenerator[bytes, None]:
        room = reader.room
        withheld = 0
        while True:
            entry = reader.at.after
            if reader.ended:
                raise DomainError(reasons.ERROR_REASON_MEMBERSHIP_LOST)
            if reader.due:
                reader.due = False
                standing = reader.at is room.tail
                yield self._heartbeat(room, self._ring.head if standing else reader.at.position)
            elif entry is not None:
                reader.at = entry
                message = await self._shown(entry, reader, wanted)
                if message is not None:
                    yield message
                    continue
                withheld += 1
                if withheld % _TURN == 0:
                    await asyncio.sleep(0)
            elif reader.at.lost:
                async with aclosing(self._missed(reader, wanted)) as messages:
                    async for message in messages:
                        yield message
            else:
                await reader.wait()

    async def _shown(self, entry: Entry, reader: Reader, wanted: TaskFilter | None) -> bytes | None:
        """What the stream shows of the entry; None for nothing. Ends it where its user was removed."""
        if entry.removed:
            await self._check_removal(entry, reader)
            return None
        if entry.response is None:
            entry.response = self._response(entry)
        if wanted is None or entry.reset:
            return entry.response or None
        if entry.response and await self._is_wanted(entry, wanted):
            return entry.response
        return None

    async def _check_removal(self, entry: Entry, reader: Reader) -> None:
        """A removal counts unless the user has become a member again, which a resumed stream may have yet to pass."""
        if entry.removed != str(reader.user_id):
            return
        pair = (UUID(reader.room.workspace_id), reader.user_id)
        async with self._db.read() as tx:
            if not await directory.memberships(tx, [pair]):
                raise DomainError(reasons.ERROR_REASON_MEMBERSHIP_LOST)

    async def _is_wanted(self, entry: Entry, wanted: TaskFilter) -> bool:
        event = Event.FromString(entry.payload)
        task_id = changes.task_id(event)
        if task_id:
            return matches(wanted, await self._task_of(entry, UUID(task_id)))
        before, after = changes.before_and_after(event)
        return matches(wanted, after) or (before is not None and matches(wanted, before))

    async def _task_of(self, entry: Entry, task_id: UUID) -> Task:
        """The task of a job or suggestion as it is when the first stream asks for it."""
        if entry.task is None:
            entry.task = asyncio.ensure_future(snapshot.task(self._db, task_id))
        try:
            # The others go on when this stream is cut off.
            return await asyncio.shield(entry.task)
        except Exception:
            entry.task = None
            raise

    async def _missed(
        self, reader: Reader, wanted: TaskFilter | None
    ) -> AsyncGenerator[bytes, None]:
        """Reads from JetStream what the ring no longer has, until the stream stands in the ring again."""
        while reader.at.lost and not reader.ended:
            if reader.due:
                reader.due = False
                yield self._heartbeat(reader.room, reader.at.position)
            try:
                async with self._catching_up, asyncio.timeout(_CHUNK_SECONDS):
                    entries = await self._chunk(reader)
            except _UNREACHABLE as error:
                log.debug("stream waits for nats", error=repr(error))
                await asyncio.sleep(0.5)
                continue
            if not entries and reader.at.lost:
                # This process has yet to read what another one showed already.
                await asyncio.sleep(0.02)
            for entry in entries:
                if reader.ended:
                    return
                message = await self._shown(entry, reader, wanted)
                if message is not None:
                    yield message

    async def _chunk(self, reader: Reader) -> list[Entry]:
        """The next entries of a stream that isn't in the ring; moves it behind them."""
        room, position = reader.room, reader.at.position
        connection = self._connection
        if not await self._continues(position):
            reader.at = room.tail
            return [Entry(self._ring.head, room, reset=True)]
        if position.epoch != self._ring.head.epoch or position.sequence > self._ring.head.sequence:
            return []
        at = self._ring.at(room, position)
        if at is not None:
            reader.at = at
            return []
        entries, reached = await self._read(room, position)
        if connection != self._connection:
            # It may have been another stream that was read.
            return []
        reader.at = Entry(reached, room, lost=True)
        return entries

    async def _read(self, room: Room, position: Position) -> tuple[list[Entry], Position]:
        """Some of the workspace's events after `position`, and the position that is reached with them."""
        head = self._ring.head
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

    # Messages

    def _cursor(self, room: Room, position: Position) -> str:
        return self._seal.close(list(position), purpose="watch-tasks", context=room.workspace_id)

    def _heartbeat(self, room: Room, position: Position) -> bytes:
        cursor = self._cursor(room, position)
        head = self._ring.head
        heartbeat = WatchTasksResponse.Heartbeat(
            head_cursor=cursor if position == head else self._cursor(room, head)
        )
        heartbeat.time.FromNanoseconds(time.time_ns())
        return _message(cursor, heartbeat=heartbeat)

    def _response(self, entry: Entry) -> bytes:
        """The message for all streams of the room; empty where nothing is shown."""
        cursor = self._cursor(entry.room, entry.position)
        if entry.reset:
            return _message(cursor, reset=WatchTasksResponse.Reset())
        try:
            response = changes.response(Event.FromString(entry.payload), cursor)
        except DecodeError:
            log.error("unreadable event", sequence=entry.position.sequence)
            return b""
        return response.SerializeToString() if response else b""

    # JetStream

    async def _follow_for_ever(self) -> None:
        while True:
            try:
                await self._follow_connection()
            except _UNREACHABLE as error:
                log.warning("board starts again", error=repr(error))
            await asyncio.sleep(0.2)

    @property
    def _connection(self) -> int:
        """Changes before anything arrives over a new connection."""
        return self._bus.client.stats["reconnects"] if self._bus.connected else -2

    async def _follow_connection(self) -> None:
        """Follows the stream until the connection ends: what was on its way then would be missing."""
        if not self._bus.connected:
            return
        connection = self._connection
        following = asyncio.create_task(self._follow())
        try:
            while connection == self._connection and not following.done():
                await asyncio.wait({following}, timeout=0.2)
            if following.done():
                following.result()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _follow(self) -> None:
        """Takes events as they come, until one is missing."""
        await self._locate()
        config = ordered(_subjects("*"), self._ring.head.sequence + 1)
        config.name = f"board-{uuid7()}"
        if not (await self._bus.jetstream.add_consumer(STREAM, config)).num_pending:
            self._caught_up.set()
        received = 0
        async with aclosing(self._bus.pull(config)) as messages:
            async for message in messages:
                metadata = message.metadata
                received += 1
                if metadata.sequence.consumer != received:
                    log.warning("board missed events", after=self._ring.head.sequence)
                    return
                self._append(message)
                if not metadata.num_pending:
                    self._caught_up.set()

    def _append(self, message: Msg) -> None:
        _, workspace_id, aggregate, _ = message.subject.split(".")
        position = _position(message, self._ring.head.epoch)
        removed = ""
        if aggregate == "member":
            try:
                removed = Event.FromString(message.data).member_removed.user_id
            except DecodeError:
                log.error("unreadable event", sequence=position.sequence)
        self._ring.append(workspace_id, position, message.data, removed)

    async def _locate(self) -> None:
        """Makes sure that the ring's head is where the stream goes on; starts over otherwise."""
        if self._ring.head.epoch and await self._continues(self._ring.head):
            return
        info = await self._stream()
        last = info.state.last_seq
        if self._ring.head.epoch:
            log.warning("the stream is another one; all streams are reset")
            sequence = last
        else:
            sequence = max(info.state.first_seq - 1, last - _BACKLOG, 0)
        self._ring.restart(Position(_epoch(info), sequence, await self._tag(sequence)))

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

    # Members

    async def _check_members_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.session_check_interval)
            try:
                await self.check_members_once()
            except Exception as error:
                # While Postgres is away nobody can be removed either.
                public(error)

    async def check_members_once(self) -> None:
        """Ends the streams of users who were removed, also while NATS can't say so."""
        pairs = {
            reader: (UUID(reader.room.workspace_id), reader.user_id) for reader in self._readers
        }
        if not pairs:
            return
        async with self._db.read() as tx:
            live = await directory.memberships(tx, set(pairs.values()))
        for reader, pair in pairs.items():
            if pair not in live:
                reader.end()


def _restriction(wanted: TaskFilter) -> TaskFilter | None:
    """The filter, or None where it lets all changes through."""
    return (
        wanted if any(field.name != "include_deleted" for field, _ in wanted.ListFields()) else None
    )


def _message(cursor: str, **kind: Any) -> bytes:
    return WatchTasksResponse(cursor=cursor, **kind).SerializeToString()


def _subjects(workspace_id: str) -> list[str]:
    return [f"taskflow.{workspace_id}.{name}" for name in (*changes.SHOWN_EVENTS, "member.removed")]


def _position(message: Msg, epoch: str) -> Position:
    return Position(epoch, message.metadata.sequence.stream, _short(event_id(message)))


def _short(event: str) -> str:
    """The random end of a UUIDv7 tells two events at the same place apart."""
    return event[-8:]


def _entry(message: Msg, room: Room, epoch: str) -> Entry:
    removed = ""
    if message.subject.endswith(".member.removed"):
        removed = Event.FromString(message.data).member_removed.user_id
    return Entry(_position(message, epoch), room, message.data, removed=removed)


def _epoch(info: StreamInfo) -> str:
    """When the stream was created: one that was made anew has another."""
    if info.created is None:
        raise nats.errors.Error("a stream without the time of its creation")
    return f"{info.created.timestamp():.6f}"
