"""`python -m tests.bench.echo_server`: a bare grpc.aio server, the floor (baseline) for calls and streams.

It answers CreateTask and GetTask with recorded answers of the product, and sends a message to all WatchTasks streams
for every UpdateTask. It authenticates, validates and stores nothing. Standard input: a line of JSON with `address` and,
in base64, the answers `create` and `get` and the stream message `change`.
"""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from taskflow.task.v1.task_service_pb2 import (
    CreateTaskRequest,
    CreateTaskResponse,
    GetTaskRequest,
    GetTaskResponse,
    UpdateTaskRequest,
    UpdateTaskResponse,
    WatchTasksRequest,
    WatchTasksResponse,
)
from tests.bench.load.control import Control


def _codec(request: type[Message], response: type[Message]) -> tuple[Any, Any]:
    return request.FromString, response.SerializeToString


class Echo:
    def __init__(self, spec: dict[str, str]) -> None:
        self._create = CreateTaskResponse.FromString(base64.b64decode(spec.get("create", "")))
        self._get = GetTaskResponse.FromString(base64.b64decode(spec.get("get", "")))
        self._change = WatchTasksResponse.FromString(base64.b64decode(spec.get("change", "")))
        self._changes = 0
        self._changed = asyncio.Event()

    def handlers(self) -> Any:
        unary = grpc.unary_unary_rpc_method_handler
        stream = grpc.unary_stream_rpc_method_handler
        return grpc.method_handlers_generic_handler(
            "taskflow.task.v1.TaskService",
            {
                "CreateTask": unary(self.create, *_codec(CreateTaskRequest, CreateTaskResponse)),
                "GetTask": unary(self.get, *_codec(GetTaskRequest, GetTaskResponse)),
                "UpdateTask": unary(self.update, *_codec(UpdateTaskRequest, UpdateTaskResponse)),
                "WatchTasks": stream(self.watch, *_codec(WatchTasksRequest, WatchTasksResponse)),
            },
        )

    async def create(self, request: CreateTaskRequest, context: Any) -> CreateTaskResponse:
        answer = CreateTaskResponse()
        answer.CopyFrom(self._create)
        answer.task.title = request.task.title
        return answer

    async def get(self, request: GetTaskRequest, context: Any) -> GetTaskResponse:
        answer = GetTaskResponse()
        answer.CopyFrom(self._get)
        answer.task.id = request.id
        return answer

    async def update(self, request: UpdateTaskRequest, context: Any) -> UpdateTaskResponse:
        self._changes += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        return UpdateTaskResponse(task=request.task)

    async def watch(
        self, request: WatchTasksRequest, context: Any
    ) -> AsyncGenerator[WatchTasksResponse, None]:
        shown = self._changes
        yield WatchTasksResponse(heartbeat=WatchTasksResponse.Heartbeat())
        while True:
            while shown < self._changes:
                shown += 1
                yield self._change
            await self._changed.wait()


async def main() -> None:
    control = await Control.on_stdin()
    spec = json.loads(await control.line())
    server = grpc.aio.server(
        options=[("grpc.so_reuseport", 0), ("grpc.max_concurrent_streams", 21_000)]
    )
    server.add_generic_rpc_handlers((Echo(spec).handlers(),))
    if server.add_insecure_port(spec["address"]) == 0:
        raise OSError(f"{spec['address']} is taken")
    await server.start()
    await control.start()
    await control.stopped()
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main())
