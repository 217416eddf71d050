"""Promises of the gRPC health service that need no running server."""

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from services.platform.observe.health import Health, Servicer

_SERVICE = "taskflow.task.v1.TaskService"


class Reader:
    """A health watcher that can stop reading."""

    def __init__(self, *, reads: bool = True) -> None:
        self.seen: list[int] = []
        self._reads = asyncio.Event()
        if reads:
            self._reads.set()

    async def write(self, response: HealthCheckResponse) -> None:
        await self._reads.wait()
        self.seen.append(response.status)

    async def abort(self, code: grpc.StatusCode, *_: Any) -> None:
        raise LookupError(code)


async def _fine() -> None:
    return None


async def test_a_health_watcher_sees_each_change_even_if_another_watcher_does_not_read() -> None:
    health = Health([_SERVICE], {"postgres": _fine})
    servicer = Servicer(health)
    reader, stalled = Reader(), Reader(reads=False)
    watching = [
        asyncio.create_task(servicer.Watch(HealthCheckRequest(service=_SERVICE), one))
        for one in (reader, stalled)
    ]
    await asyncio.sleep(0)
    await health.run_once()
    await asyncio.sleep(0)
    health.drain()
    await asyncio.sleep(0)
    assert reader.seen == [
        HealthCheckResponse.NOT_SERVING,
        HealthCheckResponse.SERVING,
        HealthCheckResponse.NOT_SERVING,
    ]
    assert stalled.seen == []
    for one in watching:
        one.cancel()


async def test_the_health_of_an_unknown_service_is_unknown() -> None:
    servicer = Servicer(Health([_SERVICE], {}))
    with pytest.raises(LookupError, match="NOT_FOUND"):
        await servicer.Check(HealthCheckRequest(service="elsewhere"), Reader())
    reader = Reader()
    watching = asyncio.create_task(servicer.Watch(HealthCheckRequest(service="elsewhere"), reader))
    await asyncio.sleep(0)
    assert reader.seen == [HealthCheckResponse.SERVICE_UNKNOWN]
    watching.cancel()
