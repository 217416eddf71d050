"""Unary calls at a given concurrency and duration: the number of right answers, and the time of each call."""

import asyncio
import base64
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio

from taskflow.task.v1.task_pb2 import Task
from taskflow.task.v1.task_service_pb2 import (
    CreateTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
)
from taskflow.task.v1.task_service_pb2_grpc import TaskServiceStub

# A function that makes the n-th call and returns whether its answer is right.
Call = Callable[[int], Awaitable[bool]]

_DESCRIPTION = "The bearing runs warm. Look at the seal and the coupling, and note what was found."


def _create(stub: Any, spec: Any) -> Call:
    credentials = _credentials(spec)
    projects = spec["projects"]

    async def call(number: int) -> bool:
        title = f"Check pump {number} of the east pier"
        request = CreateTaskRequest(
            project_id=projects[number % len(projects)],
            task=Task(title=title, description=_DESCRIPTION, labels=["area 7", "kind 3"]),
        )
        answer = await stub.CreateTask(request, metadata=credentials[number % len(credentials)])
        task = answer.task
        return task.title == title and task.revision == 1 and len(task.id) == 36

    return call


def _get(stub: Any, spec: Any) -> Call:
    credentials = _credentials(spec)
    tasks = spec["tasks"]

    async def call(number: int) -> bool:
        task_id = tasks[number % len(tasks)]
        answer = await stub.GetTask(
            GetTaskRequest(id=task_id), metadata=credentials[number % len(credentials)]
        )
        return bool(answer.task.id == task_id and answer.task.title)

    return call


def _list(stub: Any, spec: Any) -> Call:
    credentials = _credentials(spec)
    requests = [ListTasksRequest.FromString(base64.b64decode(raw)) for raw in spec["requests"]]

    async def call(number: int) -> bool:
        request = requests[number % len(requests)]
        answer = await stub.ListTasks(request, metadata=credentials[number % len(credentials)])
        return len(answer.tasks) == request.page_size

    return call


def _credentials(spec: Any) -> list[tuple[tuple[str, str], ...]]:
    return [(("authorization", f"Bearer {token}"),) for token in spec["tokens"]]


_CALLS = {"create": _create, "get": _get, "list": _list}


async def run(spec: Any, control: Any) -> dict[str, Any]:
    """Parameters: `call`, `address`, `tokens`, `in_flight`, `warm_up` and `seconds`, and those of the call.

    Result: calls per second, failed calls, and the milliseconds of each measured call.
    """
    async with grpc.aio.insecure_channel(spec["address"]) as channel:
        await channel.channel_ready()
        call = _CALLS[spec["call"]](TaskServiceStub(channel), spec)
        await control.start()
        numbers = itertools.count(spec.get("first", 0))
        begin = time.monotonic() + spec["warm_up"]
        end = begin + spec["seconds"]
        took: list[float] = []
        failed = 0

        async def work() -> None:
            nonlocal failed
            while (started := time.monotonic()) < end:
                try:
                    right = await call(next(numbers))
                except grpc.aio.AioRpcError:
                    right = False
                answered = time.monotonic()
                failed += not right
                if begin <= answered < end:
                    took.append((answered - started) * 1e3)

        await asyncio.gather(*(work() for _ in range(spec["in_flight"])))
    return {"rate": len(took) / spec["seconds"], "failed": failed, "milliseconds": took}
