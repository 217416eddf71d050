"""Serves WatchTasks: streams of a workspace's changes. One feed per process fills the ring that all streams read."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any
from uuid import UUID

import structlog
from google.protobuf.message import DecodeError

from services.platform.rpc import directory
from services.platform.rpc.errors import DomainError, public
from services.platform.rpc.identity import Caller
from services.platform.runtime import Loop, Platform
from services.task.board import messages, snapshot
from services.task.board.feed import UNREACHABLE, Feed
from services.task.board.ring import Entry, Position, Reader, Room
from services.task.tasks.filters import matches, normalize
from taskflow.error.v1 import error_reason_pb2 as reasons
from taskflow.event.v1.event_pb2 import Event
from taskflow.task.v1.task_pb2 import Task, TaskFilter
from taskflow.task.v1.task_service_pb2 import WatchTasksRequest, WatchTasksResponse

log = structlog.get_logger()

# Seconds that a new stream waits for the feed to reach the end of the event stream after the process started.
_FIRST_CONTACT = 2
# A filtered stream lets other streams run at every entry whose sequence is a multiple of this.
_TURN = 200
# The most snapshot pages that the process reads at once.
_SNAPSHOT_READS = 8


class Board:
    """Serves the WatchTasks streams of this process."""

    def __init__(self, platform: Platform) -> None:
        self._settings = platform.settings
        self._db = platform.db
        self._seal = platform.seal
        self._feed = Feed(platform.bus)
        self._ring = self._feed.ring
        self._readers: set[Reader] = set()
        self._snapshot_reads = asyncio.Semaphore(_SNAPSHOT_READS)

    def loops(self) -> list[Loop]:
        return [self._feed.run(), self._check_members()]

    async def watch(
        self, caller: Caller, request: WatchTasksRequest, context: Any
    ) -> AsyncGenerator[bytes, None]:
        """Yields the serialized responses of one stream. task_service.proto states what clients can rely on."""
        wanted = normalize(request.filter)
        workspace_id = UUID(request.workspace_id)
        await self._wait_for_feed()
        with self._reader(workspace_id, caller.user_id) as reader:
            async with aclosing(self._start(reader, caller, request, wanted)) as responses:
                async for response in responses:
                    yield response
            # The filter, or None for a stream that shows every change.
            restricted = wanted if _restricts(wanted) else None
            while True:
                entry = reader.at.after
                evicted = entry is None and reader.at.lost
                if reader.wants_heartbeat or reader.ended or evicted:
                    async with aclosing(self._before_next(reader, restricted)) as responses:
                        async for response in responses:
                            yield response
                elif entry is None:
                    await reader.wait()
                else:
                    reader.at = entry
                    # Fast path for streams without a filter: another reader may have made the response already.
                    shown = entry.response if restricted is None else None
                    if shown is None:
                        shown = await self._show(entry, reader, restricted)
                    if shown:
                        yield shown

    # Methods that serve one stream.

    async def _start(
        self, reader: Reader, caller: Caller, request: WatchTasksRequest, wanted: TaskFilter
    ) -> AsyncGenerator[bytes, None]:
        """Checks the membership; then resumes at the cursor, or yields the snapshot or a first heartbeat."""
        # Read before the membership is checked, so that the stream gets the event of a later removal.
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
                snapshot.read(self._db, caller, workspace_id, wanted, self._snapshot_reads)
            ) as pages:
                async for page in pages:
                    for task in page:
                        yield _response(cursor, snapshot=task)
            yield _response(cursor, snapshot_complete=WatchTasksResponse.SnapshotComplete())
        else:
            yield self._heartbeat(reader.room, start)

    async def _wait_for_feed(self) -> None:
        try:
            async with asyncio.timeout(_FIRST_CONTACT):
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

    async def _before_next(
        self, reader: Reader, wanted: TaskFilter | None
    ) -> AsyncGenerator[bytes, None]:
        """Yields a heartbeat, or changes that the ring has evicted. Raises MEMBERSHIP_LOST for an ended reader."""
        if reader.ended:
            raise DomainError(reasons.ERROR_REASON_MEMBERSHIP_LOST)
        if reader.wants_heartbeat:
            reader.wants_heartbeat = False
            is_current = reader.at is reader.room.tail
            position = self._ring.head if is_current else reader.at.position
            yield self._heartbeat(reader.room, position)
            return
        async with aclosing(self._read_back(reader, wanted)) as responses:
            async for response in responses:
                yield response

    async def _show(self, entry: Entry, reader: Reader, wanted: TaskFilter | None) -> bytes | None:
        """The response that shows the entry in this stream; None if the stream doesn't show it.

        Raises MEMBERSHIP_LOST if the entry is the removal of the stream's user.
        """
        if entry.removed:
            await self._check_removal(entry, reader)
            return None
        if entry.response is None:
            entry.response = self._response_of(entry)
        if wanted is None or entry.reset:
            return entry.response or None
        if entry.response and await self._is_wanted(entry, wanted):
            return entry.response
        return None

    async def _check_removal(self, entry: Entry, reader: Reader) -> None:
        """Ends the stream of a removed user, unless the user is a member again and reads an old removal."""
        if entry.removed != str(reader.user_id):
            return
        pair = (UUID(reader.room.workspace_id), reader.user_id)
        async with self._db.read() as tx:
            if not await directory.memberships(tx, [pair]):
                raise DomainError(reasons.ERROR_REASON_MEMBERSHIP_LOST)

    async def _is_wanted(self, entry: Entry, wanted: TaskFilter) -> bool:
        if entry.position.sequence % _TURN == 0:
            await asyncio.sleep(0)
        event = messages.parsed(entry.payload)
        if event.task_id:
            return matches(wanted, await self._task_of(entry, UUID(event.task_id)))
        return any(matches(wanted, task, texts) for task, texts in event.versions)

    async def _task_of(self, entry: Entry, task_id: UUID) -> Task:
        """The task of a job or suggestion, read from the database once for all streams."""
        if entry.task is None:
            entry.task = asyncio.ensure_future(snapshot.task(self._db, task_id))
        try:
            # Cancelling this stream doesn't cancel the read for other streams.
            return await asyncio.shield(entry.task)
        except Exception:
            entry.task = None
            raise

    async def _read_back(
        self, reader: Reader, wanted: TaskFilter | None
    ) -> AsyncGenerator[bytes, None]:
        """Yields changes that the ring has evicted, read from JetStream, until the reader can continue in the ring."""
        while reader.at.lost and not reader.ended:
            if reader.wants_heartbeat:
                reader.wants_heartbeat = False
                yield self._heartbeat(reader.room, reader.at.position)
            try:
                entries = await self._feed.read_back(reader)
            except UNREACHABLE as error:
                log.debug("stream waits for nats", error=repr(error))
                await asyncio.sleep(0.5)
                continue
            if not entries and reader.at.lost:
                # The client's cursor comes from a replica that is ahead. Waits until this replica has caught up.
                await asyncio.sleep(0.02)
            for entry in entries:
                if reader.ended:
                    return
                response = await self._show(entry, reader, wanted)
                if response is not None:
                    yield response

    # Methods that make responses.

    def _cursor(self, room: Room, position: Position) -> str:
        return self._seal.close(list(position), purpose="watch-tasks", context=room.workspace_id)

    def _heartbeat(self, room: Room, position: Position) -> bytes:
        cursor = self._cursor(room, position)
        head = self._ring.head
        heartbeat = WatchTasksResponse.Heartbeat(
            head_cursor=cursor if position == head else self._cursor(room, head)
        )
        heartbeat.time.FromNanoseconds(time.time_ns())
        return _response(cursor, heartbeat=heartbeat)

    def _response_of(self, entry: Entry) -> bytes:
        """The response for all streams of the room; empty if streams don't show the entry."""
        cursor = self._cursor(entry.room, entry.position)
        if entry.reset:
            return _response(cursor, reset=WatchTasksResponse.Reset())
        try:
            response = messages.response(Event.FromString(entry.payload), cursor)
        except DecodeError:
            log.error("unreadable event", sequence=entry.position.sequence)
            return b""
        return response.SerializeToString() if response else b""

    # Checks of memberships.

    async def _check_members(self) -> None:
        while True:
            await asyncio.sleep(self._settings.session_check_interval)
            try:
                await self.check_members_once()
            except Exception as error:
                # Logs the error and goes on: while Postgres is away, nobody can be removed from a workspace either.
                public(error)

    async def check_members_once(self) -> None:
        """Ends the streams of removed members. While NATS is away, the event of a removal can't end them."""
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
    """Whether a stream with this filter leaves out some changes."""
    return any(field.name != "include_deleted" for field, _ in wanted.ListFields())


def _response(cursor: str, **kind: Any) -> bytes:
    return WatchTasksResponse(cursor=cursor, **kind).SerializeToString()
