"""A TCP proxy between client and server that simulates a bad network."""

import asyncio
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

Direction = Literal["both", "requests", "responses"]

_CHUNK_BYTES = 64 * 1024
# Small buffers here and in the kernel, so that a server soon notices a client that doesn't read.
_BUFFER_BYTES = 64 * 1024
_FRAME_HEADER_BYTES = 9
_DATA, _HEADERS, _CONTINUATION = 0x0, 0x1, 0x9
_END_STREAM = 0x1
# Type, flags and stream number of the SETTINGS frame that an HTTP/2 server sends first.
_FIRST_FRAME = b"\x04\x00\x00\x00\x00\x00"
# SO_LINGER on, 0 s: close sends RST.
_RESET = struct.pack("ii", 1, 0)


@dataclass
class _Mode:
    delay: float = 0.0
    rate: float = 0.0
    stopped: frozenset[str] = frozenset()
    cut_after: int | None = None
    refusing: bool = False
    dropping: bool = False


@dataclass(eq=False)
class _Connection:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    task: asyncio.Task[None]
    # Response bytes forwarded since the connection opened.
    passed: int = 0
    # Whether the server's first bytes show that it speaks HTTP/2.
    http2: bool | None = None
    # Nothing more is forwarded, in either direction.
    silent: bool = False
    # Responses were dropped, so client and server no longer agree about the connection's state.
    spoilt: bool = False
    # HTTP/2 streams whose response had a message.
    answered: set[int] = field(default_factory=set)

    def reset(self) -> None:
        for writer in (self.client, self.server):
            with suppress(OSError):
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, _RESET
                )
            writer.transport.abort()
        self.task.cancel()


class Proxy:
    """Forwards connections to `target_port` in a mode that can be changed while they are open.

        async with Proxy("127.0.0.1", settings.gateway_port) as proxy:
            channel = grpc.aio.insecure_channel(proxy.address)
            proxy.drop_responses()

    Each mode replaces the previous one. `dropped` counts dropped responses that carried a message.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self._target = (target_host, target_port)
        self._mode = _Mode()
        self._changed = asyncio.Event()
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.dropped = 0

    async def __aenter__(self) -> Self:
        listening = socket.create_server(("127.0.0.1", 0))
        _shrink(listening)
        self._server = await asyncio.start_server(
            self._accepted, sock=listening, limit=_BUFFER_BYTES
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return len(self._connections)

    def pass_(self) -> None:
        """Forward everything at once. Connections that lost responses are reset, as they are unusable."""
        self._become(_Mode())

    def delay(self, seconds: float) -> None:
        """Delay every chunk by this long, in each direction."""
        self._become(_Mode(delay=seconds))

    def rate(self, bytes_per_second: float) -> None:
        """Limit the bytes per second of each connection, in each direction."""
        self._become(_Mode(rate=bytes_per_second))

    def stop_reading(self, direction: Direction = "both") -> None:
        """Stop reading from the sockets, which blocks their senders. "responses" simulates a stalled reader."""
        ways = ("requests", "responses") if direction == "both" else (direction,)
        self._become(_Mode(stopped=frozenset(ways)))

    def cut_after(self, count: int) -> None:
        """Reset each connection after its first `count` response bytes."""
        self._become(_Mode(cut_after=count))

    def drop_responses(self) -> None:
        """Forward requests and drop responses, so that calls are executed and never answered.

        HTTP/2 pings, settings and window updates pass, so the connection looks alive.
        """
        self._become(_Mode(dropping=True))

    def silence(self) -> None:
        """Forward nothing more on the open connections, without closing them. New connections work."""
        for connection in self._connections:
            connection.silent = True

    def refuse(self) -> None:
        """Reset all open and all new connections."""
        self._become(_Mode(refusing=True))
        self.reset()

    def reset(self) -> None:
        """Reset all open connections (RST) once, without changing the mode."""
        for connection in list(self._connections):
            connection.reset()

    def _become(self, mode: _Mode) -> None:
        self._mode = mode
        if not mode.dropping:
            for connection in [c for c in self._connections if c.spoilt]:
                connection.reset()
        self._changed.set()
        self._changed = asyncio.Event()

    async def _accepted(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            if not self._mode.refusing:
                await self._serve(reader, client, task)
        except (OSError, asyncio.CancelledError):
            # The client or the server closed or reset the connection, which this proxy expects.
            pass
        finally:
            client.transport.abort()

    async def _serve(
        self,
        reader: asyncio.StreamReader,
        client: asyncio.StreamWriter,
        task: asyncio.Task[None],
    ) -> None:
        upstream, server = await self._connect()
        connection = _Connection(client, server, task)
        self._connections.add(connection)
        for writer in (client, server):
            writer.transport.set_write_buffer_limits(high=_BUFFER_BYTES)
        pumps = [
            asyncio.create_task(self._requests(connection, reader)),
            asyncio.create_task(self._responses(connection, upstream, client)),
        ]
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            self._connections.discard(connection)
            server.transport.abort()
            await asyncio.gather(*pumps, return_exceptions=True)
        for pump in done:
            pump.result()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        family = socket.AF_INET6 if ":" in self._target[0] else socket.AF_INET
        upstream = socket.socket(family, socket.SOCK_STREAM)
        try:
            _shrink(upstream)
            upstream.setblocking(False)
            await asyncio.get_running_loop().sock_connect(upstream, self._target)
            return await asyncio.open_connection(sock=upstream, limit=_BUFFER_BYTES)
        except BaseException:
            upstream.close()
            raise

    async def _requests(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        while chunk := await self._read(connection, reader, "requests"):
            await self._forward(chunk, connection.server)

    async def _responses(
        self, connection: _Connection, reader: asyncio.StreamReader, client: asyncio.StreamWriter
    ) -> None:
        """Forward HTTP/2 frame by frame; the mode may change between any two frames."""
        pending = b""
        while chunk := await self._read(connection, reader, "responses"):
            if connection.http2 is None:
                connection.http2 = chunk[3:9] == _FIRST_FRAME
            frames, pending = _frames(pending + chunk) if connection.http2 else ([chunk], b"")
            kept = b"".join(frame for frame in frames if not self._swallowed(connection, frame))
            connection.passed += len(kept)
            limit = self._mode.cut_after
            if limit is not None and connection.passed >= limit:
                connection.reset()
                return
            if kept:
                await self._forward(kept, client)

    def _swallowed(self, connection: _Connection, frame: bytes) -> bool:
        if not self._mode.dropping:
            return False
        connection.spoilt = True
        if not connection.http2:
            return True
        kind, flags = frame[3], frame[4]
        if kind not in (_DATA, _HEADERS, _CONTINUATION):
            return False
        number = int.from_bytes(frame[5:9], "big")
        if kind == _DATA:
            connection.answered.add(number)
        if flags & _END_STREAM and kind != _CONTINUATION and number in connection.answered:
            connection.answered.discard(number)
            self.dropped += 1
        return True

    async def _read(self, connection: _Connection, reader: asyncio.StreamReader, way: str) -> bytes:
        while way in self._mode.stopped:
            await self._changed.wait()
        chunk = await reader.read(_CHUNK_BYTES)
        # The bytes may have arrived before the mode changed.
        while way in self._mode.stopped or connection.silent:
            await self._changed.wait()
        return chunk

    async def _forward(self, chunk: bytes, writer: asyncio.StreamWriter) -> None:
        mode = self._mode
        if mode.delay:
            await asyncio.sleep(mode.delay)
        if mode.rate:
            await asyncio.sleep(len(chunk) / mode.rate)
        writer.write(chunk)
        await writer.drain()


def _shrink(of: socket.socket) -> None:
    for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        of.setsockopt(socket.SOL_SOCKET, buffer, _BUFFER_BYTES)


def _frames(received: bytes) -> tuple[list[bytes], bytes]:
    """The complete HTTP/2 frames in the bytes, and the incomplete rest."""
    frames = []
    at = 0
    while len(received) - at >= _FRAME_HEADER_BYTES:
        size = _FRAME_HEADER_BYTES + int.from_bytes(received[at : at + 3], "big")
        if len(received) - at < size:
            break
        frames.append(received[at : at + size])
        at += size
    return frames, received[at:]
