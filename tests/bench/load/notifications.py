"""Tasks created at a steady rate, and the notification streams of their assignees.

Both use CLOCK_MONOTONIC, which all processes of a machine share.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc.aio

from taskflow.notification.v1.notification_service_pb2 import WatchNotificationsRequest
from taskflow.notification.v1.notification_service_pb2_grpc import NotificationServiceStub
from taskflow.task.v1.task_pb2 import Task
from taskflow.task.v1.task_service_pb2 import CreateTaskRequest
from taskflow.task.v1.task_service_pb2_grpc import TaskServiceStub
from tests.bench.load.channels import channels


async def inbox(spec: Any, control: Any) -> dict[str, Any]:
    """A stream per token of `tokens`, over `connections`, until all together had `messages`, or for `patience`.

    Result: arrival time (seconds) of each task's notification, the number of streams that ended or had a gap, and the
    bytes of one message.
    """
    received: dict[str, float] = {}
    found = {"ended": 0, "holes": 0, "repeated": 0, "bytes": 0}
    complete = asyncio.Event()
    async with channels(spec["address"], spec["connections"]) as opened:
        stubs = [NotificationServiceStub(channel) for channel in opened]

        async def follow(messages: AsyncIterator[Any], sequence: int) -> None:
            try:
                async for message in messages:
                    if not message.change.HasField("created"):
                        continue
                    now = time.monotonic()
                    task_id = message.change.created.task_id
                    found["repeated"] += task_id in received
                    received[task_id] = now
                    found["holes"] += message.change.sequence != sequence + 1
                    sequence = message.change.sequence
                    found["bytes"] = message.ByteSize()
                    if len(received) == spec["messages"]:
                        complete.set()
                found["ended"] += 1
            except grpc.aio.AioRpcError:
                found["ended"] += 1

        async def begin(number: int, token: str) -> asyncio.Task[None]:
            call = stubs[number % len(stubs)].WatchNotifications(
                WatchNotificationsRequest(), metadata=(("authorization", f"Bearer {token}"),)
            )
            messages = aiter(call)
            first: Any = await anext(messages)
            return asyncio.create_task(follow(messages, first.heartbeat.head_sequence))

        following = []
        for start in range(0, len(spec["tokens"]), 100):
            part = enumerate(spec["tokens"][start : start + 100], start)
            following += await asyncio.gather(*(begin(*one) for one in part))
        await control.start()
        with suppress(TimeoutError):
            await asyncio.wait_for(complete.wait(), spec["patience"])
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
    return {**found, "missing": spec["messages"] - len(received), "received": received}


async def author(spec: Any, control: Any) -> dict[str, Any]:
    """Create `rate` tasks per second for `seconds`, even while calls wait, each for the next of `assignees`.

    Result: start and answer time of each call (seconds), by task id, and the number of failures.
    """
    created: dict[str, tuple[float, float]] = {}
    failed = 0
    assignees, projects = spec["assignees"], spec["projects"]
    metadata = (("authorization", f"Bearer {spec['token']}"),)
    async with grpc.aio.insecure_channel(spec["address"]) as channel:
        await channel.channel_ready()
        stub = TaskServiceStub(channel)

        async def create(number: int) -> None:
            nonlocal failed
            request = CreateTaskRequest(
                project_id=projects[number % len(projects)],
                task=Task(
                    title=f"Check pump {number}", assignee_id=assignees[number % len(assignees)]
                ),
            )
            began = time.monotonic()
            try:
                answer = await stub.CreateTask(request, metadata=metadata)
            except grpc.aio.AioRpcError:
                failed += 1
                return
            created[answer.task.id] = began, time.monotonic()

        await control.start()
        begin = time.monotonic()
        calls = []
        for number in range(int(spec["rate"] * spec["seconds"])):
            await asyncio.sleep(max(0, begin + number / spec["rate"] - time.monotonic()))
            calls.append(asyncio.create_task(create(number)))
        await asyncio.gather(*calls)
    return {"created": created, "failed": failed}
