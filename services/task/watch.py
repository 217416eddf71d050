"""WatchTasks: the streams that show a workspace's changes. One feed per process serves them all from memory."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any
from uuid import UUID

import structlog
from google.protobuf.message import DecodeError

from services.platform import directory
from services.platform.errors import DomainError, public
from services.platform.identity import Caller
from services.platform.runtime import Loop, Platform
from services.task import changes, snapshot
from services.task.feed import UNREACHABLE, Feed
from services.task.filters import matches, normal
from services.task.ring import Entry, Position, Reader, Room
from taskflow.error.v1 import error_reason_pb2 as reasons
from taskflow.event.v1.event_pb2 import Event
from taskflow.task.v1.task_pb2 import Task, TaskFilter
from taskflow.task.v1.task_service_pb2 import WatchTasksRequest, WatchTasksResponse

log = structlog.get_logger()

# How long a call waits for the first contact with JetStream (seconds).
_START_PATIENCE = 2
# A stream that passes many events without sending one lets others have a turn after so many.
_TURN = 200
# Pages of snapshots that are read at the same time.
_SNAPSHOTS = 8


class Board:
    """The changes of all workspaces' tasks, and the streams that show them."""

    def __init__(self, platform: Platform) -> None:
        self._settings = platform.settings
        self._db = platform.db
        self._seal = platform.seal
        self._feed = Feed(platform.bus)
        self._ring = self._feed.ring
        self._readers: set[Reader] = set()
        self._reading = asyncio.Semaphore(_SNAPSHOTS)

    def loops(self) -> list[Loop]:
        return [self._feed.run(), self._check_members_for_ever()]

    async def watch(
        self, caller: Caller, request: WatchTasksRequest, context: Any
    ) -> AsyncGenerator[bytes, None]:
        """The messages of one stream, serialized. See task_service.proto for what they promise."""
        wanted = normal(request.filter)
        workspace_id = UUID(request.workspace_id)
        await self._started()
        with self._reader(workspace_id, caller.user_id) as reader:
            async with aclosing(self._opening(reader, caller, request, wanted)) as messages:
                async for message in messages:
                    yield message
            restricted = wanted if _restricts(wanted) else None
            while True:
                entry = reader.at.after
                if reader.due or reader.ended or (entry is None and reader.at.lost):
                    async with aclosing(self._aside(reader, restricted)) as messages:
                        async for message in messages:
                            yield message
                elif entry is None:
                    await reader.wait()
                else:
                    reader.at = entry
                    # Most messages have been made for another stream, and need no look at a filter.
                    shown = entry.response if restricted is None else None
                    if shown is None:
                        shown = await self._shown(entry, reader, restricted)
                    if shown:
                        yield shown

    # Streams

    async def _opening(
        self, reader: Reader, caller: Caller, request: WatchTasksRequest, wanted: TaskFilter
    ) -> AsyncGenerator[bytes, None]:
        """What comes before the changes."""
        # Taken before the membership is looked up: a removal after that is met on the way.
        start = self._ring.head
        workspace_id = UUID(request.workspace_id)
        async with self._db.read() as tx:
            await directory.authorize(tx, caller, workspace_id)
        self._readers.add(reader)
        if request.cursor:
            self._resume(reader, request.cursor)
        elif request.snapshot:
            cursor = self._cursor(reader.room, start)
            async with aclosing(
                snapshot.pages(self._db, caller, workspace_id, wanted, self._reading)
            ) as pages:
                async for page in pages:
                    for task in page:
                        yield _message(cursor, snapshot=task)
            yield _message(cursor, snapshot_complete=WatchTasksResponse.SnapshotComplete())
        else:
            yield self._heartbeat(reader.room, start)

    async def _started(self) -> None:
        try:
            async with asyncio.timeout(_START_PATIENCE):
                await self._feed.caught_up.wait()
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

    def _resume(self, reader: Reader, cursor: str) -> None:
        try:
            position = Position(
                *self._seal.open(cursor, purpose="watch-tasks", context=reader.room.workspace_id)
            )
        except ValueError:
            raise DomainError(reasons.ERROR_REASON_INVALID_CURSOR) from None
        at = self._ring.at(reader.room, position) if self._ring.holds(position) else None
        reader.at = at or Entry(position, reader.room, lost=True)

    async def _aside(
        self, reader: Reader, wanted: TaskFilter | None
    ) -> AsyncGenerator[bytes, None]:
        """What may come before the next entry: the end, a heartbeat, or what the ring no longer has."""
        if reader.ended:
            raise DomainError(reasons.ERROR_REASON_MEMBERSHIP_LOST)
        if reader.due:
            reader.due = False
            standing = reader.at is reader.room.tail
            position = self._ring.head if standing else reader.at.position
            yield self._heartbeat(reader.room, position)
            return
        async with aclosing(self._missed(reader, wanted)) as messages:
            async for message in messages:
                yield message

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
        if entry.position.sequence % _TURN == 0:
            await asyncio.sleep(0)
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
                entries = await self._feed.read_back(reader)
            except UNREACHABLE as error:
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


def _restricts(wanted: TaskFilter) -> bool:
    """Whether there are changes that a stream with this filter doesn't show."""
    return any(field.name != "include_deleted" for field, _ in wanted.ListFields())


def _message(cursor: str, **kind: Any) -> bytes:
    return WatchTasksResponse(cursor=cursor, **kind).SerializeToString()
