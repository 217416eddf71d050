"""A connection pooler in front of PostgreSQL, as clients see it: it drops options and hides the process id."""

import asyncio
import itertools
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_PROTOCOL_3 = 196_608


@asynccontextmanager
async def a_pooler(port: int, served: int | None = None) -> AsyncIterator[int]:
    """The port of a pooler in front of the PostgreSQL on `port`, set to ignore the startup parameter `options`.

    After the first `served` connections, further ones get no answer.
    """
    connections = itertools.count(1)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if served is not None and next(connections) > served:
            return
        with suppress(OSError, asyncio.IncompleteReadError):
            startup = await _startup(reader, writer)
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
            up_writer.write(startup)
            await asyncio.gather(_copy(reader, up_writer), _answers(up_reader, writer))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()


async def _startup(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The client's startup message without its options. Refuses requests for encryption before it."""
    while True:
        size, code = struct.unpack("!ii", await reader.readexactly(8))
        rest = await reader.readexactly(size - 8)
        if code == _PROTOCOL_3:
            break
        writer.write(b"N")
    words = rest.split(b"\0")
    pairs = zip(words[0::2], words[1::2], strict=False)
    kept = b"".join(
        name + b"\0" + value + b"\0" for name, value in pairs if name not in (b"", b"options")
    )
    return struct.pack("!ii", len(kept) + 9, _PROTOCOL_3) + kept + b"\0"


async def _answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Passes the server's messages on, with another process id in BackendKeyData."""
    kind = b""
    while kind != b"Z":
        kind = await reader.readexactly(1)
        (size,) = struct.unpack("!i", await reader.readexactly(4))
        body = await reader.readexactly(size - 4)
        if kind == b"K":
            (pid,) = struct.unpack("!i", body[:4])
            body = struct.pack("!i", pid + 1) + body[4:]
        writer.write(kind + struct.pack("!i", size) + body)
        # The client continues the login.
        await writer.drain()
    await _copy(reader, writer)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
