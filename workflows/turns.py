"""One at a time, in turns: whoever has a thousand things waiting delays another's first by one of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """A lock that goes from key to key; those of one key have it in the order they came."""

    def __init__(self) -> None:
        self._taken = False
        # The key that comes next is first. Deques are never empty.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def turn(self, key: str) -> AsyncIterator[None]:
        if self._taken:
            await self._wait(key)
        self._taken = True
        try:
            yield
        finally:
            self._pass_on(key)

    async def _wait(self, key: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # The turn may have come in the same moment as the cancellation.
            if not turn.cancelled():
                self._pass_on(key)
            raise

    def _pass_on(self, key: str) -> None:
        """From this key to the next."""
        if key in self._waiting:
            # To the end: the other keys come first.
            self._waiting[key] = self._waiting.pop(key)
        while self._waiting:
            following, queue = next(iter(self._waiting.items()))
            turn = queue.popleft()
            if not queue:
                del self._waiting[following]
            if not turn.done():
                turn.set_result(None)
                return
        self._taken = False
