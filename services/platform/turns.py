"""A limited number of places that callers take in turns, so that a caller with many waiters delays another by few."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import asynccontextmanager

# Who takes a place, most specific first: a user, or a user and the workspace. Without keys only the places count.
Keys = tuple[Hashable, ...]


class Turns:
    """`places` places. `limits[n]` is how many of them the n-th key may hold.

    While places are short, they go round the first keys that wait; waiters of one key get theirs in the order they
    came. A key that is at its limit is passed over.
    """

    def __init__(self, places: int, limits: Sequence[int] = ()) -> None:
        self.free = places
        self._limits = tuple(limits)
        self._held: dict[Hashable, int] = {}
        # The next first key comes first. No deque is empty.
        self._waiting: dict[Hashable, deque[tuple[Keys, asyncio.Future[None]]]] = {}

    def take_at_once(self, keys: Keys) -> bool:
        """Takes a place if one is free for these keys and nobody with the same first key waits."""
        if not self.free or not self._fits(keys) or (keys and keys[0] in self._waiting):
            return False
        self._take(keys)
        return True

    async def take(self, keys: Keys) -> None:
        """Waits for a place. The caller has to `give_back` it with the same keys."""
        if self.take_at_once(keys):
            return
        turn = asyncio.get_running_loop().create_future()
        first = keys[0] if keys else None
        self._waiting.setdefault(first, deque()).append((keys, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(first, turn)
            else:
                # The place was passed to this waiter just before it was cancelled.
                self.give_back(keys)
            raise

    def give_back(self, keys: Keys) -> None:
        self.free += 1
        for key in keys:
            left = self._held[key] - 1
            if left:
                self._held[key] = left
            else:
                del self._held[key]
        if keys and keys[0] in self._waiting:
            # The other keys come first now.
            self._waiting[keys[0]] = self._waiting.pop(keys[0])
        while self._waiting and self.free and self._pass_on():
            pass

    @asynccontextmanager
    async def hold(self, keys: Keys) -> AsyncIterator[None]:
        await self.take(keys)
        try:
            yield
        finally:
            self.give_back(keys)

    def waiting(self, first: Hashable) -> int:
        """How many wait with this first key."""
        return len(self._waiting.get(first, ()))

    def limiting(self, keys: Keys) -> int | None:
        """Which of the keys is at its limit; None if all places are taken."""
        for number, (key, limit) in enumerate(zip(keys, self._limits, strict=False)):
            if self._held.get(key, 0) >= limit:
                return number
        return None

    def _fits(self, keys: Keys) -> bool:
        return all(
            self._held.get(key, 0) < limit for key, limit in zip(keys, self._limits, strict=False)
        )

    def _take(self, keys: Keys) -> None:
        self.free -= 1
        for key in keys:
            self._held[key] = self._held.get(key, 0) + 1

    def _pass_on(self) -> bool:
        """Gives a place to the next waiter who may have one; False if there is none."""
        for first, queue in self._waiting.items():
            keys, turn = queue[0]
            if not self._fits(keys):
                continue
            queue.popleft()
            # The other keys come first now.
            del self._waiting[first]
            if queue:
                self._waiting[first] = queue
            if not turn.done():
                self._take(keys)
                turn.set_result(None)
            return True
        return False

    def _forget(self, first: Hashable, turn: asyncio.Future[None]) -> None:
        """Removes a cancelled waiter, so that `waiting` counts the others."""
        queue = self._waiting.get(first)
        if queue is None:
            return
        left = deque(waiter for waiter in queue if waiter[1] is not turn)
        if left:
            self._waiting[first] = left
        else:
            del self._waiting[first]
