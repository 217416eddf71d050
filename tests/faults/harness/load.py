"""Calls at a steady rate, whether or not earlier calls have been answered."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

# Limit of unanswered calls, so that a stalled server doesn't fill this process's memory.
_MOST = 5000


class Load:
    """The calls started so far."""

    def __init__(self) -> None:
        self.begun = 0
        self.running: set[asyncio.Task[None]] = set()
        self.failure: BaseException | None = None

    def ended(self, task: asyncio.Task[None]) -> None:
        self.running.discard(task)
        if not task.cancelled() and self.failure is None:
            self.failure = task.exception()


@asynccontextmanager
async def at_rate(
    rate: float, call: Callable[[int], Awaitable[None]], *, patience: float = 60.0
) -> AsyncIterator[Load]:
    """Start `call(number)` `rate` times a second while the block runs; then wait for the running calls.

    `call` handles expected errors; any other error ends the block. TimeoutError if the last calls take longer than
    `patience` seconds.
    """
    load = Load()
    started = time.monotonic()

    async def begin() -> None:
        while load.failure is None:
            due = int((time.monotonic() - started) * rate) - load.begun
            for _ in range(min(due, _MOST - len(load.running))):
                task = asyncio.create_task(_called(call, load.begun))
                load.begun += 1
                load.running.add(task)
                task.add_done_callback(load.ended)
            await asyncio.sleep(min(0.05, 1 / rate))

    beginning = asyncio.create_task(begin(), name="load")
    try:
        yield load
    finally:
        beginning.cancel()
        await asyncio.gather(beginning, return_exceptions=True)
        _, late = await asyncio.wait(load.running, timeout=patience) if load.running else ((), ())
        for task in late:
            task.cancel()
    if late:
        raise TimeoutError(f"{len(late)} calls weren't answered within {patience:g} s")
    if load.failure is not None:
        raise load.failure


async def _called(call: Callable[[int], Awaitable[None]], number: int) -> None:
    await call(number)
