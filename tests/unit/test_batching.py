"""Promises of a batcher: nobody waits who needn't, and everyone gets their own answer."""

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar

import pytest

from services.platform.batching import Batcher

_who: ContextVar[str] = ContextVar("who", default="nobody")


class Runs:
    """A run that lasts until it's let go; squares what is positive, refuses what is zero, breaks down on the rest."""

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


async def test_who_comes_alone_runs_alone_and_at_once() -> None:
    runs = Runs()
    batcher = Batcher(runs, size=10)
    assert [await batcher(n) for n in (1, 2, 3)] == [1, 4, 9]
    assert runs.seen == [[1], [2], [3]]


async def test_what_comes_meanwhile_runs_together_in_order() -> None:
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


async def test_a_refusal_is_only_for_the_one_it_is_about() -> None:
    batcher = Batcher(Runs(), size=10)
    answers = await asyncio.gather(*(batcher(n) for n in (2, 0, 3)), return_exceptions=True)
    assert answers[0] == 4
    assert isinstance(answers[1], ValueError)
    assert answers[2] == 9


async def test_a_run_that_breaks_down_fails_all_of_its_own_and_no_others() -> None:
    batcher = Batcher(Runs(), size=2)
    answers = await asyncio.gather(*(batcher(n) for n in (1, -1, 2)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [RuntimeError, RuntimeError, int]
    assert await batcher(5) == 25


async def test_who_is_cancelled_takes_nobody_along() -> None:
    runs = Runs(held=True)
    batcher = Batcher(runs, size=10)
    calls = [asyncio.create_task(batcher(n)) for n in (1, 2)]
    await asyncio.sleep(0.01)
    calls[0].cancel()
    runs.go.set()
    assert await calls[1] == 4
    with pytest.raises(asyncio.CancelledError):
        await calls[0]


async def test_a_run_is_no_part_of_the_call_that_began_it() -> None:
    runs = Runs()
    batcher = Batcher(runs, size=10)
    _who.set("somebody")
    await batcher(1)
    assert runs.callers == ["nobody"]


async def test_who_is_gone_before_the_run_begins_is_not_in_it() -> None:
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
