"""Calls functions on people's texts in a child process, so that a slow text stops neither the event loop nor others.

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

from workflows.text_child import LENGTH, OVERRUN
from workflows.turns import Turns

log = structlog.get_logger()

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

# A child that is ended from outside says nothing about the text, so the text gets a second one.
_TRIES: Final = 2
# The budget is processor time. On a busy machine the child may take this many times as long by the clock.
_CLOCK: Final = 20.0


class UnreadableText(Exception):
    """A text used up its budget, or two children ended over it. The message quotes nothing of the text."""


class TextProcess:
    """One child, started at the first text and replaced when it ends. It ends by itself when this process does.

    `seconds` is the processor time that one text may take.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._child: Process | None = None
        self._turns = Turns()

    async def call(
        self, workspace: str, function: Callable[[*Arguments], Result], *arguments: *Arguments
    ) -> Result:
        """`function(*arguments)`, one at a time; workspaces whose texts wait take turns.

        The function is one that can be imported; arguments and result can be pickled. Raises `UnreadableText`, and
        what the function raises.
        """
        frame = pickle.dumps((function, arguments))
        async with self._turns.turn(workspace):
            answer = await self._exchange(frame)
        succeeded, result = pickle.loads(answer)
        if not succeeded:
            raise result
        return cast(Result, result)

    async def close(self) -> None:
        """End the child, after the text that it reads."""
        async with self._turns.turn(""):
            await self._end()

    async def _exchange(self, frame: bytes) -> bytes:
        for _ in range(_TRIES):
            child = self._child = self._child or await self._start()
            try:
                async with asyncio.timeout(_CLOCK * self._seconds):
                    return await _ask(child, frame)
            except (asyncio.IncompleteReadError, ConnectionError):
                # The child has ended.
                pass
            except TimeoutError:
                await self._end()
                raise self._overrun() from None
            except BaseException:
                # Cancelled. The answer that is still to come would be taken for the next text's.
                await self._end()
                raise
            self._child = None
            await _bury(child)
            if child.returncode == -OVERRUN:
                raise self._overrun()
            log.warning("the process that reads texts ended", status=child.returncode)
        raise UnreadableText("the text can't be read")

    def _overrun(self) -> UnreadableText:
        log.warning("a text took too long to read", budget_seconds=self._seconds)
        return UnreadableText("the text takes too long to read")

    async def _start(self) -> Process:
        command = (sys.executable, "-m", "workflows.text_child", str(self._seconds))
        return await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)

    async def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            with suppress(ProcessLookupError):
                child.kill()
            await _bury(child)


async def _bury(child: Process) -> None:
    """Wait for the child's end and close its pipes."""
    await child.communicate(b"")


async def _ask(child: Process, frame: bytes) -> bytes:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(LENGTH.pack(len(frame)) + frame)
    await child.stdin.drain()
    (length,) = LENGTH.unpack(await child.stdout.readexactly(LENGTH.size))
    return await child.stdout.readexactly(length)
