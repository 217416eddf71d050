"""The single entry, with the tools that people have at hand: buf curl by reflection, and plain curl."""

import asyncio
import base64
import json
import struct
import sys
from pathlib import Path

from taskflow.auth.v1 import auth_service_pb2

BUF = Path(sys.executable).with_name("buf")


async def _run(*command: str) -> tuple[int, bytes]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, out


async def _buf(gateway: str, method: str, body: object, *arguments: str) -> dict[str, object]:
    curl = [str(BUF), "curl", "--protocol", "grpc", "--http2-prior-knowledge", *arguments]
    code, out = await _run(*curl, "-d", json.dumps(body), f"http://{gateway}/{method}")
    assert code == 0, out.decode()
    answer: dict[str, object] = json.loads(out)
    return answer


async def test_reflection_lists_every_public_service_and_no_internal_one(gateway: str) -> None:
    code, out = await _run(
        str(BUF),
        "curl",
        "--protocol",
        "grpc",
        "--http2-prior-knowledge",
        "--list-services",
        f"http://{gateway}",
    )
    assert code == 0, out.decode()
    services = set(out.decode().split())
    assert {
        "taskflow.auth.v1.AuthService",
        "taskflow.auth.v1.UserService",
        "taskflow.auth.v1.WorkspaceService",
        "taskflow.event.v1.DeadLetterService",
        "taskflow.notification.v1.NotificationService",
        "taskflow.task.v1.JobService",
        "taskflow.task.v1.ProjectService",
        "taskflow.task.v1.SuggestionService",
        "taskflow.task.v1.TaskService",
    } <= services
    assert not [service for service in services if "Internal" in service]


async def test_a_task_is_created_with_nothing_but_reflection(gateway: str) -> None:
    person = {"email": f"curl.{id(gateway):x}@example.com", "password": "correct horse"}
    await _buf(gateway, "taskflow.auth.v1.AuthService/Register", person | {"display_name": "Bo"})
    login = await _buf(gateway, "taskflow.auth.v1.AuthService/Login", person)
    header = ("-H", f"authorization: Bearer {login['tokens']['accessToken']}")  # type: ignore[index]
    made = await _buf(
        gateway,
        "taskflow.auth.v1.WorkspaceService/CreateWorkspace",
        {"display_name": "By curl"},
        *header,
    )
    workspace_id = made["workspace"]["id"]  # type: ignore[index]
    project = await _buf(
        gateway,
        "taskflow.task.v1.ProjectService/CreateProject",
        {"workspace_id": workspace_id, "project": {"key": "CURL", "display_name": "Curl"}},
        *header,
    )
    task = await _buf(
        gateway,
        "taskflow.task.v1.TaskService/CreateTask",
        {"project_id": project["project"]["id"], "task": {"title": "From the shell"}},  # type: ignore[index]
        *header,
    )
    assert task["task"]["key"] == "CURL-1"  # type: ignore[index]


async def test_grpc_web_works_with_plain_curl(gateway: str) -> None:
    message = auth_service_pb2.GetSigningKeysRequest().SerializeToString()
    body = base64.b64encode(struct.pack(">BI", 0, len(message)) + message).decode()
    code, out = await _run(
        "curl",
        "--silent",
        "--http1.1",
        "--header",
        "content-type: application/grpc-web-text",
        "--header",
        "accept: application/grpc-web-text",
        "--data",
        body,
        f"http://{gateway}/taskflow.auth.v1.AuthService/GetSigningKeys",
    )
    assert code == 0
    first = base64.b64decode(out.split(b"=")[0] + b"=" * (-len(out.split(b"=")[0]) % 4))
    (length,) = struct.unpack(">I", first[1:5])
    answer = auth_service_pb2.GetSigningKeysResponse.FromString(first[5 : 5 + length])
    assert answer.keys[0].alg == "ES256"
