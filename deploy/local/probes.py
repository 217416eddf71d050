"""Probes: whether a server serves. A server that isn't running is an answer, not an error."""

import asyncio
import http.client
import json
import socket
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2

# One connection per probe: gRPC would wait for a second before it retries a shared connection that was refused.
_CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
_ANSWER_SECONDS = 2.0


async def greeting(host: str, port: int) -> bytes:
    """The first line that a server such as NATS or SMTP sends to a new connection, or b"" when there is none."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return b""
    try:
        return await reader.readline()
    except (OSError, ValueError):
        return b""
    finally:
        writer.close()


async def accepts(host: str, port: int) -> bool:
    """Whether something accepts TCP connections at this address."""
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


async def http_get(host: str, port: int, path: str) -> tuple[int, bytes]:
    """Status and body of a plain GET; (0, b"") when nothing answers."""
    return await asyncio.to_thread(_http_get, host, port, path)


async def http_get_by_socket(socket_path: Path, path: str) -> tuple[int, bytes]:
    """Like `http_get`, from a server on a Unix socket."""
    return await asyncio.to_thread(_answer, _SocketConnection(socket_path), path)


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _http_get(host: str, port: int, path: str) -> tuple[int, bytes]:
    return _answer(http.client.HTTPConnection(host, port, timeout=_ANSWER_SECONDS), path)


def _answer(connection: http.client.HTTPConnection, path: str) -> tuple[int, bytes]:
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


async def grpc_call(
    host: str,
    port: int,
    method: str,
    request: bytes,
    credentials: grpc.ChannelCredentials | None = None,
) -> bytes | None:
    """The serialized response of a unary call, or None when it fails."""
    if not await accepts(host, port):
        return None
    address = f"{host}:{port}"
    async with (
        grpc.aio.secure_channel(address, credentials, options=_CHANNEL_OPTIONS)
        if credentials
        else grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
    ) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        try:
            answer: bytes = await call(request, timeout=_ANSWER_SECONDS)
        except grpc.aio.AioRpcError:
            return None
        return answer


async def grpc_serving(
    host: str, port: int, credentials: grpc.ChannelCredentials | None = None
) -> bool:
    """Whether the standard health service there says SERVING for the whole process."""
    request = health_pb2.HealthCheckRequest().SerializeToString()
    answer = await grpc_call(host, port, "/grpc.health.v1.Health/Check", request, credentials)
    if answer is None:
        return False
    status = health_pb2.HealthCheckResponse.FromString(answer).status
    return bool(status == health_pb2.HealthCheckResponse.SERVING)


async def gateway_routes(admin: Path) -> bool:
    """Whether Envoy is up and every cluster has a host that passes its health check."""
    status, body = await http_get_by_socket(admin, "/clusters?format=json")
    if status != 200:
        return False
    clusters = json.loads(body).get("cluster_statuses", [])
    return bool(clusters) and all(
        any(_passes(endpoint) for endpoint in cluster.get("host_statuses", []))
        for cluster in clusters
    )


def _passes(endpoint: dict[str, dict[str, object]]) -> bool:
    health = endpoint.get("health_status", {})
    return not health.get("failed_active_health_check") and not health.get("pending_active_hc")
