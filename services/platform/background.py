"""Background loops, which end with the main task and go on after failures; and the signals that end a process."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

import structlog

from services.platform.observe.redaction import describe
from services.platform.rpc.errors import is_unavailable

log = structlog.get_logger()


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


async def work_off(work: str, step: Callable[[], Awaitable[float]], idle: float) -> None:
    """Does background work in small steps for ever; the log calls it `work`.

    `step` returns the pause (seconds) before the next step, or 0 when nothing was left to do. Then, and after a
    failure, the pause is `idle` (seconds).
    """
    pause = idle
    while True:
        await asyncio.sleep(pause)
        try:
            pause = await step() or idle
        except Exception as error:
            pause = idle
            if is_unavailable(error):
                log.warning("background work waits", work=work, error=describe(error))
            else:
                # Not raised, so that the process serves its calls, and the next step may succeed.
                log.error("background work waits", work=work, exc_info=error)
