"""What goes on beside the work of a process ends with it."""

import asyncio
from contextlib import suppress

import pytest

from services.platform.loops import beside


async def test_a_loop_ends_that_loses_a_cancellation() -> None:
    ended = asyncio.Event()

    async def deaf() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with asyncio.timeout(5):
        await beside([deaf()], asyncio.sleep(0.01), patience=0.05)
    assert ended.is_set()


async def test_a_loop_that_fails_ends_the_work() -> None:
    async def failing() -> None:
        raise RuntimeError("no more")

    async def work() -> None:
        await asyncio.Event().wait()

    async with asyncio.timeout(5):
        with pytest.raises(RuntimeError, match="no more"):
            await beside([failing()], work())
