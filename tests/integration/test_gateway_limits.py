"""The gateway's limits: excess calls are refused at once, with the services' error; streams don't count as calls."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2

from deploy.local.envoy import PASSWORDS_AT_ONCE, configuration
from deploy.local.stack import running_stack
from services.platform.config import Settings
from services.platform.rpc.caller_limits import limit_reached
from services.platform.rpc.errors import DomainError
from services.platform.rpc.methods import METHODS
from taskflow.error.v1 import error_reason_pb2 as reasons
from tests.conftest import settings_for
from tests.faults import http2_frames

_GET = "/taskflow.task.v1.TaskService/GetTask"
_WATCH = "/taskflow.task.v1.TaskService/WatchTasks"
_LOGIN = "/taskflow.auth.v1.AuthService/Login"
_REGISTER = "/taskflow.auth.v1.AuthService/Register"
_REFRESH = "/taskflow.auth.v1.AuthService/RefreshToken"
_USUAL = 5
# The gateway's limit of concurrent calls, for the two processes of a service together.
_AT_ONCE = 2 * _USUAL


class _BlockingUpstream(grpc.GenericRpcHandler):
    """A healthy upstream that holds calls until it is told to answer."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.waiting = 0

    def service(self, details: Any) -> Any:
        if details.method.startswith("/grpc.health"):
            serving = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

            async def check(_: bytes, __: Any) -> bytes:
                return serving.SerializeToString()

            return grpc.unary_unary_rpc_method_handler(check)

        async def follow(_: bytes, context: Any) -> AsyncIterator[bytes]:
            yield b""
            await self.go_on.wait()

        async def answer(_: bytes, context: Any) -> bytes:
            self.waiting += 1
            try:
                await self.go_on.wait()
            finally:
                self.waiting -= 1
            return b""

        if details.method == _WATCH:
            return grpc.unary_stream_rpc_method_handler(follow)
        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture(scope="module")
async def upstream() -> _BlockingUpstream:
    return _BlockingUpstream()


@pytest.fixture(scope="module")
async def gateway(
    upstream: _BlockingUpstream, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """The address of Envoy, in front of two processes of each service."""
    settings = settings_for(
        tmp_path_factory.mktemp("limits"),
        gateway_calls=_USUAL,
        replicas=2,
        # Few enough that one client reaches the limit of its token.
        user_calls_per_second=1,
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((upstream,))
    for port in (settings.auth_port, settings.task_port, settings.notification_port):
        for replica in (port, port + 10):
            server.add_insecure_port(f"127.0.0.1:{replica}")
    await server.start()
    async with running_stack(settings, only={"envoy"}):
        yield f"127.0.0.1:{settings.gateway_port}"
    upstream.go_on.set()
    await server.stop(0)


@pytest.fixture
async def channel(gateway: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(gateway) as channel:
        yield channel


async def test_a_call_over_the_gateway_limit_is_refused_at_once_like_a_service_would(
    channel: grpc.aio.Channel, upstream: _BlockingUpstream
) -> None:
    upstream.go_on.clear()
    get: Any = channel.unary_unary(_GET)
    watch: Any = channel.unary_stream(_WATCH)
    streams = [watch(b"") for _ in range(2 * _AT_ONCE)]
    assert [await stream.read() for stream in streams] == [b""] * len(streams)
    calls = [asyncio.ensure_future(get(b"", timeout=30)) for _ in range(_AT_ONCE)]
    async with asyncio.timeout(20):
        while upstream.waiting < _AT_ONCE:
            await asyncio.sleep(0.01)
    begun = time.monotonic()
    refused = await asyncio.gather(*(_refused(get) for _ in range(10)))
    assert time.monotonic() - begun < 2
    expected = DomainError(reasons.ERROR_REASON_OVERLOADED)
    for error in refused:
        assert (error.code(), error.details()) == (expected.code, expected.message)
        assert _status(error) == expected.status()
    # A stream can still be opened.
    more = watch(b"")
    assert await more.read() == b""
    upstream.go_on.set()
    assert await asyncio.gather(*calls) == [b""] * _AT_ONCE
    assert await get(b"", timeout=30) == b""
    for stream in (*streams, more):
        stream.cancel()


@pytest.mark.parametrize(("filling", "other"), [(_LOGIN, _REFRESH), (_REGISTER, _LOGIN)])
async def test_logins_and_registrations_have_small_limits_of_their_own_which_leave_others_their_places(
    channel: grpc.aio.Channel, upstream: _BlockingUpstream, filling: str, other: str
) -> None:
    upstream.go_on.clear()
    most = 2 * PASSWORDS_AT_ONCE
    fill: Any = channel.unary_unary(filling)
    call: Any = channel.unary_unary(other)
    calls = [asyncio.ensure_future(fill(b"", timeout=30)) for _ in range(most)]
    async with asyncio.timeout(20):
        while upstream.waiting < most:
            await asyncio.sleep(0.01)
    assert _status(await _refused(fill)) == DomainError(reasons.ERROR_REASON_OVERLOADED).status()
    calls.append(asyncio.ensure_future(call(b"", timeout=30)))
    async with asyncio.timeout(20):
        while upstream.waiting < most + 1:
            await asyncio.sleep(0.01)
    upstream.go_on.set()
    assert await asyncio.gather(*calls) == [b""] * (most + 1)


async def test_a_flood_with_one_token_is_refused_by_name_and_another_token_is_served(
    channel: grpc.aio.Channel, upstream: _BlockingUpstream
) -> None:
    upstream.go_on.set()
    refresh: Any = channel.unary_unary(_REFRESH)
    expected = limit_reached("calls_per_second", "token", 1)

    async def call(token: str) -> grpc.aio.AioRpcError | None:
        try:
            await refresh(b"", timeout=30, metadata=(("authorization", token),))
        except grpc.aio.AioRpcError as error:
            return error
        return None

    async def flood() -> list[grpc.aio.AioRpcError]:
        """Calls until a few were refused. The burst is two seconds' calls."""
        refused: list[grpc.aio.AioRpcError] = []
        async with asyncio.timeout(20):
            while len(refused) < 3:
                if error := await call("Bearer flood"):
                    refused.append(error)
        return refused

    for error in await flood():
        assert (error.code(), error.details()) == (expected.code, expected.message)
        assert _status(error) == expected.status()
    assert await call("Bearer other") is None


async def _refused(get: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await get(b"", timeout=10)
    return caught.value


def _status(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    trailing: Any = error.trailing_metadata()
    return status_pb2.Status.FromString(dict(trailing)["grpc-status-details-bin"])


async def test_calls_whose_message_never_arrives_do_not_use_up_the_limit(
    gateway: str, channel: grpc.aio.Channel, upstream: _BlockingUpstream
) -> None:
    upstream.go_on.set()
    host, _, port = gateway.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(http2_frames.greeting())
    for stream in range(1, 4 * _AT_ONCE, 2):
        begin = http2_frames.call(_GET, gateway)
        writer.write(
            http2_frames.frame(http2_frames.HEADERS, http2_frames.END_HEADERS, stream, begin)
        )
    await writer.drain()
    get: Any = channel.unary_unary(_GET)
    for _ in range(20):
        assert await get(b"", timeout=10) == b""
    writer.close()
    await writer.wait_closed()


async def test_an_oversized_request_is_refused_by_the_gateway_with_the_services_error(
    channel: grpc.aio.Channel,
) -> None:
    get: Any = channel.unary_unary(_GET)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await get(bytes(2 * 2**20), timeout=10)
    limit = {"limit_bytes": str(Settings().max_request_bytes)}
    expected = DomainError(reasons.ERROR_REASON_REQUEST_TOO_LARGE, limit)
    assert (caught.value.code(), caught.value.details()) == (expected.code, expected.message)
    assert _status(caught.value) == expected.status()


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param([("x-junk", "x" * 50_000)], id="long"),
        pytest.param([(f"x-{number}", "1") for number in range(900)], id="many"),
    ],
)
async def test_oversized_metadata_is_refused_as_such(
    channel: grpc.aio.Channel, metadata: list[tuple[str, str]]
) -> None:
    get: Any = channel.unary_unary(_GET)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await get(b"", metadata=metadata, timeout=10)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_streams_have_a_limit_separate_from_calls() -> None:
    text = configuration(Settings(), "127.0.0.1", {"auth": [1], "task": [2], "notification": [3]})
    streams = [path for path, method in METHODS.items() if method.streams]
    assert streams
    for path in streams:
        place = text[text.index(f'prefix: "{path}"') :]
        assert "priority: HIGH" in place[: place.index("retry_policy")], path
