"""Streams that notice silence, reconnect by themselves, and resume after the last message."""

import asyncio
import inspect
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import grpc

from taskflow.notification.v1.notification_service_pb2 import (
    WatchNotificationsRequest,
    WatchNotificationsResponse,
)
from taskflow.notification.v1.notification_service_pb2_grpc import NotificationServiceStub
from taskflow.task.v1.task_pb2 import TaskFilter
from taskflow.task.v1.task_service_pb2 import WatchTasksRequest, WatchTasksResponse
from taskflow.task.v1.task_service_pb2_grpc import TaskServiceStub
from taskflow_client.errors import (
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    TaskFlowError,
    Unauthenticated,
    Unavailable,
)
from taskflow_client.interceptors import RENEWABLE, backoff

# Called with the cursor of a message once the consumer has processed it.
OnCursor = Callable[[str], Awaitable[None] | None]
# Called with the failure that interrupted a stream, before the client resumes it.
OnReconnect = Callable[[TaskFlowError], None]

Response = TypeVar("Response")

# The wait before the first reconnect (seconds). Unary calls retry sooner, because a user may be waiting.
_FIRST_BACKOFF = 0.2
# The wait before a reconnect is multiplied by a random factor between 1 and this.
_LATEST = 1.5
# After this many INTERNAL failures in a row, the client gives up.
_FAULTS_IN_A_ROW = 5
# Codes that, without a TaskFlow reason, mean a broken connection: a proxy or a server process died.
_BROKEN_TRANSPORT = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
}


async def watch_notifications(
    stub: NotificationServiceStub,
    cursor: str,
    on_cursor: OnCursor | None,
    on_reconnect: OnReconnect | None,
    patience: float,
) -> AsyncGenerator[WatchNotificationsResponse, None]:
    position = cursor
    sequence = 0

    def open_call() -> Any:
        return stub.WatchNotifications(WatchNotificationsRequest(cursor=position))

    async with aclosing(_resuming(open_call, on_reconnect, patience)) as responses:
        async for response in responses:
            kind = response.WhichOneof("kind")
            if kind == "change":
                if response.change.sequence <= sequence:
                    continue
                sequence = response.change.sequence
            elif kind == "reset":
                sequence = 0
            position = response.cursor
            yield response
            await _processed(on_cursor, position)


async def watch_tasks(
    stub: TaskServiceStub,
    workspace_id: str,
    filter: TaskFilter | None,
    cursor: str,
    snapshot: bool,
    on_cursor: OnCursor | None,
    on_reconnect: OnReconnect | None,
    patience: float,
) -> AsyncGenerator[WatchTasksResponse, None]:
    if snapshot and cursor:
        raise ValueError("a stream starts with a snapshot or from a cursor, not both")
    position = cursor
    in_snapshot = snapshot
    shown = restarted = False

    def open_call() -> Any:
        nonlocal restarted
        restarted = shown
        return stub.WatchTasks(
            WatchTasksRequest(
                workspace_id=workspace_id,
                filter=filter,
                # An interrupted snapshot starts over: a cursor within it points after the whole
                # snapshot, so that resuming from there would skip the rest.
                cursor="" if in_snapshot else position,
                snapshot=in_snapshot,
            )
        )

    while True:
        async with aclosing(_resuming(open_call, on_reconnect, patience)) as responses:
            async for response in responses:
                kind = response.WhichOneof("kind")
                if restarted:
                    # The first part of the snapshot may be outdated: tell the consumer to start over.
                    restarted = shown = False
                    yield WatchTasksResponse(reset=WatchTasksResponse.Reset())
                if kind == "snapshot_complete":
                    in_snapshot = shown = False
                shown = shown or (in_snapshot and kind == "snapshot")
                position = response.cursor
                yield response
                if kind == "reset" and snapshot:
                    in_snapshot = True
                    break
                if not in_snapshot:
                    await _processed(on_cursor, position)


async def _resuming(
    open_call: Callable[[], Any], on_reconnect: OnReconnect | None, patience: float
) -> AsyncGenerator[Any, None]:
    """Yields the messages of successive calls until one fails with an error that doesn't pass."""
    failures = 0
    renewed = False
    while True:
        call = open_call()
        try:
            messages = aiter(call)
            while True:
                try:
                    # asyncio.wait_for would lose a cancellation that arrives together with a message.
                    async with asyncio.timeout(patience):
                        message = await anext(messages)
                except TaskFlowError as error:
                    failure = error
                    break
                except (StopAsyncIteration, TimeoutError) as end:
                    failure = _interrupted(end, patience)
                    break
                failures, renewed = 0, False
                yield message
        finally:
            call.cancel()
        if isinstance(failure, Unauthenticated):
            if renewed or failure.reason not in RENEWABLE:
                raise failure
            renewed = True  # the next call renews the token
        elif not _is_passing(failure, failures):
            raise failure
        if on_reconnect is not None:
            on_reconnect(failure)
        wait = max(failure.retry_after or 0.0, backoff(failures, _FIRST_BACKOFF))
        # Spreads the reconnects of all streams that a server ended when it shut down.
        await asyncio.sleep(wait * random.uniform(1.0, _LATEST))
        failures += 1


def _interrupted(end: BaseException, patience: float) -> TaskFlowError:
    silent = isinstance(end, TimeoutError)
    message = f"no message for {patience:g} s" if silent else "the stream ended"
    return Unavailable("", grpc.StatusCode.UNAVAILABLE, message)


def _is_passing(failure: TaskFlowError, failures: int) -> bool:
    if isinstance(failure, (Unavailable, ResourceExhausted, DeadlineExceeded)):
        return True
    if not failure.reason and failure.code in _BROKEN_TRANSPORT:
        return True
    return isinstance(failure, Internal) and failures < _FAULTS_IN_A_ROW


async def _processed(on_cursor: OnCursor | None, cursor: str) -> None:
    if on_cursor is not None:
        outcome = on_cursor(cursor)
        if inspect.isawaitable(outcome):
            await outcome
