"""Promises of gRPC reflection: clients find every kind of symbol, in both versions of the service."""

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha.reflection_pb2 import (
    ServerReflectionRequest,
    ServerReflectionResponse,
)

from services.platform.config import Settings
from services.platform.rpc.gate import Gate
from services.platform.rpc.identity import Identity
from services.platform.rpc.methods import public_services
from services.platform.rpc.reflection import add_reflection


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    async def no_keys() -> list[Any]:
        return []

    settings = Settings()
    server = grpc.aio.server(interceptors=[Gate(settings, Identity(settings, no_keys))])
    add_reflection(server, public_services())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(0)


async def _ask(channel: grpc.aio.Channel, version: str, **asked: Any) -> ServerReflectionResponse:
    call: Any = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=ServerReflectionRequest.SerializeToString,
        response_deserializer=ServerReflectionResponse.FromString,
    )
    answers: list[ServerReflectionResponse] = [
        part async for part in call(iter([ServerReflectionRequest(**asked)]))
    ]
    return answers[0]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        ("taskflow.task.v1.TaskService", "taskflow/task/v1/task_service.proto"),
        ("taskflow.task.v1.TaskService.CreateTask", "taskflow/task/v1/task_service.proto"),
        ("taskflow.task.v1.Task", "taskflow/task/v1/task.proto"),
        ("taskflow.task.v1.Task.title", "taskflow/task/v1/task.proto"),
        ("taskflow.auth.v1.Role", "taskflow/auth/v1/workspace.proto"),
        ("taskflow.auth.v1.ROLE_OWNER", "taskflow/auth/v1/workspace.proto"),
        ("taskflow.options.v1.method", "taskflow/options/v1/options.proto"),
        ("google.protobuf.Struct.FieldsEntry", "google/protobuf/struct.proto"),
        ("google.protobuf.Value.kind", "google/protobuf/struct.proto"),
    ],
    ids=lambda value: value.rpartition("/")[2].rpartition(".v1.")[2],
)
async def test_the_file_of_each_kind_of_symbol_is_found(
    channel: grpc.aio.Channel, version: str, symbol: str, file: str
) -> None:
    answer = await _ask(channel, version, file_containing_symbol=symbol)
    files = answer.file_descriptor_response.file_descriptor_proto
    assert files, answer.error_response
    assert FileDescriptorProto.FromString(files[0]).name == file


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
@pytest.mark.parametrize("symbol", ["taskflow.task.v1.TaskService.Nothing", "nothing", "", "."])
async def test_an_unknown_symbol_is_not_found(
    channel: grpc.aio.Channel, version: str, symbol: str
) -> None:
    answer = await _ask(channel, version, file_containing_symbol=symbol)
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_the_public_services_are_listed(channel: grpc.aio.Channel, version: str) -> None:
    answer = await _ask(channel, version, list_services="")
    assert [one.name for one in answer.list_services_response.service] == public_services()
