"""SIGKILL each process in turn under light load: no acknowledged write is lost, no stream misses a change."""

import asyncio
import signal
import uuid
from dataclasses import dataclass, field

import pytest

from deploy.local.stack import Stack
from taskflow.auth.v1 import workspace_pb2, workspace_service_pb2
from taskflow.notification.v1 import notification_service_pb2
from taskflow.task.v1 import project_pb2, project_service_pb2, task_pb2, task_service_pb2
from taskflow_client import TaskFlow
from taskflow_client.errors import TaskFlowError

VICTIMS = [
    "postgres",
    "nats",
    "temporal",
    "auth",
    "task",
    "notification",
    "relay",
    "worker",
    "envoy",
]


@dataclass
class CreatedTasks:
    """Tasks created by one user for another: acknowledged, seen on the board, and notified, by sequence."""

    acknowledged: set[str] = field(default_factory=set)
    on_board: set[str] = field(default_factory=set)
    notified: dict[int, str] = field(default_factory=dict)


async def _person(client: TaskFlow) -> str:
    """Registers and logs in; returns the e-mail address."""
    address = f"{uuid.uuid4().hex}@example.com"
    await client.register(address, "correct horse battery", "Someone")
    await client.login(address, "correct horse battery")
    return address


async def _tasks(client: TaskFlow, workspace_id: str) -> set[str]:
    request = task_service_pb2.ListTasksRequest(workspace_id=workspace_id, page_size=1000)
    found: set[str] = set()
    while True:
        page = await client.tasks.ListTasks(request)
        found |= {task.id for task in page.tasks}
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


@pytest.mark.parametrize("victim", VICTIMS)
async def test_killing_a_process_loses_no_acknowledged_write(
    whole: Stack, gateway: str, victim: str
) -> None:
    load = CreatedTasks()
    async with TaskFlow(gateway) as owner, TaskFlow(gateway) as colleague:
        await _person(owner)
        address = await _person(colleague)
        workspace = (
            await owner.workspaces.CreateWorkspace(
                workspace_service_pb2.CreateWorkspaceRequest(display_name="Crash")
            )
        ).workspace
        member = (
            await owner.workspaces.AddMember(
                workspace_service_pb2.AddMemberRequest(
                    workspace_id=workspace.id, email=address, role=workspace_pb2.ROLE_MEMBER
                )
            )
        ).member
        project = (
            await owner.projects.CreateProject(
                project_service_pb2.CreateProjectRequest(
                    workspace_id=workspace.id,
                    project=project_pb2.Project(key="CRASH", display_name="Crash"),
                )
            )
        ).project

        async def board() -> None:
            async for message in owner.watch_tasks(workspace.id, snapshot=True):
                if message.HasField("change"):
                    load.on_board.add(message.change.task.id)
                elif message.HasField("snapshot"):
                    load.on_board.add(message.snapshot.id)

        async def inbox() -> None:
            async for message in colleague.watch_notifications():
                if message.change.HasField("created"):
                    load.notified[message.change.sequence] = message.change.created.task_id

        async def create() -> None:
            while True:
                try:
                    answer = await owner.tasks.CreateTask(
                        task_service_pb2.CreateTaskRequest(
                            project_id=project.id,
                            task=task_pb2.Task(title="Survive", assignee_id=member.user_id),
                        )
                    )
                    load.acknowledged.add(answer.task.id)
                except TaskFlowError:
                    pass
                await asyncio.sleep(0.05)

        streams = [asyncio.create_task(board()), asyncio.create_task(inbox())]
        await asyncio.sleep(0.7)
        creating = [asyncio.create_task(create()) for _ in range(2)]
        await asyncio.sleep(0.7)
        whole.kill(victim, signal.SIGKILL)
        await asyncio.sleep(0.3)
        await whole.wait_ready(victim)
        before = len(load.acknowledged)
        async with asyncio.timeout(30):
            while len(load.acknowledged) < before + 20:
                await asyncio.sleep(0.05)
        for task in creating:
            task.cancel()
        await asyncio.gather(*creating, return_exceptions=True)

        # A create that timed out may still take effect, so compare the streams with the list, not with the answers.
        # Events that the killed process had received are redelivered after 8 s.
        async with asyncio.timeout(30):
            while True:
                kept = await _tasks(owner, workspace.id)
                told = await colleague.notifications.ListNotifications(
                    notification_service_pb2.ListNotificationsRequest(page_size=1000)
                )
                listed = {n.sequence: n.task_id for n in told.notifications}
                if kept == load.on_board == set(listed.values()) and listed == load.notified:
                    break
                await asyncio.sleep(0.2)
        for stream in streams:
            assert not stream.done(), stream.exception()
            stream.cancel()
        assert load.acknowledged <= kept
        assert sorted(load.notified) == list(range(1, len(kept) + 1))
