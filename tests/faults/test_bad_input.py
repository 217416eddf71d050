"""Promises about bad input: every request gets the documented answer and does no harm (docs/promises.md)."""

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
from tests.faults.bad_input_cases import Case
from tests.faults.rpcs import Rpc, every_rpc
from tests.faults.samples import Samples
from tests.faults.valid_requests import valid
from tests.integration.people import refusal


async def test_every_rpc_has_a_valid_request_to_mutate(samples: Samples) -> None:
    for rpc in every_rpc():
        assert valid(rpc, samples, random.Random(1)) is not None


async def test_bad_input_gets_the_documented_answer_on_every_rpc_and_does_no_harm(
    samples: Samples, processes: Stack
) -> None:
    seed = int(os.environ.get("SEED", random.randrange(2**32)))
    report = await hold(samples, processes, seed, CASES[os.environ.get("PROFILE", "")])
    print(report.table())
    assert not report.wrong, "\n".join([f"seed {seed}", *report.wrong[:40]])
    assert report.growth < MOST_GROWTH
    # Most unmutated requests must succeed, or else the mutated ones weren't valid in the first place.
    good = report.counts["nothing wrong", "OK"]
    assert good > sum(n for (kind, _), n in report.counts.items() if kind == "nothing wrong") / 2


@pytest.mark.parametrize(
    "rpc", [rpc for rpc in every_rpc() if not rpc.ours], ids=lambda rpc: rpc.name
)
async def test_errors_of_health_and_reflection_reveal_no_class_names(
    samples: Samples, rpc: Rpc
) -> None:
    case = Case(0, "unreadable", rpc, b"\x0a\x05\xff", ())
    answer = await send(samples, case)
    assert (answer.code, answer.reason) == ("INVALID_ARGUMENT", "UNREADABLE_REQUEST")
    assert problem(samples, case, answer) == ""


async def test_cancelled_health_checks_log_no_error(samples: Samples, processes: Stack) -> None:
    stub: Any = health_pb2_grpc.HealthStub(samples.channels["task"])

    async def check(seconds: float) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
            await stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=seconds)

    log = processes.settings.data_dir / "logs" / "task.log"
    before = log.stat().st_size
    for _ in range(20):
        await asyncio.gather(*(check(n * 0.0002) for n in range(100)))
    assert (await stub.Check(health_pb2.HealthCheckRequest())).status == 1
    assert b"[error" not in log.read_bytes()[before:]


async def test_health_checks_without_a_login_are_limited_in_size_and_number(
    samples: Samples,
) -> None:
    stub: Any = health_pb2_grpc.HealthStub(samples.channels["task"])
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
    # After the watches end, the server accepts new watches again.
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
    samples: Samples, method: str
) -> None:
    call: Any = samples.channels["task"].unary_unary(f"/taskflow.task.v1.{method}")
    refused = await refusal(call(b"\xff" * 100, metadata=samples.owner.credentials, timeout=5))
    assert (refused.code.name, refused.reason) == ("UNIMPLEMENTED", "UNKNOWN_METHOD")


async def test_a_compressed_request_is_decompressed_only_up_to_the_size_limit(
    samples: Samples, processes: Stack
) -> None:
    method = "/taskflow.task.v1.TaskService/GetTask"
    peak = _peak(processes.pid("task"))
    call: Any = samples.channels["task"].unary_unary(method)
    for size in (2**20, 64 * 2**20):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(
                bytes(size), metadata=samples.owner.credentials, compression=grpc.Compression.Gzip
            )
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert _peak(processes.pid("task")) - peak < 20 * 2**20


def _peak(process: int) -> int:
    """The peak memory of the process, in bytes."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


async def test_streams_cancelled_while_opening_block_no_other_notifications(
    samples: Samples,
) -> None:
    """The fault: nats-py stopped reading, and the process got no messages until its connection counted as stale."""
    stub = NotificationServiceStub(samples.channels["notification"])

    async def give_up(seconds: float) -> None:
        call: Any = stub.WatchNotifications(
            WatchNotificationsRequest(), metadata=samples.member.credentials
        )
        await asyncio.sleep(seconds)
        call.cancel()

    for _ in range(8):
        await asyncio.gather(*(give_up(n * 0.0005) for n in range(60)))
        # A user's first stream waits for NATS. The user's subscription is dropped with the last stream.
        await asyncio.sleep(0.1)
    async with asyncio.timeout(10):
        await samples.renew()
