"""Background loops end when the main task of the process ends."""

import asyncio
from contextlib import suppress

import pytest

from services.platform.background import run_background


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
