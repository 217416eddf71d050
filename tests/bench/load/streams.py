"""Large numbers of streams: how quickly a change reaches all, and whether heartbeats are on time."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc.aio

from taskflow.notification.v1.notification_service_pb2 import WatchNotificationsRequest
from taskflow.notification.v1.notification_service_pb2_grpc import NotificationServiceStub
from taskflow.task.v1.task_service_pb2 import WatchTasksRequest
from taskflow.task.v1.task_service_pb2_grpc import TaskServiceStub
from tests.bench.load.channels import channels

# Streams opened concurrently.
_OPENING = 100


async def watch(spec: Any, control: Any) -> dict[str, Any]:
    """`streams` WatchTasks streams of `workspace_id` over `connections`, until each had `changes`, or for `patience`.

    Result: for the n-th change, how many streams had it and when the last one did (seconds); how many streams ended;
    one message in wire format.
    """
    counts: list[int] = []
    last: list[float] = []
    ended = 0
    sample = b""
    left = spec["streams"] * spec["changes"]
    complete = asyncio.Event()
    async with channels(spec["address"], spec["connections"]) as opened:
        stubs = [TaskServiceStub(channel) for channel in opened]
        request = WatchTasksRequest(workspace_id=spec["workspace_id"])

        async def follow(messages: AsyncIterator[Any]) -> None:
            nonlocal ended, left, sample
            number = 0
            try:
                async for message in messages:
                    if not message.change.task.title:
                        continue
                    now = time.monotonic()
                    if number == len(counts):
                        counts.append(0)
                        last.append(now)
                        sample = message.SerializeToString()
                    counts[number] += 1
                    last[number] = now
                    number += 1
                    left -= 1
                    if not left:
                        complete.set()
            except grpc.aio.AioRpcError:
                pass
            ended += 1

        async def begin(number: int) -> asyncio.Task[None]:
            token = spec["tokens"][number % len(spec["tokens"])]
            call = stubs[number % len(stubs)].WatchTasks(
                request, metadata=(("authorization", f"Bearer {token}"),)
            )
            messages = aiter(call)
            first: Any = await anext(messages)
            if first.WhichOneof("kind") != "heartbeat":
                raise RuntimeError("the stream doesn't begin with a heartbeat")
            return asyncio.create_task(follow(messages))

        following = await _opened(begin, spec["streams"])
        await control.start()
        with suppress(TimeoutError):
            await asyncio.wait_for(complete.wait(), spec["patience"])
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
    return {
        "counts": counts,
        "last": last,
        "ended": ended,
        "missing": left,
        "sample": base64.b64encode(sample).decode(),
    }


async def hold(spec: Any, control: Any) -> dict[str, Any]:
    """A stream of `service` per token of `tokens` over `connections`, until stopped.

    Result: the number of streams that ended, the number of pauses between heartbeats after the start, and the longest
    pause of each stream (seconds).
    """
    ended = 0
    pauses: list[float] = []
    count = 0
    started = float("inf")
    async with channels(spec["address"], spec["connections"]) as opened:

        def open_stream(number: int) -> Any:
            channel = opened[number % len(opened)]
            metadata = (("authorization", f"Bearer {spec['tokens'][number]}"),)
            if spec["service"] == "task":
                return TaskServiceStub(channel).WatchTasks(
                    WatchTasksRequest(workspace_id=spec["workspace_id"]), metadata=metadata
                )
            return NotificationServiceStub(channel).WatchNotifications(
                WatchNotificationsRequest(), metadata=metadata
            )

        async def follow(messages: AsyncIterator[Any]) -> None:
            nonlocal ended, count
            before = None
            longest = 0.0
            try:
                async for message in messages:
                    if message.WhichOneof("kind") != "heartbeat":
                        continue
                    now = time.monotonic()
                    if before is not None and now > started:
                        longest = max(longest, now - before)
                        count += 1
                    before = now
                ended += 1
            except grpc.aio.AioRpcError:
                ended += 1
            finally:
                pauses.append(longest)

        async def begin(number: int) -> asyncio.Task[None]:
            messages = aiter(open_stream(number))
            await anext(messages)
            return asyncio.create_task(follow(messages))

        following = await _opened(begin, len(spec["tokens"]))
        await control.start()
        started = time.monotonic()
        await control.stopped()
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
    return {"ended": ended, "heartbeats": count, "longest": pauses}


async def _opened(begin: Any, count: int) -> list[asyncio.Task[None]]:
    following: list[asyncio.Task[None]] = []
    for first in range(0, count, _OPENING):
        part = range(first, min(first + _OPENING, count))
        following += await asyncio.gather(*map(begin, part))
    return following
