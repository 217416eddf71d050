"""Background loops end when the main task of the process ends."""

import asyncio
from contextlib import suppress

import pytest

from services.platform.background import run_background, work_off


async def test_a_background_loop_that_swallows_a_cancellation_is_cancelled_again() -> None:
    ended = asyncio.Event()

    async def deaf() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with asyncio.timeout(5):
        await run_background([deaf()], asyncio.sleep(0.01), patience=0.05)
    assert ended.is_set()


async def test_a_failing_background_loop_ends_the_main_task() -> None:
    async def failing() -> None:
        raise RuntimeError("no more")

    async def work() -> None:
        await asyncio.Event().wait()

    async with asyncio.timeout(5):
        with pytest.raises(RuntimeError, match="no more"):
            await run_background([failing()], work())


async def test_work_in_steps_goes_on_after_a_failure_and_pauses_as_each_step_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    answers: list[float | Exception] = [0.2, RuntimeError("once"), 0, 0.3]

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def step() -> float:
        if not answers:
            raise asyncio.CancelledError
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("services.platform.background.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await work_off("tests", step, 7.0)
    assert pauses == [7.0, 0.2, 7.0, 7.0, 0.3]
