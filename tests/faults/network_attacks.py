"""`python -m tests.faults.network_attacks`: attacks on a port, run in a separate process.

Standard input: a line of JSON for each attack with `attack`, `host`, `port`, `amount` and `seconds`. Standard output: a
line of JSON for each attack with `sent`, `connections`, `closed` and `refused`. The last two count connections: the
server closed the first kind. It kept the second kind open, but sent a frame that refuses.
"""

import asyncio
import contextlib
import json
import random
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

from tests.faults import http2_frames
from tests.faults.http2_frames import frame

_PATH = "/taskflow.task.v1.TaskService/GetTask"
# The start of a TLS 1.2 ClientHello, enough for a server to recognize it.
_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(189)
# Frames that refuse a call: its status, or the end of the stream or the connection.
_REFUSALS = {http2_frames.HEADERS, http2_frames.RST_STREAM, http2_frames.GOAWAY}
# How many calls `rapid_resets` starts on one connection.
_RESETS = 2000
# How many frames an attack sends in one write, or how many calls at once.
_BATCH = 100
# Pause (seconds) in which the server can answer these calls.
_PAUSE = 0.2


@dataclass
class AttackResult:
    sent: int = 0
    connections: int = 0
    closed: int = 0
    refused: int = 0


@dataclass(frozen=True)
class Attack:
    host: str
    port: int
    # How many frames, calls or connections the attack sends or opens.
    amount: int
    # How long the attack keeps its connections open.
    seconds: float
    result: AttackResult
    chance: random.Random

    @property
    def call(self) -> bytes:
        return http2_frames.call(_PATH, f"{self.host}:{self.port}")


class Peer:
    """One connection. Everything that the server sends is read, so that it never blocks on us."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.gone = asyncio.Event()
        # Set when the server closed the connection or refused a call.
        self.over = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await self._reader.readexactly(http2_frames.HEAD)
                length, kind = http2_frames.head(head)
                if kind in _REFUSALS:
                    self.over.set()
                await self._reader.readexactly(length)
        self.gone.set()
        self.over.set()

    async def send(self, data: bytes) -> bool:
        """Sends bytes; returns False once the server has closed the connection."""
        if self.gone.is_set():
            return False
        try:
            self.writer.write(data)
            await self.writer.drain()
        except OSError:
            self.gone.set()
        return not self.gone.is_set()

    async def stay(self, seconds: float, until: asyncio.Event | None = None) -> None:
        """Stay connected for this long, or until the server closes."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for((until or self.gone).wait(), seconds)

    async def close(self) -> None:
        self._reading.cancel()
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@asynccontextmanager
async def connected(attack: Attack, begin: bytes = b"") -> AsyncIterator[Peer]:
    attack.result.connections += 1
    try:
        reader, writer = await asyncio.open_connection(attack.host, attack.port)
    except OSError:
        attack.result.refused += 1
        raise
    peer = Peer(reader, writer)
    try:
        await peer.send(begin)
        yield peer
    finally:
        attack.result.closed += peer.gone.is_set()
        attack.result.refused += peer.over.is_set() and not peer.gone.is_set()
        await peer.close()


async def rapid_resets(attack: Attack) -> None:
    """Calls that are reset by the next frame."""
    give_up = struct.pack(">I", http2_frames.CANCEL)
    header = attack.call

    async def one() -> None:
        async with connected(attack, http2_frames.greeting()) as peer:
            for begin in range(1, 2 * _RESETS, 2 * _BATCH):
                batch = b"".join(
                    frame(http2_frames.HEADERS, http2_frames.END_HEADERS, stream, header)
                    + frame(http2_frames.RST_STREAM, 0, stream, give_up)
                    for stream in range(begin, begin + 2 * _BATCH, 2)
                )
                attack.result.sent += _BATCH
                if not await peer.send(batch):
                    return
            await peer.stay(attack.seconds)

    await asyncio.gather(*(one() for _ in range(attack.amount // _RESETS)))


async def half_open_streams(attack: Attack) -> None:
    """Calls whose message is never sent."""
    await _begun(attack, http2_frames.END_HEADERS, attack.call)


async def endless_headers(attack: Attack) -> None:
    """Header blocks that never end."""
    await _begun(attack, 0, attack.call, streams=1)


async def _begun(attack: Attack, flags: int, header: bytes, streams: int = 1000) -> None:
    async def one(count: int) -> None:
        async with connected(attack, http2_frames.greeting()) as peer:
            for stream in range(1, 2 * count, 2):
                attack.result.sent += 1
                if not await peer.send(frame(http2_frames.HEADERS, flags, stream, header)):
                    return
            await peer.stay(attack.seconds)

    full, rest = divmod(attack.amount, streams)
    await asyncio.gather(*(one(count) for count in [streams] * full + [rest] * bool(rest)))


async def oversized_headers(attack: Attack) -> None:
    """A mebibyte of headers, again and again."""
    junk = http2_frames.block([("x-junk", "x" * 16_000)])
    while attack.result.sent < attack.amount:
        async with connected(attack, http2_frames.greeting()) as peer:
            await peer.send(frame(http2_frames.HEADERS, 0, 1, attack.call))
            for rest in reversed(range(64)):
                attack.result.sent += 1
                ended = 0 if rest else http2_frames.END_HEADERS
                if not await peer.send(frame(http2_frames.CONTINUATION, ended, 1, junk)):
                    break
            await peer.stay(attack.seconds, until=peer.over)


async def ping_flood(attack: Attack) -> None:
    await _flood(attack, frame(http2_frames.PING, 0, 0, bytes(8)))


async def settings_flood(attack: Attack) -> None:
    await _flood(attack, frame(http2_frames.SETTINGS, 0, 0))


async def empty_frames(attack: Attack) -> None:
    """Empty data frames of a call that never ends."""
    begin = frame(http2_frames.HEADERS, http2_frames.END_HEADERS, 1, attack.call)
    await _flood(attack, frame(http2_frames.DATA, 0, 1), begin)


async def window_updates(attack: Attack) -> None:
    begin = frame(http2_frames.HEADERS, http2_frames.END_HEADERS, 1, attack.call)
    await _flood(attack, frame(http2_frames.WINDOW_UPDATE, 0, 1, struct.pack(">I", 1)), begin)


async def _flood(attack: Attack, of: bytes, begin: bytes = b"") -> None:
    while attack.result.sent < attack.amount:
        async with connected(attack, http2_frames.greeting() + begin) as peer:
            while attack.result.sent < attack.amount:
                attack.result.sent += _BATCH
                if not await peer.send(of * _BATCH):
                    break
                await asyncio.sleep(0)
            await peer.stay(attack.seconds)


async def slow_headers(attack: Attack) -> None:
    """Headers sent a byte at a time, in HTTP/1 and in HTTP/2."""
    beginnings = (
        f"POST {_PATH} HTTP/1.1\r\nhost: x\r\nx-slow: ".encode(),
        http2_frames.greeting() + frame(http2_frames.HEADERS, 0, 1, attack.call[:-20])[:-10],
    )

    async def one(begin: bytes) -> None:
        async with connected(attack, begin) as peer:
            for _ in range(int(5 * attack.seconds)):
                attack.result.sent += 1
                if not await peer.send(b"x"):
                    return
                await asyncio.sleep(0.2)

    await asyncio.gather(*(one(beginnings[n % 2]) for n in range(attack.amount)))


async def garbage(attack: Attack) -> None:
    async def one(begin: bytes) -> None:
        async with connected(attack, begin) as peer:
            attack.result.sent += 1
            await peer.send(attack.chance.randbytes(attack.chance.choice((100, 20_000))))
            await peer.stay(attack.seconds)

    kinds = (b"", http2_frames.greeting())
    await asyncio.gather(*(one(kinds[n % 2]) for n in range(attack.amount)))


async def tls_to_a_clear_port(attack: Attack) -> None:
    async def one() -> None:
        async with connected(attack, _HELLO) as peer:
            attack.result.sent += 1
            await peer.stay(attack.seconds)

    await asyncio.gather(*(one() for _ in range(attack.amount)))


async def connections_left_open(attack: Attack) -> None:
    """Connections left open: half silent, half after the HTTP/2 preface."""

    async def one(number: int) -> None:
        async with connected(attack, http2_frames.greeting() if number % 2 else b"") as peer:
            attack.result.sent += 1
            await peer.stay(attack.seconds)

    await asyncio.gather(*(one(number) for number in range(attack.amount)))


async def unread_answers(attack: Attack) -> None:
    """Complete calls with a zero flow-control window, so that answers can't be sent."""
    header, message = attack.call, bytes(5)
    async with connected(attack, http2_frames.greeting(window=0)) as peer:
        for stream in range(1, 2 * attack.amount, 2):
            attack.result.sent += 1
            if not await peer.send(
                frame(http2_frames.HEADERS, http2_frames.END_HEADERS, stream, header)
                + frame(http2_frames.DATA, http2_frames.END_STREAM, stream, message)
            ):
                return
            if attack.result.sent % _BATCH == 0:
                # All at once would be an overload, during which other clients are refused too.
                await asyncio.sleep(_PAUSE)
        await peer.stay(attack.seconds)


ATTACKS: dict[str, Callable[[Attack], Awaitable[None]]] = {
    attack.__name__: attack
    for attack in (
        *(rapid_resets, half_open_streams, endless_headers, oversized_headers, ping_flood),
        *(settings_flood, empty_frames, window_updates, slow_headers, garbage),
        *(tls_to_a_clear_port, connections_left_open, unread_answers),
    )
}


async def _answer(line: str) -> None:
    spec: dict[str, Any] = json.loads(line)
    attack = ATTACKS[spec.pop("attack")]
    result = AttackResult()
    chance = random.Random(spec.pop("seed"))
    with contextlib.suppress(OSError):
        await attack(Attack(**spec, result=result, chance=chance))
    print(json.dumps(asdict(result)), flush=True)


def main() -> None:
    for line in sys.stdin:
        asyncio.run(_answer(line))


if __name__ == "__main__":
    main()
