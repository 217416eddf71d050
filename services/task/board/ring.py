"""The recent changes of all workspaces, in memory. Every stream of the process reads them from here.

The changes of a workspace form a linked list, its room. A reader is a place in that list, so that a change costs a
stream neither a queue nor a copy. Eviction unlinks an entry: a reader that still stands there has to read the rest from
JetStream (feed.py).
"""

import asyncio
from typing import NamedTuple
from uuid import UUID

from taskflow.task.v1.task_pb2 import Task


class Position(NamedTuple):
    """A place in the JetStream stream.

    `epoch` identifies the stream by its creation. `tag` identifies the event at `sequence`: after a restored backup the
    stream has other events there. It is empty if the event isn't known.
    """

    epoch: str
    sequence: int
    tag: str


class Entry:
    """An event, or a reset, in a room; `after` is the next entry there.

    `removed` is the user whose membership the event ends. `lost` says that the entry after this one was evicted.
    `response` and `task` are made by the first reader that needs them, and shared.
    """

    __slots__ = (
        *("after", "lost", "payload", "position"),
        *("removed", "reset", "response", "room", "task"),
    )

    def __init__(
        self,
        position: Position,
        room: "Room",
        payload: bytes = b"",
        *,
        removed: str = "",
        reset: bool = False,
        lost: bool = False,
    ) -> None:
        self.position = position
        self.room = room
        self.payload = payload
        self.removed = removed
        self.reset = reset
        self.lost = lost
        self.after: Entry | None = None
        self.response: bytes | None = None
        self.task: asyncio.Future[Task] | None = None


class Room:
    """One workspace's changes in the ring, and the readers that wait for the next one."""

    __slots__ = ("first", "readers", "tail", "waiting", "workspace_id")

    def __init__(self, workspace_id: str, position: Position) -> None:
        self.workspace_id = workspace_id
        # The newest entry. The room keeps it after its eviction, because readers stand on it.
        self.tail = Entry(position, self)
        # The oldest entry in the ring.
        self.first: Entry | None = None
        self.readers = 0
        self.waiting: set[Reader] = set()

    def append(self, entry: Entry) -> None:
        self.tail.after = entry
        self.tail = entry
        waiting, self.waiting = self.waiting, set()
        for reader in waiting:
            reader.wake()


class Reader:
    """One open stream. `at` is the last entry that it has passed.

    `wants_heartbeat` is set once every interval; `ended` when the user has lost the membership.
    """

    __slots__ = (
        "_interval",
        "_timer",
        "_woken",
        "at",
        "ended",
        "room",
        "user_id",
        "wants_heartbeat",
    )

    def __init__(self, room: Room, user_id: UUID, heartbeat_interval: float) -> None:
        self.room = room
        self.user_id = user_id
        self.at = room.tail
        self.wants_heartbeat = False
        self.ended = False
        self._woken: asyncio.Future[None] | None = None
        self._interval = heartbeat_interval
        self._timer = asyncio.get_running_loop().call_later(heartbeat_interval, self._beat)

    def _beat(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._beat)
        self.wants_heartbeat = True
        self.wake()

    def end(self) -> None:
        self.ended = True
        self.wake()

    def close(self) -> None:
        self._timer.cancel()
        self.room.waiting.discard(self)

    def wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def wait(self) -> None:
        """Waits for a new entry in the room, a heartbeat, or the end."""
        self._woken = asyncio.get_running_loop().create_future()
        self.room.waiting.add(self)
        try:
            await self._woken
        finally:
            self._woken = None


class Ring:
    """The newest entries of all rooms, bounded by their number and bytes: those after `floor` up to `head`."""

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: dict[int, Entry] = {}
        self._rooms: dict[str, Room] = {}
        self.floor = self.head = Position("", 0, "")

    def enter(self, workspace_id: str) -> Room:
        """The workspace's room. The caller calls `leave` at the end."""
        room = self._room(workspace_id)
        room.readers += 1
        return room

    def leave(self, room: Room) -> None:
        room.readers -= 1
        self._remove_if_unused(room)

    def append(
        self, workspace_id: str, position: Position, payload: bytes, removed: str = ""
    ) -> None:
        room = self._room(workspace_id)
        entry = Entry(position, room, payload, removed=removed)
        self._entries[position.sequence] = entry
        self._bytes += _weight(entry)
        self.head = position
        if room.first is None:
            room.first = entry
        room.append(entry)
        while len(self._entries) > self._max_events or self._bytes > self._max_bytes:
            self._evict()

    def restart(self, position: Position) -> None:
        """Empties the ring and continues at `position`. Every reader gets a reset."""
        self.floor = self.head = position
        self._entries.clear()
        self._bytes = 0
        for room in list(self._rooms.values()):
            room.first = None
            room.append(Entry(position, room, reset=True))
            self._remove_if_unused(room)

    def holds(self, position: Position) -> bool:
        """Whether the ring has this very event, or begins right after it: then it knows what follows."""
        entry = self._entries.get(position.sequence)
        known = entry.position if entry else None
        return position in (known, self.head, self.floor)

    def at(self, room: Room, position: Position) -> Entry | None:
        """The entry that a reader stands on after `position`; None if entries after it were evicted.

        `position` is in the ring's epoch and not after its head.
        """
        sequence = position.sequence
        if sequence < self.floor.sequence:
            return None
        if room.first is None or room.tail.position.sequence <= sequence:
            return room.tail
        entry = self._entries.get(sequence)
        if entry and entry.room is room:
            return entry
        before = Entry(position, room)
        before.after = room.first
        while before.after and before.after.position.sequence <= sequence:
            before.after = before.after.after
        return before

    def _room(self, workspace_id: str) -> Room:
        room = self._rooms.get(workspace_id)
        if room is None:
            room = self._rooms[workspace_id] = Room(workspace_id, self.head)
        return room

    def _remove_if_unused(self, room: Room) -> None:
        if not room.readers and room.first is None:
            del self._rooms[room.workspace_id]

    def _evict(self) -> None:
        entry = self._entries.pop(next(iter(self._entries)))
        self._bytes -= _weight(entry)
        self.floor = entry.position
        room = entry.room
        room.first = entry.after
        if entry.after is None:
            self._remove_if_unused(room)
        else:
            entry.after = None
            entry.lost = True


def _weight(entry: Entry) -> int:
    """Estimated bytes: the event, and the response made of it."""
    return 2 * len(entry.payload) + 500
