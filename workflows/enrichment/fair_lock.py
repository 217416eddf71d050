"""A lock that serves waiting keys in turn: a key with many waiters delays another key by one turn only."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairLock:
    """A lock whose holders name a key. Keys take turns; within a key, the first waiter is first."""

    def __init__(self) -> None:
        self._held = False
        # Waiters by key, the key with the next turn first. A key is removed with its last waiter.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        if self._held:
            await self._wait(key)
        self._held = True
        try:
            yield
        finally:
            self._release(key)

    async def _wait(self, key: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # The lock may have been passed to this waiter just before it was cancelled.
            if not turn.cancelled():
                self._release(key)
            raise

    def _release(self, key: str) -> None:
        """Passes the lock to the next key that waits."""
        if key in self._waiting:
            # The other keys get their turns before this key's next waiter.
            self._waiting[key] = self._waiting.pop(key)
        while self._waiting:
            next_key, queue = next(iter(self._waiting.items()))
            turn = queue.popleft()
            if not queue:
                del self._waiting[next_key]
            if not turn.done():
                turn.set_result(None)
                return
        self._held = False
