"""Starts and controls load processes and echo servers."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
_LONGEST_LINE = 2**27
_READY_SECONDS = 120


class Remote:
    """A process that follows the protocol of load/control.py."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    async def _read(self) -> str:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("a load process ended without a result; its error is above")
        return line.decode().strip()

    async def prepare(self, spec: dict[str, Any]) -> None:
        self._say(json.dumps(spec))
        async with asyncio.timeout(_READY_SECONDS):
            answer = await self._read()
        if answer != "ready":
            raise RuntimeError(f"a load process said {answer[:100]!r} instead of being ready")

    def go(self) -> None:
        self._say("go")

    def stop(self) -> None:
        self._say("stop")

    async def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self._read())
        return found


@asynccontextmanager
async def started(module: str, *specs: dict[str, Any]) -> AsyncIterator[list[Remote]]:
    """Starts a process of `module` for each spec. Yields once all are prepared, and ends them with the block."""
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=_ROOT,
            limit=_LONGEST_LINE,
        )
        for _ in specs
    ]
    try:
        remotes = [Remote(process) for process in processes]
        await asyncio.gather(
            *(remote.prepare(spec) for remote, spec in zip(remotes, specs, strict=True))
        )
        yield remotes
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def load(*specs: dict[str, Any]) -> list[dict[str, Any]]:
    """Run a load process for each spec, all at once, to their end. Raises if an answer was wrong."""
    async with started("tests.bench.load", *specs) as remotes:
        for remote in remotes:
            remote.go()
        found = await asyncio.gather(*(remote.result() for remote in remotes))
    check(*found)
    return found


def check(*found: dict[str, Any]) -> None:
    """Raise if the results contain wrong answers, or streams that ended or had gaps."""
    for result in found:
        for what in ("failed", "missing", "ended", "holes", "repeated"):
            if result.get(what):
                raise RuntimeError(f"the measurement is void: {result[what]} {what}")


@asynccontextmanager
async def echoing(spec: dict[str, Any]) -> AsyncIterator[None]:
    """Run the echo server at spec["address"] while the block runs."""
    async with started("tests.bench.echo_server", spec) as [remote]:
        remote.go()
        yield
        remote.stop()
