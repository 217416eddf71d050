"""Faults injected while a block runs. Each is counted in the tally; after the block everything is healthy."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from deploy.local.process import family
from deploy.local.stack import Stack
from tests.faults.harness.scenario import NotPossible, Run, Tally

# An interval varies randomly between this part of it and as much above it.
_SHORTEST = 0.6
# How long to wait (seconds) until programs serve again. Generous, for a busy machine; the product promises less.
_READY_SECONDS = 180.0


@asynccontextmanager
async def killing(
    run: Run, names: Sequence[str], every: float, tally: Tally, *, down: float = 0.0
) -> AsyncIterator[None]:
    """SIGKILL one of `names` in turn, about every `every` seconds; it restarts after `down` seconds.

    All processes of Postgres are killed. At the end all programs serve.
    """

    async def kill(name: str) -> None:
        await run.stack.hold(name)
        tally.faults += 1
        run.say(f"killed {name}")
        await asyncio.sleep(down)
        run.stack.release(name)

    async with _repeated(run, names, every, kill):
        yield


@asynccontextmanager
async def pausing(
    run: Run, names: Sequence[str], every: float, tally: Tally, *, seconds: float
) -> AsyncIterator[None]:
    """SIGSTOP one of `names` in turn, about every `every` seconds, for `seconds`."""

    async def pause(name: str) -> None:
        with contextlib.suppress(ProcessLookupError), paused(run.stack, name):
            tally.faults += 1
            run.say(f"paused {name}")
            await asyncio.sleep(seconds)

    async with _repeated(run, names, every, pause):
        yield


@contextmanager
def paused(stack: Stack, name: str) -> Iterator[None]:
    """Stop a program and its children while the block runs. ProcessLookupError if it is down."""
    pid = stack.pid(name)
    os.kill(pid, signal.SIGSTOP)
    members = family(pid)
    try:
        signal_all(members, signal.SIGSTOP)
        yield
    finally:
        signal_all(members, signal.SIGCONT)


def signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


async def roll(run: Run, name: str, tally: Tally) -> None:
    """Stop a program with SIGTERM, as a deploy does, and start its successor; return when it serves."""
    tally.faults += 1
    run.say(f"rolling {name}")
    await run.stack.hold(name, signal.SIGTERM)
    run.stack.release(name)
    await run.stack.wait_ready(name, _READY_SECONDS)


async def restore(stack: Stack, seconds: float = _READY_SECONDS) -> list[str]:
    """Release held programs, continue paused ones, and wait. Returns the names of those not serving in time."""
    for name in stack.held():
        stack.release(name)
    for process in stack.processes:
        if process.pid is not None:
            signal_all(family(process.pid), signal.SIGCONT)
    give_up = time.monotonic() + seconds
    missing = []
    for process in stack.processes:
        try:
            await stack.wait_ready(process.program.name, max(0.1, give_up - time.monotonic()))
        except TimeoutError:
            missing.append(process.program.name)
    return missing


@contextmanager
def limited_disk(folder: Path, size: int) -> Iterator[None]:
    """Put `folder` on a disk (tmpfs) of `size` bytes while the block runs. NotPossible if mounting isn't permitted."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        raise NotPossible(
            f"a disk of limited size can't be mounted here: {reason.strip()}"
        ) from error
    try:
        yield
    finally:
        # Lazily, because a process may still have a file open there.
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


@contextmanager
def filled_disk(folder: Path) -> Iterator[None]:
    """Fill up the disk of `folder`, made by `limited_disk`, while the block runs."""
    filler = folder / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            # Write in smaller and smaller pieces, until the disk's last page is full.
            for size in (1 << 20, 1 << 12):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)):
                        pass
        yield
    finally:
        filler.unlink(missing_ok=True)


@asynccontextmanager
async def _repeated(
    run: Run, names: Sequence[str], every: float, fault: Callable[[str], Awaitable[None]]
) -> AsyncIterator[None]:
    async def repeat() -> None:
        while True:
            order = list(names)
            run.random.shuffle(order)
            for name in order:
                await asyncio.sleep(every * run.random.uniform(_SHORTEST, 2 - _SHORTEST))
                await fault(name)

    task = asyncio.create_task(repeat(), name="faults")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        for name in names:
            if name in run.stack.held():
                run.stack.release(name)
        for name in names:
            await run.stack.wait_ready(name, _READY_SECONDS)
