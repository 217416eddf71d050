"""Calls functions on users' texts in a child process, so that a slow text blocks neither the event loop nor others.

A thread would not do: a regular expression holds the interpreter lock until it ends, and nothing can stop it.
"""

from __future__ import annotations

import asyncio
import pickle
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar, TypeVarTuple, cast

import structlog

from services.platform.turns import Turns
from workflows.enrichment.text_child import LENGTH, OVERRUN

log = structlog.get_logger()

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

# If something else killed the child, the text may be harmless, so a second child gets the text.
_TRIES: Final = 2
# The budget is processor time. On a busy machine the child may take this many times the budget by the clock.
_CLOCK_FACTOR: Final = 20.0


class UnreadableText(Exception):
    """Raised when a text used up its budget, or ended two children. The message quotes nothing of the text."""


class TextProcess:
    """Starts a child with the first text, and another one when it has ended. A child ends with its parent.

    `seconds` is the processor time that one text may take.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._child: Process | None = None
        self._turns = Turns(1)

    async def call(
        self, workspace: str, function: Callable[[*Arguments], Result], *arguments: *Arguments
    ) -> Result:
        """`function(*arguments)`, one call at a time; workspaces with waiting texts take turns.

        The function has to be importable, and arguments and result picklable. Raises `UnreadableText`, and the
        exceptions of the function.
        """
        frame = pickle.dumps((function, arguments))
        async with self._turns.hold((workspace,)):
            answer = await self._exchange(frame)
        succeeded, result = pickle.loads(answer)
        if not succeeded:
            raise result
        return cast(Result, result)

    async def close(self) -> None:
        """Ends the child after its current text."""
        async with self._turns.hold(("",)):
            await self._end()

    async def _exchange(self, frame: bytes) -> bytes:
        for _ in range(_TRIES):
            child = self._child = self._child or await self._start()
            try:
                async with asyncio.timeout(_CLOCK_FACTOR * self._seconds):
                    return await _request(child, frame)
            except (asyncio.IncompleteReadError, ConnectionError):
                # The pipe broke, because the child process has ended.
                pass
            except TimeoutError:
                await self._end()
                raise self._overrun() from None
            except BaseException:
                # The caller cancelled this text. End the child, because the next text would get the answer to this one.
                await self._end()
                raise
            self._child = None
            await _reap(child)
            if child.returncode == -OVERRUN:
                raise self._overrun()
            log.warning("the process that reads texts ended", status=child.returncode)
        raise UnreadableText("the text can't be read")

    def _overrun(self) -> UnreadableText:
        log.warning("a text took too long to read", budget_seconds=self._seconds)
        return UnreadableText("the text takes too long to read")

    async def _start(self) -> Process:
        command = (sys.executable, "-m", "workflows.enrichment.text_child", str(self._seconds))
        return await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)

    async def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            with suppress(ProcessLookupError):
                child.kill()
            await _reap(child)


async def _reap(child: Process) -> None:
    """Waits for the child's end and closes its pipes."""
    await child.communicate(b"")


async def _request(child: Process, frame: bytes) -> bytes:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(LENGTH.pack(len(frame)) + frame)
    await child.stdin.drain()
    (length,) = LENGTH.unpack(await child.stdout.readexactly(LENGTH.size))
    return await child.stdout.readexactly(length)
