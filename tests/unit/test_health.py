"""Promises of the gRPC health service that need no running server."""

import asyncio

import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from services.platform.observe.health import Health
from services.platform.rpc.errors import DomainError
from services.platform.rpc.health_service import SCOPE_HEADER, Servicer

_SERVICE = "taskflow.task.v1.TaskService"


class Reader:
    """A health watcher that can stop reading. Through the gateway, it asks for everything."""

    def __init__(self, *, reads: bool = True, through_gateway: bool = False) -> None:
        self._metadata = ((SCOPE_HEADER, "all"),) if through_gateway else ()
        self.seen: list[int] = []
        self._reads = asyncio.Event()
        if reads:
            self._reads.set()

    async def write(self, response: HealthCheckResponse) -> None:
        await self._reads.wait()
        self.seen.append(response.status)

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata


async def _fine() -> None:
    return None


async def test_a_health_watcher_sees_each_change_even_if_another_watcher_does_not_read() -> None:
    health = Health({_SERVICE: ["postgres"]}, {"postgres": _fine})
    servicer = Servicer(health, Health({}, {}))
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
    servicer = Servicer(Health({_SERVICE: []}, {}), Health({}, {}))
    with pytest.raises(DomainError, match="not found"):
        await servicer.Check(HealthCheckRequest(service="elsewhere"), Reader())
    reader = Reader()
    watching = asyncio.create_task(servicer.Watch(HealthCheckRequest(service="elsewhere"), reader))
    await asyncio.sleep(0)
    assert reader.seen == [HealthCheckResponse.SERVICE_UNKNOWN]
    watching.cancel()


async def _ill() -> None:
    raise ConnectionError


async def test_a_service_is_as_healthy_as_what_it_needs() -> None:
    everything = Health({_SERVICE: ["task"], "other": ["auth"]}, {"task": _fine, "auth": _ill})
    await everything.run_once()
    servicer = Servicer(Health({}, {}), everything)
    caller = Reader(through_gateway=True)
    asked = [
        (await servicer.Check(HealthCheckRequest(service=name), caller)).status
        for name in (_SERVICE, "other", "")
    ]
    assert asked == [
        HealthCheckResponse.SERVING,
        HealthCheckResponse.NOT_SERVING,
        HealthCheckResponse.NOT_SERVING,
    ]
