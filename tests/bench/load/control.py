"""The commands from the runner to a load process, one per line."""

import asyncio
import os
import sys
from typing import Self


class Control:
    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    @classmethod
    async def on_stdin(cls) -> Self:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=2**27)
        stdin = os.fdopen(sys.stdin.fileno(), "rb", closefd=False)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), stdin)
        return cls(reader)

    async def line(self) -> str:
        """The next command line. Raises EOFError when the runner has ended."""
        line = await self._reader.readline()
        if not line:
            raise EOFError
        return line.decode().strip()

    async def start(self) -> None:
        """Report `ready` and wait for `go`."""
        print("ready", flush=True)
        await self.line()

    async def stopped(self) -> None:
        """Wait for `stop`."""
        await self.line()
