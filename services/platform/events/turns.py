"""Events that a consumer has read ahead. Workspaces take turns: one with many events holds up no other one."""

import asyncio
from collections import deque

from nats.aio.msg import Msg

from services.platform.events.subjects import workspace_of

# Bytes of events that are read ahead at most.
_MOST_BYTES = 32 * 1024 * 1024


class ReadAhead:
    """Events between their delivery and their acknowledgement. Those of one workspace keep their order."""

    def __init__(self, most: int) -> None:
        """`most`: events that wait at most, besides those of one more request."""
        self._most = most
        # The next workspace is first. No deque is empty.
        self._waiting: dict[str, deque[Msg]] = {}
        self._count = self._bytes = 0
        self._batch: list[Msg] = []
        self._filled = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()

    def add(self, messages: list[Msg]) -> None:
        for message in messages:
            # Copies name no workspace: they stay in their order.
            self._waiting.setdefault(workspace_of(message.subject), deque()).append(message)
            self._bytes += len(message.data)
        self._count += len(messages)
        self._update()

    async def wait_for_room(self) -> None:
        await self._has_room.wait()

    async def take(self, size: int) -> list[Msg]:
        """The next batch, at most `size` events: one of each workspace in turn. It replaces the batch before it."""
        self._batch = []
        await self._filled.wait()
        while self._waiting and len(self._batch) < size:
            workspace, queue = next(iter(self._waiting.items()))
            del self._waiting[workspace]
            message = queue.popleft()
            if queue:
                # The other workspaces come first.
                self._waiting[workspace] = queue
            self._batch.append(message)
            self._bytes -= len(message.data)
        self._count -= len(self._batch)
        self._update()
        return self._batch

    def unacknowledged(self) -> list[Msg]:
        """The batch that was taken last, and all events that wait."""
        return [*self._batch, *(message for queue in self._waiting.values() for message in queue)]

    def _update(self) -> None:
        for event, state in (
            (self._filled, self._count > 0),
            (self._has_room, self._count < self._most and self._bytes < _MOST_BYTES),
        ):
            event.set() if state else event.clear()
