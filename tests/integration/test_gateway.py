"""The gateway in front of real services: what it routes, what it blocks, and that it never cuts streams."""

import asyncio
import http.client
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from deploy.local.envoy import admin_socket
from deploy.local.probes import http_get_by_socket
from deploy.local.stack import running_stack
from services.platform.config import Settings
from services.platform.rpc.identity import SERVICE_HEADER
from taskflow.auth.v1 import auth_service_pb2, auth_service_pb2_grpc
from tests.conftest import serving
from tests.integration.notification_world import other_ports
from tests.integration.people import Team, refusal

_KEYS = "/taskflow.auth.v1.AuthService/GetSigningKeys"
# gRPC framing: five bytes of flags and length, then the message.
_EMPTY_MESSAGE = struct.pack(">BI", 0, 0)


@pytest.fixture(scope="module")
async def gateway(
    services: Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Settings]:
    """Envoy in front of the services, with ports for a second replica of each."""
    folder = tmp_path_factory.mktemp("gateway")
    settings = Settings(**services.model_dump() | {"data_dir": folder, "replicas": 2})
    async with running_stack(settings, only={"envoy"}):
        yield settings


@pytest.fixture
async def channel(gateway: Settings) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.gateway_port}") as channel:
        yield channel


async def test_every_public_service_is_reachable_through_one_port(
    channel: grpc.aio.Channel,
) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
    answers = [answer async for answer in stub.ServerReflectionInfo(iter(asked))]
    names = {service.name for service in answers[0].list_services_response.service}
    assert {
        "taskflow.auth.v1.AuthService",
        "taskflow.task.v1.TaskService",
        "taskflow.notification.v1.NotificationService",
    } <= names
    assert not [name for name in names if name.endswith("InternalService")]


async def test_the_gateway_routes_each_call_to_its_service(channel: grpc.aio.Channel) -> None:
    user = await Team(channel).register()
    assert user.id


async def test_an_outside_caller_cannot_pose_as_a_service(
    gateway: Settings, channel: grpc.aio.Channel
) -> None:
    """A service secret that works at the service's own port is refused through the gateway."""
    header = ((SERVICE_HEADER, gateway.service_secret.get_secret_value()),)
    request = auth_service_pb2.LogoutRequest()
    refused = await refusal(
        auth_service_pb2_grpc.AuthServiceStub(channel).Logout(request, metadata=header)
    )
    assert refused.code == grpc.StatusCode.UNAUTHENTICATED


async def test_a_stream_without_messages_is_not_closed_by_the_gateway(
    gateway: Settings, channel: grpc.aio.Channel
) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    assert await watch.read()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(watch.read(), 3 * gateway.heartbeat_interval)


async def test_a_draining_replica_fails_no_call(gateway: Settings) -> None:
    replica = Settings(
        **gateway.model_dump()
        | {
            "auth_port": gateway.auth_port + 10,
            "auth_http_port": gateway.auth_http_port + 10,
            "drain_notice": 1.5,
        }
    )
    stop = asyncio.Event()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.gateway_port}") as channel:
        load = asyncio.create_task(_call_until(stop, channel))
        for _ in range(2):
            async with serving("auth", replica):
                await _until_healthy(gateway, replica.auth_port)
                await asyncio.sleep(0.3)
        stop.set()
        assert await load > 100


async def test_calls_that_reach_a_replica_after_its_shutdown_began_are_served(
    services: Settings,
) -> None:
    """The gateway learns of the shutdown by a health check, which may be late."""
    notice = 0.8
    replica = Settings(
        **other_ports(services, "auth").model_dump() | {"drain_notice": notice, "drain_grace": 2}
    )
    stop = asyncio.Event()
    async with grpc.aio.insecure_channel(replica.auth) as channel:
        async with serving("auth", replica):
            load = asyncio.create_task(_call_until(stop, channel))
            loop = asyncio.get_running_loop()
            loop.call_later(1.5 * notice, stop.set)
        assert await load > 20


async def _call_until(stop: asyncio.Event, channel: grpc.aio.Channel) -> int:
    stub = auth_service_pb2_grpc.AuthServiceStub(channel)
    calls = 0
    while not stop.is_set():
        await stub.GetSigningKeys(auth_service_pb2.GetSigningKeysRequest(), timeout=5)
        calls += 1
        await asyncio.sleep(0.005)
    return calls


async def _until_healthy(gateway: Settings, port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            _, body = await http_get_by_socket(
                admin_socket(gateway.data_dir), "/clusters?format=json"
            )
            for cluster in json.loads(body)["cluster_statuses"]:
                for host in cluster["host_statuses"]:
                    at = host["address"]["socket_address"]["port_value"]
                    if at == port and "failed_active_health_check" not in host["health_status"]:
                        return
            await asyncio.sleep(0.05)


def _post(
    gateway: Settings, path: str, body: bytes, **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    """Send an HTTP/1.1 request, as a browser or curl does."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.gateway_port, timeout=5)
    method = headers.pop("method", "POST")
    connection.request(
        method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}
    )
    response = connection.getresponse()
    return response, response.read()


async def test_grpc_web_works_over_plain_http(gateway: Settings) -> None:
    response, body = await asyncio.to_thread(
        _post, gateway, _KEYS, _EMPTY_MESSAGE, content_type="application/grpc-web+proto"
    )
    assert response.status == 200
    flags, length = struct.unpack(">BI", body[:5])
    assert flags == 0
    keys = auth_service_pb2.GetSigningKeysResponse.FromString(body[5 : 5 + length])
    assert keys.keys
    assert b"grpc-status:0" in body[5 + length :]


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:5173", True),
        ("https://127.0.0.1", True),
        ("http://localhost.evil.example", False),
        ("https://evil.example", False),
    ],
)
async def test_only_pages_from_localhost_may_call_from_a_browser(
    gateway: Settings, origin: str, allowed: bool
) -> None:
    response, _ = await asyncio.to_thread(
        _post,
        gateway,
        _KEYS,
        b"",
        method="OPTIONS",
        origin=origin,
        access_control_request_method="POST",
        access_control_request_headers="content-type,x-grpc-web,authorization",
    )
    assert (response.headers["access-control-allow-origin"] == origin) is allowed


async def test_an_error_keeps_its_details_over_grpc_web(gateway: Settings) -> None:
    response, body = await asyncio.to_thread(
        _post,
        gateway,
        "/taskflow.auth.v1.UserService/GetCurrentUser",
        _EMPTY_MESSAGE,
        content_type="application/grpc-web+proto",
    )
    told = dict(response.headers) | {"trailers": body.decode(errors="replace")}
    assert "grpc-status-details-bin" in str(told)
    assert "16" in str(told)
