"""Errors at the gateway: each has TaskFlow's text and a reason, whichever program in front of the servicers answers."""

import asyncio
import base64
import http.client
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse

from deploy.local.stack import running_stack
from services.platform.config import Settings
from services.platform.observe.health import Check
from services.platform.rpc.gate import Gate
from services.platform.rpc.identity import Identity
from services.platform.rpc.methods import METHODS, services_of
from services.platform.rpc.server import Server
from taskflow.auth.v1.auth_service_pb2 import GetSigningKeysRequest, GetSigningKeysResponse
from tests.conftest import settings_for
from tests.integration.people import refusal

_KEYS = "/taskflow.auth.v1.AuthService/GetSigningKeys"
_REFLECT = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
# A message with its gRPC prefix: not compressed, no bytes.
_EMPTY_MESSAGE = bytes(5)
_COMPRESSED = b"\1\0\0\0\1x"
# Words that only other programs' errors contain.
_FOREIGN = re.compile(
    r"upstream|envoy|grpc:|SERVER:|RST_STREAM|received|limit \(|hard limit|x-", re.I
)
_PROCESSES = ("auth", "task", "notification")


async def _no_keys(request: Any, context: Any) -> GetSigningKeysResponse:
    return GetSigningKeysResponse()


@dataclass
class World:
    """The gateway in front of three processes that answer without stores. `failing` are processes that are ill."""

    settings: Settings
    channel: grpc.aio.Channel
    failing: set[str] = field(default_factory=set)
    stop: dict[str, asyncio.Event] = field(default_factory=dict)
    running: dict[str, "asyncio.Task[None]"] = field(default_factory=dict)

    @property
    def port(self) -> int:
        return self.settings.gateway_port

    def start(self, process: str) -> None:
        settings = self.settings

        async def no_keys() -> list[Any]:
            return []

        server = Server(
            settings,
            Gate(settings, Identity(settings, no_keys)),
            port=getattr(settings, f"{process}_port"),
            http_port=getattr(settings, f"{process}_http_port"),
            services=services_of(process),
            checks={"store": self._check(process)},
        )
        if process == "auth":
            keys: Any = grpc.unary_unary_rpc_method_handler(
                _no_keys,
                request_deserializer=GetSigningKeysRequest.FromString,
                response_serializer=GetSigningKeysResponse.SerializeToString,
            )
            methods = {"GetSigningKeys": keys}
            handler = grpc.method_handlers_generic_handler("taskflow.auth.v1.AuthService", methods)
            server.grpc.add_generic_rpc_handlers((handler,))
        self.stop[process] = asyncio.Event()
        self.running[process] = asyncio.create_task(server.run(self.stop[process]))

    def _check(self, process: str) -> Check:
        async def check() -> None:
            if process in self.failing:
                raise ConnectionError

        return check

    async def end(self, process: str) -> None:
        self.stop[process].set()
        await self.running[process]

    async def health(self, service: str) -> int:
        stub: Any = health_pb2_grpc.HealthStub(self.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        status: int = answer.status
        return status

    async def until_health(self, service: str, status: int) -> None:
        async with asyncio.timeout(20):
            while await self.health(service) != status:
                await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    settings = settings_for(tmp_path_factory.mktemp("gateway"))
    address = f"127.0.0.1:{settings.gateway_port}"
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        world = World(settings, channel)
        for process in _PROCESSES:
            world.start(process)
        async with running_stack(settings, only={"envoy"}):
            await world.until_health("", HealthCheckResponse.SERVING)
            yield world
        for process in _PROCESSES:
            await world.end(process)


async def _call(world: World, path: str, body: bytes = b"", **how: Any) -> Any:
    call: Any = world.channel.unary_unary(path)
    return await refusal(call(body, timeout=10, **how))


@pytest.mark.parametrize(
    "path",
    [
        "/nothing.v1.NothingService/Nothing",
        "/taskflow.task.v1.TaskService/Nothing",
        # No RPC, but named like the internal services.
        "/taskflow.task.v1.InternalService/ClaimJob",
        "/",
        *(path for path, method in METHODS.items() if method.internal),
    ],
)
async def test_unknown_and_internal_methods_look_the_same(world: World, path: str) -> None:
    refused = await _call(world, path)
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNIMPLEMENTED, "UNKNOWN_METHOD")
    assert refused.message == "there is no such method"


async def test_a_message_that_is_too_large_once_decompressed_is_refused(world: World) -> None:
    zeros = bytes(8 * 2**20)
    refused = await _call(world, _KEYS, zeros, compression=grpc.Compression.Gzip)
    assert (refused.code, refused.reason) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "REQUEST_TOO_LARGE",
    )
    assert not _FOREIGN.search(refused.message)


async def test_a_large_message_on_a_stream_is_refused(world: World) -> None:
    reflect: Any = world.channel.stream_stream(_REFLECT)
    refused = await refusal(reflect(iter([bytes(2 * 2**20)]), timeout=10).read())
    assert refused.reason == "REQUEST_TOO_LARGE"
    assert not _FOREIGN.search(refused.message)


@pytest.mark.parametrize("size", [17_000, 50_000])
@pytest.mark.parametrize("path", [_KEYS, "/grpc.health.v1.Health/Check"])
async def test_large_metadata_is_refused_with_its_limit(world: World, path: str, size: int) -> None:
    refused = await _call(world, path, metadata=[("x-junk", "x" * size)])
    assert (refused.code, refused.reason) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "METADATA_TOO_LARGE",
    )
    assert refused.message == "the metadata is too large"
    assert refused.metadata == {"limit_bytes": "16384"}


async def test_metadata_within_the_limit_is_taken(world: World) -> None:
    call: Any = world.channel.unary_unary(_KEYS)
    for _ in range(20):
        assert await call(b"", timeout=10, metadata=[("x-junk", "x" * 15_000)]) == b""


def _post(
    world: World, body: bytes, headers: dict[str, str], path: str = _KEYS
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an HTTP/1.1 request, as a browser sends it."""
    connection = http.client.HTTPConnection("127.0.0.1", world.port, timeout=20)
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    content = response.read()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, content


def _ending(headers: dict[str, str], body: bytes) -> dict[str, str]:
    """The gRPC status of an answer over HTTP/1.1: in its headers, or in the last part of a gRPC-Web body."""
    if "grpc-status" in headers:
        return headers
    trailers = body[body.index(b"\x80") + len(_EMPTY_MESSAGE) :].decode()
    return dict(line.split(":", 1) for line in trailers.splitlines() if line)


@pytest.mark.parametrize(
    ("headers", "message", "code", "reason"),
    [
        ({"grpc-encoding": "snappy"}, _COMPRESSED, "3", "UNREADABLE_REQUEST"),
        ({"grpc-encoding": "gzip"}, _COMPRESSED, "3", "UNREADABLE_REQUEST"),
        ({}, _COMPRESSED, "3", "UNREADABLE_REQUEST"),
        ({}, b"", "3", "UNREADABLE_REQUEST"),
        ({}, b"\0\0\0\0\x09x", "3", "UNREADABLE_REQUEST"),
        ({"grpc-timeout": "soon"}, _EMPTY_MESSAGE, "3", "UNREADABLE_REQUEST"),
        ({"content-type": "application/grpc"}, _EMPTY_MESSAGE, "12", "PROTOCOL_UNSUPPORTED"),
        (
            {"content-type": "application/grpc+json", "te": "trailers"},
            _EMPTY_MESSAGE,
            "12",
            "PROTOCOL_UNSUPPORTED",
        ),
    ],
    ids=[
        "unknown-compression",
        "corrupt",
        "undeclared",
        "no-message",
        "half-a-message",
        "bad-timeout",
        "no-te",
        "grpc-json",
    ],
)
async def test_a_malformed_call_is_refused_with_a_reason(
    world: World, headers: dict[str, str], message: bytes, code: str, reason: str
) -> None:
    sent = {"content-type": "application/grpc-web+proto"} | headers
    _, received, body = await asyncio.to_thread(_post, world, message, sent)
    assert _error_of(received, body) == (code, reason)


def _error_of(headers: dict[str, str], body: bytes) -> tuple[str, str]:
    """Code and reason of an answer over HTTP/1.1, whose message has to be ours."""
    ending = _ending(headers, body)
    details = ending["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(base64.b64decode(details + "=" * (-len(details) % 4)))
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "taskflow"
    assert str(status.code) == ending["grpc-status"]
    assert unquote(ending["grpc-message"]) == status.message
    assert not _FOREIGN.search(status.message)
    return ending["grpc-status"], info.reason


@pytest.mark.parametrize(
    ("path", "size", "code", "reason"),
    [
        ("/nothing.v1.NothingService/Nothing", 5, "12", "UNKNOWN_METHOD"),
        ("/taskflow.task.v1.JobInternalService/ClaimJob", 5, "12", "UNKNOWN_METHOD"),
        (_KEYS, 2 * 2**20, "8", "REQUEST_TOO_LARGE"),
    ],
    ids=["unknown", "internal", "too-large"],
)
@pytest.mark.parametrize("kind", ["application/grpc-web+proto", "application/grpc-web"])
async def test_the_gateways_errors_are_the_same_over_grpc_web(
    world: World, kind: str, path: str, size: int, code: str, reason: str
) -> None:
    _, headers, body = await asyncio.to_thread(
        _post, world, bytes(size), {"content-type": kind}, path
    )
    assert _error_of(headers, body) == (code, reason)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/proto",
        "application/connect+json",
        "text/plain",
        "application/xml",
        "application/grpcx",
        "",
    ],
)
async def test_another_protocol_gets_415_and_a_sentence_that_names_what_is_spoken(
    world: World, content_type: str
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    status, _, body = await asyncio.to_thread(_post, world, b"{}", headers)
    assert status == 415
    assert b"`content-type: application/grpc`" in body
    assert b"application/grpc-web" in body


async def test_a_connect_client_can_read_the_415(world: World) -> None:
    headers = {"content-type": "application/json", "connect-protocol-version": "1"}
    _, received, body = await asyncio.to_thread(_post, world, b"{}", headers)
    assert received["content-type"] == "application/json"
    error = json.loads(body)
    assert error["code"] == "unimplemented"
    assert error["message"].startswith("send gRPC")


async def test_a_page_can_read_the_415(world: World) -> None:
    headers = {"content-type": "application/json", "origin": "http://localhost:5173"}
    status, received, _ = await asyncio.to_thread(_post, world, b"{}", headers)
    assert status == 415
    assert received["access-control-allow-origin"] == "http://localhost:5173"


@pytest.mark.parametrize("path", ["/", "/healthz", "/taskflow", "/nothing.v1.NothingService/X"])
async def test_an_unknown_path_is_404_for_an_http_client(world: World, path: str) -> None:
    status, _, body = await asyncio.to_thread(_post, world, b"", {}, path)
    assert status == 404
    assert json.loads(body) == {"code": "unimplemented", "message": "there is no such method"}


async def test_health_by_name_reaches_each_service_and_the_empty_name_is_all_of_them(
    world: World,
) -> None:
    for method in METHODS.values():
        if not method.internal:
            await world.until_health(method.service, HealthCheckResponse.SERVING)
    world.failing.add("auth")
    try:
        await world.until_health("taskflow.auth.v1.UserService", HealthCheckResponse.NOT_SERVING)
        assert await world.health("") == HealthCheckResponse.NOT_SERVING
        assert await world.health("taskflow.task.v1.TaskService") == HealthCheckResponse.SERVING
    finally:
        world.failing.clear()
    await world.until_health("", HealthCheckResponse.SERVING)
    refused = await _call(
        world,
        "/grpc.health.v1.Health/Check",
        health_pb2.HealthCheckRequest(service="nobody").SerializeToString(),
    )
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")
    hidden = [method.service for method in METHODS.values() if method.internal]
    with pytest.raises(grpc.aio.AioRpcError):
        await world.health(hidden[0])


async def test_a_health_watch_through_the_gateway_follows_another_process(world: World) -> None:
    stub: Any = health_pb2_grpc.HealthStub(world.channel)
    name = "taskflow.notification.v1.NotificationService"
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=30)
    seen = [(await watch.read()).status]
    world.failing.add("notification")
    try:
        seen.append((await watch.read()).status)
    finally:
        world.failing.clear()
    seen.append((await watch.read()).status)
    watch.cancel()
    assert seen == [
        HealthCheckResponse.SERVING,
        HealthCheckResponse.NOT_SERVING,
        HealthCheckResponse.SERVING,
    ]


async def test_a_process_answers_for_itself_at_its_own_port(world: World) -> None:
    world.failing.add("auth")
    try:
        await world.until_health("", HealthCheckResponse.NOT_SERVING)
        async with grpc.aio.insecure_channel(world.settings.task) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
            assert answer.status == HealthCheckResponse.SERVING
    finally:
        world.failing.clear()
    await world.until_health("", HealthCheckResponse.SERVING)


async def test_a_service_that_is_down_is_unavailable_and_its_health_says_so(world: World) -> None:
    await world.end("auth")
    try:
        refused = await _call(world, _KEYS)
        assert (refused.code, refused.reason) == (
            grpc.StatusCode.UNAVAILABLE,
            "SERVICE_UNAVAILABLE",
        )
        assert refused.message == "the service doesn't answer at present; try again"
        assert refused.retry_after == 1
        await world.until_health("taskflow.auth.v1.AuthService", HealthCheckResponse.NOT_SERVING)
        assert await world.health("taskflow.task.v1.TaskService") == HealthCheckResponse.SERVING
    finally:
        world.start("auth")
    await world.until_health("", HealthCheckResponse.SERVING)
