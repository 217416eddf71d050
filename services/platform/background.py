"""Background loops, cancelled when the main task ends; and the signals that end it."""

import asyncio
import signal
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any


def stop_signal() -> asyncio.Event:
    """An event that SIGTERM or SIGINT sets."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def run_background(
    loops: Sequence[Coroutine[Any, Any, None]],
    work: Coroutine[Any, Any, object],
    *,
    patience: float = 1.0,
) -> None:
    """Runs the loops until `work` ends. A loop that fails ends `work` too: the process exits and is restarted.

    At the end the loops are cancelled. A loop that is still running `patience` seconds later is cancelled again.
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
            # A cancellation can get lost: nats-py's publish_async swallows it, and so does asyncio.wait_for when its
            # awaitable finishes at the same moment (Python 3.11).
            for task in unfinished:
                task.cancel()
            # A second cancellation of this function changes nothing: the tasks are already cancelled.
            with suppress(asyncio.CancelledError):
                _, unfinished = await asyncio.wait(unfinished, timeout=patience)
        await asyncio.gather(main, *tasks, return_exceptions=True)
