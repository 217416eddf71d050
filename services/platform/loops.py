"""What goes on beside the work of a process, for as long as that lasts."""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any


async def beside(
    loops: Sequence[Coroutine[Any, Any, None]],
    work: Coroutine[Any, Any, object],
    *,
    patience: float = 1.0,
) -> None:
    """Runs `work` to its end with the loops beside it. A loop that fails ends the process, to be restarted.

    At the end the loops are cancelled, and those that go on for `patience` (seconds) are cancelled again.
    """
    tasks = [asyncio.ensure_future(loop) for loop in loops]
    main = asyncio.ensure_future(work)
    try:
        pending: set[asyncio.Future[Any]] = {main, *tasks}
        while not main.done():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        unfinished: set[asyncio.Future[Any]] = {main, *tasks}
        while unfinished:
            # A cancellation is lost now and then: nats-py's publish_async swallows it, and so does asyncio.wait_for
            # when what it waits for comes at that moment (Python 3.11).
            for task in unfinished:
                task.cancel()
            # Somebody who cancels us again wants what is under way.
            with suppress(asyncio.CancelledError):
                _, unfinished = await asyncio.wait(unfinished, timeout=patience)
        await asyncio.gather(main, *tasks, return_exceptions=True)
