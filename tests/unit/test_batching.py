"""Promises of the batcher: no caller waits needlessly, and each caller gets its own answer."""

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar

import pytest

from services.platform.rpc.batching import Batcher

_who: ContextVar[str] = ContextVar("who", default="nobody")


class Runs:
    """A batch function that blocks until released. It squares positives, refuses zero and crashes on negatives."""

    def __init__(self, *, held: bool = False) -> None:
        self.seen: list[list[int]] = []
        self.callers: list[str] = []
        self.go = asyncio.Event()
        if not held:
            self.go.set()

    async def __call__(self, items: Sequence[int]) -> list[int | Exception]:
        self.seen.append(list(items))
        self.callers.append(_who.get())
        await self.go.wait()
        if min(items) < 0:
            raise RuntimeError("broken")
        return [item * item if item else ValueError("zero") for item in items]


async def test_a_single_caller_runs_at_once_in_a_batch_of_its_own() -> None:
    runs = Runs()
    batcher = Batcher(runs, size=10)
    assert [await batcher(n) for n in (1, 2, 3)] == [1, 4, 9]
    assert runs.seen == [[1], [2], [3]]


async def test_callers_that_arrive_during_a_run_share_the_next_batch_in_order() -> None:
    runs = Runs(held=True)
    batcher = Batcher(runs, size=3)
    first = asyncio.create_task(batcher(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    others = [asyncio.create_task(batcher(n)) for n in range(2, 7)]
    await asyncio.sleep(0)
    runs.go.set()
    assert await asyncio.gather(first, *others) == [1, 4, 9, 16, 25, 36]
    assert runs.seen == [[1], [2, 3, 4], [5, 6]]


async def test_a_refused_item_fails_only_its_own_caller() -> None:
    batcher = Batcher(Runs(), size=10)
    answers = await asyncio.gather(*(batcher(n) for n in (2, 0, 3)), return_exceptions=True)
    assert answers[0] == 4
    assert isinstance(answers[1], ValueError)
    assert answers[2] == 9


async def test_a_crashed_run_fails_all_callers_of_its_batch_and_no_others() -> None:
    batcher = Batcher(Runs(), size=2)
    answers = await asyncio.gather(*(batcher(n) for n in (1, -1, 2)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [RuntimeError, RuntimeError, int]
    assert await batcher(5) == 25


async def test_a_cancelled_caller_does_not_cancel_the_batch() -> None:
    runs = Runs(held=True)
    batcher = Batcher(runs, size=10)
    calls = [asyncio.create_task(batcher(n)) for n in (1, 2)]
    await asyncio.sleep(0.01)
    calls[0].cancel()
    runs.go.set()
    assert await calls[1] == 4
    with pytest.raises(asyncio.CancelledError):
        await calls[0]


async def test_a_batch_runs_outside_the_context_of_the_call_that_started_it() -> None:
    runs = Runs()
    batcher = Batcher(runs, size=10)
    _who.set("somebody")
    await batcher(1)
    assert runs.callers == ["nobody"]


async def test_a_caller_cancelled_before_the_batch_starts_is_left_out() -> None:
    runs = Runs(held=True)
    batcher = Batcher(runs, size=2)
    first = asyncio.create_task(batcher(1))
    await asyncio.sleep(0.01)
    waiting = [asyncio.create_task(batcher(n)) for n in range(2, 9)]
    await asyncio.sleep(0)
    for call in waiting[:-1]:
        call.cancel()
    await asyncio.sleep(0)
    runs.go.set()
    assert [await first, await waiting[-1]] == [1, 64]
    assert runs.seen == [[1], [8]]
