"""P5 and P6: many open streams at one process, without the gateway."""

import asyncio
import base64
import time
from contextlib import AsyncExitStack
from statistics import median
from typing import Any

import grpc.aio

from deploy.local.stack import Stack
from taskflow.task.v1.task_pb2 import Task
from taskflow.task.v1.task_service_pb2 import UpdateTaskRequest
from taskflow.task.v1.task_service_pb2_grpc import TaskServiceStub
from tests.bench import dataset
from tests.bench.dataset import SMALL, WORKSPACES
from tests.bench.memory import resident
from tests.bench.processes import Remote, check, echoing, started
from tests.bench.rows import ROUNDS, Bench, Limit, Result, compared
from tests.bench.stacks import WHOLE
from tests.conftest import superuser

_STREAMS = 1_000
_CLIENTS = 2
_CHANGES = 8
# Pause between changes (seconds), so that each reaches all streams before the next.
_PAUSE = 0.6
# How long to wait (seconds) until the last change has reached all streams.
_PATIENCE = 30.0

_HELD = 10_000
# Streams per connection: enough to stay below the limit of open files.
_PER_CONNECTION = 100
_MOST_KIB = 40
# The heartbeat interval (seconds), and how late a heartbeat may be.
_LATE = 1.0


async def fan_out(bench: Bench) -> Result:
    """P5: time from the answer to UpdateTask until the last stream has the change."""
    stacks = await bench.stacks.need(small=WHOLE)
    settings = stacks["small"].settings
    [row] = await dataset.execute(
        superuser(settings),
        "SELECT id FROM task.tasks WHERE workspace_id = %s LIMIT 1",
        [WORKSPACES[SMALL]],
    )
    spec = {
        "kind": "watch",
        "workspace_id": WORKSPACES[SMALL],
        "tokens": bench.small.tokens(settings, range(50)),
        "streams": _STREAMS // _CLIENTS,
        "connections": _STREAMS // _CLIENTS // _PER_CONNECTION,
        "changes": _CHANGES,
        "patience": _CHANGES * _PAUSE + _PATIENCE,
    }
    rates, floors = [], []
    sample = ""
    for number in range(ROUNDS):
        bench.say(f"round {number + 1}: the service")
        rate, sample = await _fan_out_rate(settings.task, spec, str(row[0]))
        rates.append(rate)
        bench.say(f"round {number + 1}: bare grpc.aio")
        async with echoing({"address": bench.echo, "change": sample}):
            floors.append((await _fan_out_rate(bench.echo, spec, str(row[0])))[0])
    result = compared(rates, floors, "messages/s", least=0.6)
    result.details["message_bytes"] = len(base64.b64decode(sample))
    return result


async def _fan_out_rate(address: str, spec: dict[str, Any], task_id: str) -> tuple[float, str]:
    """Messages per second of a change, the median of several; and one message."""
    specs = [{**spec, "address": address} for _ in range(_CLIENTS)]
    async with started("tests.bench.load", *specs) as remotes:
        for remote in remotes:
            remote.go()
        answered = await _changes(address, spec["tokens"][0], task_id)
        found = [await remote.result() for remote in remotes]
    check(*found)
    rates = []
    for number, at in enumerate(answered):
        rates.append(_STREAMS / (max(result["last"][number] for result in found) - at))
    return median(rates), found[0]["sample"]


async def _changes(address: str, token: str, task_id: str) -> list[float]:
    """The time (seconds) at which each change was answered."""
    answered = []
    async with grpc.aio.insecure_channel(address) as channel:
        stub = TaskServiceStub(channel)
        for number in range(_CHANGES):
            await asyncio.sleep(_PAUSE)
            await stub.UpdateTask(
                UpdateTaskRequest(task=Task(id=task_id, title=f"Check {time.time_ns()} {number}")),
                metadata=(("authorization", f"Bearer {token}"),),
            )
            answered.append(time.monotonic())
    return answered


async def hold(bench: Bench) -> Result:
    """P6: WatchTasks at the task process and WatchNotifications at the notification process; the worse result counts.

    The memory of a stream is measured over each third of the streams.
    """
    stacks = await bench.stacks.need(large=WHOLE)
    stack = stacks["large"]
    services = ("task", "notification")
    held = await asyncio.gather(*(_held(bench, stack, service) for service in services))
    found = dict(zip(services, held, strict=True))
    worse = max(found.values(), key=lambda one: float(one["kib"]))
    heartbeat = stack.settings.heartbeat_interval
    longest = max(float(one["longest"]) for one in found.values())
    return Result(
        worse["kib"],
        f"KiB each of {_HELD}",
        [
            Limit(f"≤ {_MOST_KIB} KiB", worse["kib"] <= _MOST_KIB),
            Limit("heartbeats on time", longest <= heartbeat + _LATE),
        ],
        details=found,
    )


async def _held(bench: Bench, stack: Stack, service: str) -> dict[str, Any]:
    settings = stack.settings
    pid = stack.pid(service)
    tokens = bench.large.tokens(settings, range(_HELD))
    share = -(-_HELD // ROUNDS)
    spec = {
        "kind": "hold",
        "service": service,
        "address": getattr(settings, service),
        "workspace_id": WORKSPACES[SMALL],
        "connections": -(-share // _PER_CONNECTION),
    }
    sizes = []
    remotes: list[Remote] = []
    async with AsyncExitStack() as held:
        before = resident(pid)
        for first in range(0, _HELD, share):
            part = tokens[first : first + share]
            bench.say(f"{service}: {first + len(part)} streams")
            clients = started("tests.bench.load", {**spec, "tokens": part})
            remotes += await held.enter_async_context(clients)
            await asyncio.sleep(1)
            after = resident(pid)
            sizes.append((after - before) / 1024 / len(part))
            before = after
        bench.say(f"{service}: heartbeats of {_HELD} streams")
        for remote in remotes:
            remote.go()
        await asyncio.sleep(2 * settings.heartbeat_interval + 2)
        for remote in remotes:
            remote.stop()
        results = [await remote.result() for remote in remotes]
    check(*results)
    longest = [pause for result in results for pause in result["longest"]]
    if min(longest) == 0:
        raise RuntimeError("there were streams without heartbeats")
    return {
        "kib": median(sizes),
        "sizes": sizes,
        "longest": max(longest),
        "heartbeats": sum(result["heartbeats"] for result in results),
    }
