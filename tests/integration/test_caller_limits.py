"""Limits of users, workspaces and addresses: who reaches one is told which, and nobody else notices."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import grpc
import grpc.aio
import psycopg
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from deploy.local.ports import free_ports
from services.platform.config import Settings
from services.task.board import messages
from taskflow.error.v1 import error_reason_pb2 as reasons
from taskflow.event.v1.event_pb2 import Event
from taskflow.task.v1.task_pb2 import Task, TaskFilter
from taskflow.task.v1.task_service_pb2 import GetTaskRequest, ListTasksRequest, UpdateTaskRequest
from taskflow.task.v1.task_service_pb2_grpc import TaskServiceStub
from tests.conftest import serving, superuser
from tests.integration.people import Refusal, Team, read_refusal, refusal, team_at
from tests.integration.task_world import TaskWorld, a_task_world, next_event

_REASON = reasons.ErrorReason.Name(reasons.ERROR_REASON_CALLER_LIMIT_REACHED).removeprefix(
    "ERROR_REASON_"
)
# A search takes longer than this budget (seconds per minute) allows.
_NO_TIME = 1e-6


@pytest.fixture
async def world(services: Settings) -> AsyncIterator[TaskWorld]:
    """A workspace whose owner calls a task process with low limits."""
    grpc_port, http_port = free_ports(2)
    strict = services.model_copy(
        update={
            "task_port": grpc_port,
            "task_http_port": http_port,
            "user_calls": 3,
            "user_streams": 2,
            "user_search_seconds": _NO_TIME,
        }
    )
    # The settings object caches addresses that were read.
    strict = Settings(**strict.model_dump())
    async with (
        serving("task", strict),
        a_task_world(services) as made,
        grpc.aio.insecure_channel(strict.task) as channel,
    ):
        limited = replace(made, channel=channel)
        limited.tasks = TaskServiceStub(channel)
        yield limited


def _check(refused: Refusal, limit: str, scope: str = "user") -> None:
    assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, _REASON)
    assert refused.metadata == {"limit": limit, "scope": scope}
    assert refused.retry_after


async def test_calls_beyond_a_users_share_are_refused_by_name_and_others_are_served(
    services: Settings, world: TaskWorld
) -> None:
    ben = await world.member("ben")
    task = await world.create()
    title = UpdateTaskRequest(
        task=Task(id=task.id, title="Renamed"), update_mask=FieldMask(paths=["title"])
    )
    read = GetTaskRequest(id=task.id)
    async with await psycopg.AsyncConnection.connect(superuser(services)) as holder:
        # Calls that change the task wait for this lock, so they are in progress at the same time.
        await holder.execute("SELECT 1 FROM task.tasks WHERE id = %s FOR UPDATE", [task.id])
        waiting = [
            asyncio.ensure_future(world.tasks.UpdateTask(title, metadata=world.me))
            for _ in range(10)
        ]
        async with asyncio.timeout(20):
            while sum(call.done() for call in waiting) < 7:
                await asyncio.sleep(0.01)
        _check(await refusal(world.tasks.GetTask(read, metadata=world.me)), "calls_at_once")
        assert (await world.tasks.GetTask(read, metadata=ben.credentials)).task.id == task.id
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert len(refused) == 7, "three calls at once are a user's share"
    for one in refused:
        _check(read_refusal(one), "calls_at_once")
    assert (await world.get(task)).title == "Renamed", "and then it's over"


async def test_streams_beyond_a_users_share_are_refused_and_a_closed_one_makes_room(
    world: TaskWorld,
) -> None:
    ben = await world.member("ben")
    streams = [await world.opened() for _ in range(2)]
    _check(await refusal(world.watch().read()), "streams")
    other = await world.opened(ben)
    streams[0].cancel()
    async with asyncio.timeout(10):
        while True:
            try:
                streams[0] = await world.opened()
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)
    for stream in (*streams, other):
        stream.cancel()


async def test_a_search_beyond_the_budget_is_refused_while_lists_and_others_go_on(
    world: TaskWorld,
) -> None:
    ben = await world.member("ben")
    task = await world.create("Renew the certificate")
    request = ListTasksRequest(
        workspace_id=world.workspace_id, filter=TaskFilter(text="certificate")
    )
    found = await world.tasks.ListTasks(request, metadata=world.me)
    assert [one.id for one in found.tasks] == [task.id]
    _check(await refusal(world.tasks.ListTasks(request, metadata=world.me)), "database_time")
    assert set(await world.listed()) == {task.id}
    assert (await world.tasks.ListTasks(request, metadata=ben.credentials)).tasks


async def test_an_event_is_parsed_once_for_all_filtered_streams_of_the_process(
    services: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []
    before_and_after = messages.before_and_after

    def counting(event: Event) -> tuple[Task | None, Task]:
        parsed.append(event.task_created.task.title)
        return before_and_after(event)

    monkeypatch.setattr(messages, "before_and_after", counting)
    async with a_task_world(services) as world:
        streams = [
            await world.opened(filter=TaskFilter(text=f"number {number % 2}"))
            for number in range(20)
        ]
        await world.create("number 1")
        for stream in streams[1::2]:
            assert (await next_event(stream)).change.task.title == "number 1"
        await world.create("number 0")
        for stream in streams[::2]:
            assert (await next_event(stream)).change.task.title == "number 0"
        for stream in streams:
            stream.cancel()
    assert parsed.count("number 1") == parsed.count("number 0") == 1


@pytest.fixture
async def team(services: Settings) -> AsyncIterator[Team]:
    async with team_at(services) as team:
        yield team


async def test_many_registrations_at_once_leave_logins_their_places(team: Team) -> None:
    ada = await team.register()
    registering = [asyncio.create_task(team.register("flood")) for _ in range(40)]
    # Until some of them wait for their turn.
    await asyncio.wait(registering, return_when=asyncio.FIRST_COMPLETED)
    for _ in range(3):
        assert (await team.login(ada.email)).id == ada.id
    answers = await asyncio.gather(*registering, return_exceptions=True)
    assert not any(
        isinstance(answer, BaseException) and not isinstance(answer, grpc.aio.AioRpcError)
        for answer in answers
    )
