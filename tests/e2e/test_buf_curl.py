"""The gateway as `buf curl` uses it, with nothing but reflection."""

import asyncio
import json
import sys
from pathlib import Path

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


async def test_a_task_is_created_using_only_reflection(gateway: str) -> None:
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
