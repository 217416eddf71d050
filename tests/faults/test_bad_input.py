"""Promises about bad input: the documented answer to whatever is sent, and nothing worse (docs/promises.md)."""

import asyncio
import contextlib
import os
import random
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.local.stack import Stack
from taskflow.notification.v1.notification_service_pb2 import WatchNotificationsRequest
from taskflow.notification.v1.notification_service_pb2_grpc import NotificationServiceStub
from tests.faults.bad_input import CASES, MOST_GROWTH, hold, problem, send
from tests.faults.corpus import Case
from tests.faults.rpcs import Rpc, every_rpc
from tests.faults.seeds import valid
from tests.faults.world import World
from tests.integration.people import refusal


async def test_every_rpc_has_a_valid_request_that_bad_ones_are_made_of(world: World) -> None:
    for rpc in every_rpc():
        assert valid(rpc, world, random.Random(1)) is not None


async def test_bad_input_has_the_documented_answer_on_every_rpc_and_harms_nothing(
    world: World, processes: Stack
) -> None:
    seed = int(os.environ.get("SEED", random.randrange(2**32)))
    report = await hold(world, processes, seed, CASES[os.environ.get("PROFILE", "")])
    print(report.table())
    assert not report.wrong, "\n".join([f"seed {seed}", *report.wrong[:40]])
    assert report.growth < MOST_GROWTH
    # Else the requests that bad ones are made of weren't good.
    good = report.counts["nothing wrong", "OK"]
    assert good > sum(n for (kind, _), n in report.counts.items() if kind == "nothing wrong") / 2


@pytest.mark.parametrize(
    "rpc", [rpc for rpc in every_rpc() if not rpc.ours], ids=lambda rpc: rpc.name
)
async def test_grpcs_own_services_say_no_class_name_of_what_they_cannot_read(
    world: World, rpc: Rpc
) -> None:
    case = Case(0, "unreadable", rpc, b"\x0a\x05\xff", ())
    answer = await send(world, case)
    assert (answer.code, answer.reason) == ("INVALID_ARGUMENT", "UNREADABLE_REQUEST")
    assert problem(world, case, answer) == ""


async def test_health_checks_that_are_given_up_leave_no_error_behind(
    world: World, processes: Stack
) -> None:
    stub: Any = health_pb2_grpc.HealthStub(world.channels["task"])

    async def check(seconds: float) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
            await stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=seconds)

    log = processes.settings.data_dir / "logs" / "task.log"
    before = log.stat().st_size
    for _ in range(20):
        await asyncio.gather(*(check(n * 0.0002) for n in range(100)))
    assert (await stub.Check(health_pb2.HealthCheckRequest())).status == 1
    assert b"[error" not in log.read_bytes()[before:]


async def test_what_anybody_may_call_takes_little(world: World) -> None:
    stub: Any = health_pb2_grpc.HealthStub(world.channels["task"])
    name = health_pb2.HealthCheckRequest(service="x" * 2000)
    refused = await refusal(stub.Check(name))
    assert (refused.code.name, refused.reason) == ("RESOURCE_EXHAUSTED", "REQUEST_TOO_LARGE")
    watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(500)]
    assert {(await watch.read()).status for watch in watches} == {1}
    beyond = stub.Watch(health_pb2.HealthCheckRequest())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await beyond.read()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    for watch in watches:
        watch.cancel()
    # Once they're gone there is room again.
    async with asyncio.timeout(10):
        while True:
            again = stub.Watch(health_pb2.HealthCheckRequest())
            with contextlib.suppress(grpc.aio.AioRpcError):
                assert (await again.read()).status == 1
                break
    again.cancel()


@pytest.mark.parametrize(
    "method", ["TaskService/DoWhatINeverSaid", "NoService/GetTask", "TaskService/"]
)
async def test_a_method_that_does_not_exist_is_unimplemented_with_a_reason(
    world: World, method: str
) -> None:
    call: Any = world.channels["task"].unary_unary(f"/taskflow.task.v1.{method}")
    refused = await refusal(call(b"\xff" * 100, metadata=world.owner.credentials, timeout=5))
    assert (refused.code.name, refused.reason) == ("UNIMPLEMENTED", "UNKNOWN_METHOD")


async def test_what_is_small_on_its_way_and_huge_unpacked_is_refused_unpacked_no_further(
    world: World, processes: Stack
) -> None:
    method = "/taskflow.task.v1.TaskService/GetTask"
    peak = _peak(processes.pid("task"))
    call: Any = world.channels["task"].unary_unary(method)
    for size in (2**20, 64 * 2**20):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(
                bytes(size), metadata=world.owner.credentials, compression=grpc.Compression.Gzip
            )
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert _peak(processes.pid("task")) - peak < 20 * 2**20


def _peak(process: int) -> int:
    """The most bytes of memory that it ever held."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


async def test_streams_given_up_while_they_open_keep_nobody_from_their_notifications(
    world: World,
) -> None:
    """Else nats-py would stop reading, and the process be deaf until its connection is found stale."""
    stub = NotificationServiceStub(world.channels["notification"])

    async def give_up(seconds: float) -> None:
        call: Any = stub.WatchNotifications(
            WatchNotificationsRequest(), metadata=world.member.credentials
        )
        await asyncio.sleep(seconds)
        call.cancel()

    for _ in range(8):
        await asyncio.gather(*(give_up(n * 0.0005) for n in range(60)))
        # The first stream of somebody waits for NATS; the user's place is given up once it has none.
        await asyncio.sleep(0.1)
    async with asyncio.timeout(10):
        await world.renew()
