"""The cost of a request is bounded, whatever its content (docs/promises.md)."""

import asyncio
import os
import random
import time
from typing import Any

import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from deploy.local.stack import Stack
from taskflow.auth.v1.user_service_pb2 import GetCurrentUserRequest
from tests.faults.malformed_bytes import sized
from tests.faults.request_cost import (
    MOST_CPU,
    MOST_MEMORY,
    forget_peak,
    loop_seconds,
    measure,
    memory,
)
from tests.faults.samples import Samples

# As many empty list items as fit into a request of the maximum size.
_ITEMS = 127_000
_REQUESTS = 5
_AUTH = "/taskflow.auth.v1.UserService/"
_TASK = "/taskflow.task.v1.TaskService/"
_NOTIFICATION = "/taskflow.notification.v1.NotificationService/"

_IDS = b"\x0a\x00" * _ITEMS
# The labels of the task, which is field 2 of CreateTaskRequest.
_LABELS = sized(2, b"\x5a\x00" * _ITEMS)

_NAMED = {
    "BatchGetUsers": ("auth", _AUTH + "BatchGetUsers", _IDS, "ids"),
    "MarkRead": ("notification", _NOTIFICATION + "MarkRead", _IDS, "ids"),
    "CreateTask": ("task", _TASK + "CreateTask", _LABELS, "task.labels"),
}


async def test_no_request_costs_the_event_loop_100_ms_or_the_process_50_mb(
    samples: Samples, processes: Stack
) -> None:
    seed = int(os.environ.get("SEED", random.randrange(2**32)))
    costs = await measure(samples, processes, seed)
    print(costs.table())
    assert not costs.broken, "\n".join([f"seed {seed}", *costs.broken[:40]])
    # At least some calls must succeed, or else the requests weren't valid before they were filled.
    assert costs.answers["OK"] > costs.answers.total() / 20


@pytest.mark.parametrize("name", _NAMED)
async def test_127_000_empty_items_are_refused_with_the_name_of_the_field(
    samples: Samples, processes: Stack, name: str
) -> None:
    process, method, raw, field = _NAMED[name]
    pid = processes.pid(process)
    forget_peak(pid)
    held, _ = memory(pid)
    begin = loop_seconds(pid)
    for _ in range(_REQUESTS):
        assert await _violations(samples, process, method, raw) == {field}
    each = (loop_seconds(pid) - begin) / _REQUESTS
    grown = memory(pid)[1] - held
    print(f"{name}: {1000 * each:.1f} ms of CPU each, {grown / 2**20:.0f} MiB more")
    assert each < MOST_CPU
    assert grown < MOST_MEMORY


async def test_five_oversized_requests_delay_another_users_call_by_under_a_second(
    samples: Samples, processes: Stack
) -> None:
    """Measured in CPU time of the event loop, which a busy machine doesn't change. The elapsed time is printed too."""
    process, method, raw, _ = _NAMED["BatchGetUsers"]
    pid = processes.pid(process)
    call = samples.team.users.GetCurrentUser
    mine: Any = {"metadata": samples.member.credentials, "timeout": 60}
    await call(GetCurrentUserRequest(), **mine)
    attack = [
        asyncio.create_task(_violations(samples, process, method, raw)) for _ in range(_REQUESTS)
    ]
    # Let the server receive these first.
    await asyncio.sleep(0.02)
    started, begin = time.monotonic(), loop_seconds(pid)
    await call(GetCurrentUserRequest(), **mine)
    waited, worked = time.monotonic() - started, loop_seconds(pid) - begin
    await asyncio.gather(*attack)
    print(f"another user's call: {waited:.3f} s, {1000 * worked:.1f} ms of CPU on the event loop")
    assert worked < _REQUESTS * MOST_CPU


async def _violations(samples: Samples, process: str, method: str, raw: bytes) -> set[str]:
    """The fields that the error names."""
    call: Any = samples.channels[process].unary_unary(method)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(raw, metadata=samples.owner.credentials, timeout=60)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    trailing: Any = refused.value.trailing_metadata()
    status = status_pb2.Status.FromString(dict(trailing)["grpc-status-details-bin"])
    found = error_details_pb2.BadRequest()
    for detail in status.details:
        if detail.Is(found.DESCRIPTOR):
            detail.Unpack(found)
    return {violation.field for violation in found.field_violations}
