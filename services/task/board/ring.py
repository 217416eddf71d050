"""The ring: recent changes of all workspaces, in memory. All WatchTasks streams of the process read from it.

The changes of a workspace form a linked list, its room. A reader is a place in that list, so a stream needs neither a
queue nor a copy of a change. The ring evicts its oldest entries by unlinking them. A reader that is still at an evicted
entry reads the next ones from JetStream (feed.py).
"""

import asyncio
from typing import NamedTuple
from uuid import UUID

from taskflow.task.v1.task_pb2 import Task

# Readers that are woken together: they take the event loop a few milliseconds, which calls of others wait.
_WOKEN = 100


class Position(NamedTuple):
    """A place in the JetStream stream.

    `epoch` identifies the stream by its creation time. `tag` identifies the event at `sequence`, because after a
    restored backup the stream can have another event there. `tag` is empty if the event isn't known.
    """

    epoch: str
    sequence: int
    tag: str


class Entry:
    """An event, or a reset, in a room; `after` is the room's next entry.

    `removed` is the user whose membership the event ends. `lost`: the ring has evicted the entry after this one. The
    first reader that needs `response` or `task` makes it for all readers.
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
    """The changes of one workspace in the ring, and the readers that wait for its next change."""

    __slots__ = ("first", "readers", "tail", "waiting", "workspace_id")

    def __init__(self, workspace_id: str, position: Position) -> None:
        self.workspace_id = workspace_id
        # The newest entry. The room keeps it even after its eviction, because readers are at it.
        self.tail = Entry(position, self)
        # The room's oldest entry that the ring still has; None if it has none.
        self.first: Entry | None = None
        self.readers = 0
        self.waiting: set[Reader] = set()

    def append(self, entry: Entry) -> None:
        self.tail.after = entry
        self.tail = entry
        waiting, self.waiting = self.waiting, set()
        _wake(list(waiting))


def _wake(readers: "list[Reader]") -> None:
    """Wakes some of the readers now, and the others after other work of the event loop has had its turn."""
    for reader in readers[:_WOKEN]:
        reader.wake()
    if rest := readers[_WOKEN:]:
        asyncio.get_running_loop().call_soon(_wake, rest)


class Reader:
    """The place of one open WatchTasks stream in its room. `at` is the last entry that the stream has handled.

    `wants_heartbeat` is set once every heartbeat interval, `ended` when the user is no longer a member.
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
        """Waits for a new entry in the room, the time for a heartbeat, or `end`."""
        self._woken = asyncio.get_running_loop().create_future()
        self.room.waiting.add(self)
        try:
            await self._woken
        finally:
            self._woken = None


class Ring:
    """The newest entries of all rooms, up to a number and a size (bytes).

    They are the events after the position `floor` up to the position `head`.
    """

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: dict[int, Entry] = {}
        self._rooms: dict[str, Room] = {}
        self.floor = self.head = Position("", 0, "")

    def enter(self, workspace_id: str) -> Room:
        """The workspace's room, for one more reader. The reader calls `leave` at its end."""
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
        """Whether the ring has the event at this position, or begins right after it, and so has all later events."""
        entry = self._entries.get(position.sequence)
        known = entry.position if entry else None
        return position in (known, self.head, self.floor)

    def at(self, room: Room, position: Position) -> Entry | None:
        """The entry from which a reader continues after `position`; None if the ring has evicted later entries.

        `position` must be in the ring's epoch and not after the ring's head.
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
    """Estimated memory of an entry (bytes): the event, and the response made from it."""
    return 2 * len(entry.payload) + 500
