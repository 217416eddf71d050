"""Promises of the HTTP server of each process: slow, silent or many clients can't hold it, and it ends cleanly."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from deploy.local.ports import free_ports
from services.platform.http import server

HOST = "127.0.0.1"
LARGE = 32 * 1024 * 1024
GET = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"


async def _quick(_: Request) -> Response:
    return PlainTextResponse("quick")


async def _slow(_: Request) -> Response:
    await asyncio.sleep(0.5)
    return PlainTextResponse("slow")


async def _large(_: Request) -> Response:
    return PlainTextResponse("x" * LARGE)


async def _streamed(_: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(32):
            yield b"x" * (LARGE // 32)

    return StreamingResponse(parts())


async def _events(_: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        yield b"data: opened\n\n"
        await asyncio.sleep(60)

    return StreamingResponse(parts(), media_type="text/event-stream")


async def _echo(request: Request) -> Response:
    return Response(await request.body())


async def _broken(_: Request) -> Response:
    raise LookupError("planted")


ROUTES = [
    Route("/quick", _quick),
    Route("/slow", _slow),
    Route("/large", _large),
    Route("/streamed", _streamed),
    Route("/events", _events),
    Route("/echo", _echo, methods=["POST"]),
    Route("/broken", _broken),
]


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(server, "_CLIENT_TIMEOUT", 0.4)
    (port,) = free_ports(1)
    async with server.http_server(HOST, port, ROUTES):
        yield port


async def _answer(port: int, sent: bytes) -> bytes:
    """Everything that the server sends until it closes the connection."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(sent)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_a_connection_is_closed_after_its_answer(port: int) -> None:
    answer = await _answer(port, GET % b"quick")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nconnection: close\r\n" in answer.lower()
    assert answer.endswith(b"quick")


async def test_an_exception_is_a_500_without_its_text(port: int) -> None:
    answer = await _answer(port, GET % b"broken")
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"planted" not in answer


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /quick HTTP/1.1\r\nHost: x\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345",
    ],
    ids=["silent", "half a head", "half a body"],
)
async def test_a_client_that_stops_sending_is_disconnected(port: int, sent: bytes) -> None:
    assert await _answer(port, sent) == b""


async def test_single_bytes_do_not_prolong_the_time_for_a_request(port: int) -> None:
    reader, writer = await asyncio.open_connection(HOST, port)

    async def send() -> None:
        for byte in b"GET /quick HTTP/1.1\r\nx: " + b"y" * 1000:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.05)

    sending = asyncio.create_task(send())
    async with asyncio.timeout(5):
        with suppress(ConnectionError):
            assert await reader.read() == b""
    sending.cancel()
    writer.close()


async def test_a_client_may_wait_longer_for_its_answer_than_it_may_take_to_send(port: int) -> None:
    assert (await _answer(port, GET % b"slow")).endswith(b"slow")


async def test_a_client_that_does_not_read_is_disconnected(port: int) -> None:
    stalled = socket.create_connection((HOST, port))
    stalled.sendall(GET % b"large")
    await asyncio.sleep(1.5)
    stalled.setblocking(False)
    received = 0
    reset = False
    async with asyncio.timeout(10):
        while not reset:
            try:
                part = await asyncio.get_running_loop().sock_recv(stalled, 1024 * 1024)
            except ConnectionResetError:
                reset = True
            else:
                received += len(part)
                reset = not part
    assert received < LARGE
    stalled.close()


async def test_a_client_that_keeps_reading_gets_an_answer_that_takes_longer(port: int) -> None:
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(GET % b"streamed")
    received = 0
    began = asyncio.get_running_loop().time()
    while part := await reader.read(2 * 1024 * 1024):
        received += len(part)
        await asyncio.sleep(0.02)
    assert asyncio.get_running_loop().time() - began > server._CLIENT_TIMEOUT
    assert received > LARGE
    writer.close()


async def test_idle_connections_beyond_their_limit_are_closed_at_once(port: int) -> None:
    silent = [await asyncio.open_connection(HOST, port) for _ in range(server._MOST_WAITING)]
    async with asyncio.timeout(0.3):
        assert await _answer(port, GET % b"quick") == b""
    # The server disconnects the silent clients, and then serves new clients again.
    for reader, writer in silent:
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
    assert (await _answer(port, GET % b"quick")).endswith(b"quick")


async def _opened_event_streams(port: int, count: int) -> list[asyncio.StreamWriter]:
    writers = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(GET % b"events")
        assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 200 ")
        writers.append(writer)
    return writers


async def test_long_answers_leave_room_for_other_clients(port: int) -> None:
    writers = await _opened_event_streams(port, server._MOST_WAITING + 50)
    assert (await _answer(port, GET % b"quick")).endswith(b"quick")
    for writer in writers:
        writer.close()


async def test_long_answers_have_a_limit_too(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_MOST_CONNECTIONS", 20)
    writers = await _opened_event_streams(port, 20)
    assert await _answer(port, GET % b"quick") == b""
    for writer in writers:
        writer.close()


async def test_a_port_that_is_taken_is_an_error(port: int) -> None:
    with pytest.raises(OSError, match="address already in use"):
        async with server.http_server(HOST, port, ROUTES):
            pass


async def test_the_server_answers_what_it_began_and_leaves_signals_alone() -> None:
    (port,) = free_ports(1)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with server.http_server(HOST, port, ROUTES):
        asked = asyncio.create_task(_answer(port, GET % b"slow"))
        await asyncio.sleep(0.2)
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert (await asked).endswith(b"slow")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(HOST, port)
