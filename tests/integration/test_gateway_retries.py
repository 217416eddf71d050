"""Which calls the gateway may retry at another process, and which not."""

from collections import Counter
from pathlib import Path
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2

from deploy.local.stack import running_stack
from tests.conftest import settings_for

_CREATE = "/taskflow.task.v1.TaskService/CreateTask"
_CALLS = 40


class _EndingUpstream(grpc.GenericRpcHandler):
    """A healthy upstream that ends every call the same way."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self.code = code
        self.calls: Counter[str] = Counter()

    def service(self, details: Any) -> Any:
        async def check(_: bytes, __: Any) -> bytes:
            serving = health_pb2.HealthCheckResponse.SERVING
            return health_pb2.HealthCheckResponse(status=serving).SerializeToString()

        async def answer(_: bytes, context: Any) -> bytes:
            self.calls[details.method] += 1
            if self.code is not grpc.StatusCode.OK:
                await context.abort(self.code)
            return b""

        health = details.method.startswith("/grpc.health")
        return grpc.unary_unary_rpc_method_handler(check if health else answer)


async def _answers(folder: Path, *codes: grpc.StatusCode) -> tuple[Counter[str], int]:
    """The status codes of calls through the gateway to two such upstreams, and how many calls each received."""
    settings = settings_for(folder, replicas=2)
    upstreams = [_EndingUpstream(code) for code in codes]
    servers = []
    for number, upstream in enumerate(upstreams):
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((upstream,))
        for port in (settings.auth_port, settings.task_port, settings.notification_port):
            server.add_insecure_port(f"127.0.0.1:{port + 10 * number}")
        await server.start()
        servers.append(server)
    answers: Counter[str] = Counter()
    address = f"127.0.0.1:{settings.gateway_port}"
    async with (
        running_stack(settings, only={"envoy"}),
        grpc.aio.insecure_channel(address) as channel,
    ):
        call: Any = channel.unary_unary(_CREATE)
        for _ in range(_CALLS):
            try:
                await call(b"", timeout=10)
                answers["OK"] += 1
            except grpc.aio.AioRpcError as error:
                answers[error.code().name] += 1
    for server in servers:
        await server.stop(0)
    return answers, sum(upstream.calls[_CREATE] for upstream in upstreams)


async def test_the_gateway_retries_a_call_that_reached_a_stopping_process(tmp_path: Path) -> None:
    """A stopping gRPC server answers new calls with CANCELLED, which no service ever returns itself."""
    answers, _ = await _answers(tmp_path, grpc.StatusCode.CANCELLED, grpc.StatusCode.OK)
    assert answers == {"OK": _CALLS}


async def test_the_gateway_does_not_retry_a_call_that_may_have_been_executed(
    tmp_path: Path,
) -> None:
    answers, calls = await _answers(tmp_path, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.OK)
    assert answers["UNAVAILABLE"] > 0
    assert calls == _CALLS
