"""What goes on beside the work of a process, for as long as that lasts."""

import asyncio
from collections.abc import Coroutine, Sequence
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
            # Libraries swallow a cancellation now and then, such as nats-py's publish_async.
            for task in unfinished:
                task.cancel()
            _, unfinished = await asyncio.wait(unfinished, timeout=patience)
        await asyncio.gather(main, *tasks, return_exceptions=True)
