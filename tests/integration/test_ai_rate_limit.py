"""Promises of the AI call limits: requests are refused, new tasks wait for a slot, and nothing is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
import pytest
from sqlalchemy import Uuid, bindparam, text

from deploy.local.ports import free_ports
from services.platform.config import Settings
from services.platform.data.db import Statement
from services.platform.data.retention import run_once
from services.task.tasks import retention
from taskflow.task.v1.internal_service_pb2 import (
    FailEnrichmentRequest,
    GetEnrichmentInputRequest,
    GetEnrichmentInputResponse,
)
from taskflow.task.v1.job_pb2 import JOB_STATE_FAILED, JOB_STATE_PENDING
from taskflow.task.v1.job_service_pb2 import ListJobsRequest, RetryJobRequest
from taskflow.task.v1.suggestion_service_pb2 import RequestSuggestionsRequest
from taskflow.task.v1.suggestion_service_pb2_grpc import SuggestionServiceStub
from taskflow.task.v1.task_pb2 import Task
from tests.conftest import serving
from tests.integration.people import Person, events, refusal
from tests.integration.task_world import TaskWorld, a_task_world

_OF_PERSON, _OF_WORKSPACE = 3, 5
_ELAPSE = Statement(
    text("UPDATE task.ai_calls SET allowed_at = allowed_at - CAST(:time AS interval)")
)
_COUNT = Statement(
    text("SELECT count(*) AS calls FROM task.ai_calls WHERE key = :key").bindparams(
        bindparam("key", type_=Uuid)
    )
)


@asynccontextmanager
async def limited(services: Settings, **limits: int) -> AsyncIterator[Settings]:
    """Another process of the task service, with its own limits."""
    ports = dict(zip(("task_port", "task_http_port"), free_ports(2), strict=True))
    settings = Settings(**services.model_dump() | ports | limits | {"task_address": None})
    async with serving("task", settings):
        yield settings


@pytest.fixture(scope="module")
async def processes(services: Settings) -> AsyncIterator[list[Settings]]:
    """Two processes of the task service that share their limits."""
    limits = {"ai_calls_per_user": _OF_PERSON, "ai_calls_per_workspace": _OF_WORKSPACE}
    async with AsyncExitStack() as running:
        yield [await running.enter_async_context(limited(services, **limits)) for _ in range(2)]


@pytest.fixture
async def world(processes: list[Settings]) -> AsyncIterator[TaskWorld]:
    async with a_task_world(processes[0]) as made:
        yield made


async def ask(world: TaskWorld, task: Task, who: Person | None = None) -> None:
    await world.suggestions.RequestSuggestions(
        RequestSuggestionsRequest(task_id=task.id), metadata=(who or world.owner).credentials
    )


async def look(world: TaskWorld, task: Task, text_revision: int = 1) -> GetEnrichmentInputResponse:
    """Ask for a slot, as a worker does before it calls the AI."""
    return await world.worker_suggestions.GetEnrichmentInput(
        GetEnrichmentInputRequest(task_id=task.id, text_revision=text_revision),
        metadata=world.service,
    )


async def wait_of(world: TaskWorld, task: Task) -> timedelta | None:
    answer = await look(world, task)
    assert answer.wanted
    assert answer.HasField("wait") != bool(answer.title)
    return answer.wait.ToTimedelta() if answer.HasField("wait") else None


async def elapse(world: TaskWorld, time: timedelta) -> None:
    """Let time pass for the limits, by moving stored times into the past."""
    async with world.db.transaction() as tx:
        await tx.run(_ELAPSE, time=time)


async def counted(world: TaskWorld, key: str) -> int:
    async with world.db.read() as tx:
        row: Any = await tx.one(_COUNT, key=key)
    return int(row.calls)


async def test_a_user_over_the_limit_is_refused_with_a_retry_delay_and_others_are_not(
    world: TaskWorld,
) -> None:
    task = await world.create()
    colleague = await world.member("milo")
    for _ in range(_OF_PERSON):
        await ask(world, task)
    refused = await refusal(ask(world, task))
    assert (refused.code, refused.reason) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "AI_LIMIT_REACHED",
    )
    assert refused.metadata == {"of": "user", "limit": str(_OF_PERSON)}
    assert refused.retry_after is not None
    assert 3500 < refused.retry_after <= 3600
    subject = f"taskflow.{world.workspace_id}.task.suggestions_requested"
    assert len(await events(world.db, subject)) == _OF_PERSON
    await ask(world, task, colleague)
    await elapse(world, timedelta(minutes=50))
    refused = await refusal(ask(world, task))
    assert refused.retry_after is not None
    assert 500 < refused.retry_after <= 600
    await elapse(world, timedelta(minutes=11))
    await ask(world, task)


async def test_the_limit_holds_for_concurrent_requests_at_several_processes(
    world: TaskWorld, processes: list[Settings]
) -> None:
    tasks = [await world.create() for _ in range(8)]
    async with grpc.aio.insecure_channel(processes[1].task) as channel:
        elsewhere = SuggestionServiceStub(channel)
        asked = await asyncio.gather(
            *(
                stub.RequestSuggestions(
                    RequestSuggestionsRequest(task_id=task.id), metadata=world.me
                )
                for task in tasks
                for stub in (world.suggestions, elsewhere)
            ),
            return_exceptions=True,
        )
    refused = [error for error in asked if isinstance(error, grpc.aio.AioRpcError)]
    assert len(asked) - len(refused) == _OF_PERSON
    assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}


async def test_a_workspace_has_a_limit_shared_by_all_its_members(world: TaskWorld) -> None:
    task = await world.create()
    people = [world.owner, await world.member("milo")]
    for number in range(_OF_WORKSPACE):
        await ask(world, task, people[number % 2])
    third = await world.member("lea")
    refused = await refusal(ask(world, task, third))
    assert refused.metadata == {"of": "workspace", "limit": str(_OF_WORKSPACE)}
    # Refused requests aren't counted.
    assert await counted(world, third.id) == 0


async def test_new_tasks_beyond_the_limit_wait_in_order_and_keep_their_slots(
    world: TaskWorld,
) -> None:
    tasks = [await world.create() for _ in range(2 * _OF_WORKSPACE + 1)]
    waits = [await wait_of(world, task) for task in tasks]
    assert waits[:_OF_WORKSPACE] == [None] * _OF_WORKSPACE
    hours = [round(wait / timedelta(hours=1), 2) for wait in waits[_OF_WORKSPACE:] if wait]
    assert hours == [1.0] * _OF_WORKSPACE + [2.0]
    # A worker that asks again, as after an error, doesn't use a second slot.
    again = [await wait_of(world, task) for task in tasks]
    assert [wait is None for wait in again] == [wait is None for wait in waits]
    assert all(late <= early for early, late in zip(waits, again, strict=True) if early and late)
    assert await counted(world, world.workspace_id) == len(tasks)
    await elapse(world, timedelta(hours=1))
    assert [await wait_of(world, task) for task in tasks[:-1]] == [None] * 2 * _OF_WORKSPACE
    assert await wait_of(world, tasks[-1])
    await elapse(world, timedelta(hours=1))
    assert await wait_of(world, tasks[-1]) is None


async def test_a_request_does_not_overtake_waiting_new_tasks(world: TaskWorld) -> None:
    tasks = [await world.create() for _ in range(_OF_WORKSPACE + 1)]
    for task in tasks:
        await look(world, task)
    refused = await refusal(ask(world, tasks[0]))
    assert refused.metadata["of"] == "workspace"


async def test_a_text_is_counted_once_and_outdated_or_unwanted_texts_never(
    world: TaskWorld,
) -> None:
    task = await world.create()
    await ask(world, task)
    assert await wait_of(world, task) is None
    assert await counted(world, world.workspace_id) == 1
    changed = await world.update(task, title="Another title")
    assert (await look(world, changed, 1)).text_revision == 2
    await world.delete(changed)
    assert not (await look(world, changed, 2)).wanted
    assert await counted(world, world.workspace_id) == 1


async def test_a_text_that_would_wait_over_12_hours_reserves_no_slot(
    world: TaskWorld,
) -> None:
    tasks = [await world.create() for _ in range(13 * _OF_WORKSPACE + 2)]
    waits = [await wait_of(world, task) for task in tasks]
    assert all(wait is None or wait <= timedelta(hours=12) for wait in waits[:-2])
    assert [wait and wait > timedelta(hours=12) for wait in waits[-2:]] == [True, True]
    assert await counted(world, world.workspace_id) == 13 * _OF_WORKSPACE


async def test_a_retried_enrichment_counts_and_is_refused_like_a_request(world: TaskWorld) -> None:
    task = await world.create()
    await world.worker_suggestions.FailEnrichment(
        FailEnrichmentRequest(task_id=task.id, base_text_revision=1, error="no model"),
        metadata=world.service,
    )
    listed = await world.jobs.ListJobs(
        ListJobsRequest(workspace_id=world.workspace_id), metadata=world.me
    )
    retry = RetryJobRequest(id=listed.jobs[0].id)
    for _ in range(_OF_PERSON):
        await ask(world, task)
    refused = await refusal(world.jobs.RetryJob(retry, metadata=world.me))
    assert refused.reason == "AI_LIMIT_REACHED"
    listed = await world.jobs.ListJobs(
        ListJobsRequest(workspace_id=world.workspace_id), metadata=world.me
    )
    assert listed.jobs[0].state == JOB_STATE_FAILED
    await elapse(world, timedelta(hours=1))
    answer = await world.jobs.RetryJob(retry, metadata=world.me)
    assert answer.job.state == JOB_STATE_PENDING


async def test_expired_call_records_are_deleted_and_counting_continues(
    world: TaskWorld,
) -> None:
    tasks = [await world.create() for _ in range(_OF_WORKSPACE + 1)]
    for task in tasks[:2]:
        await look(world, task)
    await elapse(world, timedelta(minutes=61))
    for task in tasks[2:-1]:
        await look(world, task)
    await run_once(world.db, retention.kinds(world.settings))
    assert await counted(world, world.workspace_id) == len(tasks) - 3
    assert await wait_of(world, tasks[-1]) is None
    await elapse(world, timedelta(minutes=61))
    await run_once(world.db, retention.kinds(world.settings))
    assert await counted(world, world.workspace_id) == 0
    assert await wait_of(world, await world.create()) is None


async def test_without_limits_nothing_is_counted(services: Settings) -> None:
    async with (
        limited(services, ai_calls_per_user=0, ai_calls_per_workspace=0) as settings,
        a_task_world(settings) as world,
    ):
        task = await world.create()
        for _ in range(20):
            await ask(world, task)
        assert await wait_of(world, task) is None
        assert await counted(world, world.workspace_id) == 0
        assert await counted(world, world.owner.id) == 0
