"""Batches of concurrent calls: calls that arrive while a batch runs share the next batch (docs/adr/0011)."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Runs one batch at a time. While a batch runs, new items wait for the next batch.

    When no batch runs, an item starts immediately, without waiting for others.

    `run` takes up to `size` items and returns for each, in their order, its answer or the exception to raise for it.
    An exception that `run` itself raises is raised for all items of the batch.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]],
        *,
        size: int,
    ) -> None:
        self._run = run
        self._size = size
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Answer:
        """Adds the item to a batch; returns its answer, or raises its exception.

        Cancelling one caller doesn't cancel a running batch. An item whose caller is cancelled before is left out.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if self._worker is None:
            # The worker gets an empty context: its batches belong to several calls, not to the call that starts it.
            self._worker = asyncio.get_running_loop().create_task(self._work(), context=Context())
        return await answer

    async def _work(self) -> None:
        try:
            while batch := self._next():
                await self._run_batch(batch)
        finally:
            self._worker = None

    def _next(self) -> list[tuple[Item, asyncio.Future[Answer]]]:
        """The items that have waited longest, without those of cancelled callers: after an outage these are many."""
        batch: list[tuple[Item, asyncio.Future[Answer]]] = []
        while self._waiting and len(batch) < self._size:
            waiting = self._waiting.popleft()
            if not waiting[1].cancelled():
                batch.append(waiting)
        return batch

    async def _run_batch(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        answers: Sequence[Answer | Exception]
        try:
            answers = await self._run([item for item, _ in batch])
        except Exception as error:
            answers = [error] * len(batch)
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.cancelled():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
