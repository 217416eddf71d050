"""Promises of jobs: one per payload, an event per state, nothing done twice, failed jobs can be retried."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct

from services.platform.config import Settings
from taskflow.auth.v1.workspace_pb2 import Role
from taskflow.task.v1.internal_service_pb2 import (
    ClaimJobRequest,
    ClaimJobResponse,
    FinishJobRequest,
)
from taskflow.task.v1.job_pb2 import (
    JOB_KIND_PAYLOAD,
    JOB_STATE_DONE,
    JOB_STATE_FAILED,
    JOB_STATE_PENDING,
    JOB_STATE_PROCESSING,
    Job,
)
from taskflow.task.v1.job_service_pb2 import GetJobRequest, ListJobsRequest, RetryJobRequest
from taskflow.task.v1.task_pb2 import Task
from tests.integration.people import Person, events, refusal
from tests.integration.task_world import TaskWorld, a_task_world, next_event

_UNKNOWN = "0197a3c8-0000-7000-8000-000000000000"


@pytest.fixture
async def world(services: Settings) -> AsyncIterator[TaskWorld]:
    async with a_task_world(services) as made:
        yield made


def struct(**values: Any) -> Struct:
    made = Struct()
    made.update(values)
    return made


async def listed(world: TaskWorld, **request: Any) -> list[Job]:
    answer = await world.jobs.ListJobs(
        ListJobsRequest(workspace_id=world.workspace_id, **request), metadata=world.me
    )
    return list(answer.jobs)


async def a_job(world: TaskWorld, **payload: Any) -> Job:
    task = await world.create(payload=struct(**(payload or {"message": "hello"})))
    (job,) = await listed(world, task_id=task.id)
    return job


async def get(world: TaskWorld, job: Job, who: Person | None = None) -> Job:
    request = GetJobRequest(id=job.id)
    answer = await world.jobs.GetJob(request, metadata=(who or world.owner).credentials)
    found: Job = answer.job
    return found


async def claim(world: TaskWorld, job: Job, attempt: int = 1) -> ClaimJobResponse:
    answer: ClaimJobResponse = await world.worker_jobs.ClaimJob(
        ClaimJobRequest(job_id=job.id, attempt=attempt), metadata=world.service
    )
    return answer


async def finish(world: TaskWorld, job: Job, attempt: int = 1, **outcome: Any) -> Job:
    request = FinishJobRequest(job_id=job.id, attempt=attempt, **outcome)
    answer = await world.worker_jobs.FinishJob(request, metadata=world.service)
    found: Job = answer.job
    return found


async def retry(world: TaskWorld, job: Job, who: Person | None = None) -> Job:
    request = RetryJobRequest(id=job.id)
    answer = await world.jobs.RetryJob(request, metadata=(who or world.owner).credentials)
    found: Job = answer.job
    return found


async def told(world: TaskWorld, job: Job) -> list[tuple[str, int, Any]]:
    """The events of a job: type, revision and state."""
    found = await events(world.db, f"taskflow.{world.workspace_id}.job.%", job.id)
    return [(event.type, event.revision, event.job_changed.job.state) for event in found]


async def test_a_task_with_a_payload_gets_a_pending_job_and_one_without_gets_none(
    world: TaskWorld,
) -> None:
    plain = await world.create()
    assert await listed(world, task_id=plain.id) == []
    job = await a_job(world)
    assert (job.kind, job.state, job.attempt) == (JOB_KIND_PAYLOAD, JOB_STATE_PENDING, 1)
    assert (job.workspace_id, job.revision) == (world.workspace_id, 1)
    assert await told(world, job) == [("job.created", 1, JOB_STATE_PENDING)]
    assert await get(world, job) == job


async def test_each_new_payload_creates_a_job_and_other_changes_create_none(
    world: TaskWorld,
) -> None:
    task = await world.create()
    await world.update(task, payload=struct(message="one"))
    await world.update(task, payload=struct(message="one"))
    await world.update(task, title="Another title")
    await world.update(task, payload=struct(message="two"))
    await world.update(task, "payload")
    newer, older = await listed(world, task_id=task.id)
    assert (await claim(world, older)).payload == struct(message="one")
    assert (await claim(world, newer)).payload == struct(message="two")


async def test_a_job_goes_from_pending_through_processing_to_done_with_an_event_each(
    world: TaskWorld,
) -> None:
    call = await world.opened()
    job = await a_job(world, message="hello", numbers=[1, 2.5, None, {"deep": True}])
    claimed = await claim(world, job)
    assert claimed.claimed
    assert claimed.payload == struct(message="hello", numbers=[1, 2.5, None, {"deep": True}])
    assert claimed.job.state == JOB_STATE_PROCESSING
    assert claimed.job.HasField("start_time")
    done = await finish(world, job, result=struct(length=5))
    assert (done.state, done.error) == (JOB_STATE_DONE, "")
    assert done.result == struct(length=5)
    assert done.HasField("finish_time")
    assert await get(world, job) == done
    await next_event(call)
    shown = [(await next_event(call)).job for _ in range(3)]
    assert shown == [job, claimed.job, done]
    assert await told(world, job) == [
        ("job.created", 1, JOB_STATE_PENDING),
        ("job.updated", 2, JOB_STATE_PROCESSING),
        ("job.updated", 3, JOB_STATE_DONE),
    ]


async def test_a_claim_can_be_repeated_and_has_one_effect(world: TaskWorld) -> None:
    job = await a_job(world)
    answers = await asyncio.gather(*(claim(world, job) for _ in range(8)))
    assert len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1
    assert answers[0].claimed
    assert len(await told(world, job)) == 2


async def test_finishing_can_be_repeated_and_the_first_result_stays(world: TaskWorld) -> None:
    job = await a_job(world)
    await claim(world, job)
    done = await finish(world, job, result=struct(ok=True))
    assert await finish(world, job, result=struct(ok=True)) == done
    assert await finish(world, job, error="late") == done
    assert not (await claim(world, job)).claimed
    assert len(await told(world, job)) == 3


async def test_an_unclaimed_job_cannot_be_finished(world: TaskWorld) -> None:
    job = await a_job(world)
    assert await finish(world, job, result=struct()) == job
    assert await get(world, job) == job


async def test_a_worker_with_a_wrong_attempt_number_can_neither_claim_nor_finish_a_job(
    world: TaskWorld,
) -> None:
    job = await a_job(world)
    assert not (await claim(world, job, attempt=2)).claimed
    await claim(world, job)
    assert (await finish(world, job, attempt=2, error="no")).state == JOB_STATE_PROCESSING


async def test_failed_jobs_are_the_dead_letters_and_retrying_runs_the_next_attempt(
    world: TaskWorld,
) -> None:
    job = await a_job(world)
    await claim(world, job)
    failed = await finish(world, job, error="the payload has no message")
    assert (failed.state, failed.error) == (JOB_STATE_FAILED, "the payload has no message")
    assert await listed(world, states=[JOB_STATE_FAILED]) == [failed]
    again = await retry(world, job)
    assert (again.state, again.attempt) == (JOB_STATE_PENDING, 2)
    assert not again.HasField("start_time")
    assert not again.HasField("finish_time")
    assert await listed(world, states=[JOB_STATE_FAILED]) == []
    # A worker's late calls for the first attempt have no effect on the second.
    assert not (await claim(world, job, attempt=1)).claimed
    assert (await claim(world, job, attempt=2)).claimed
    await finish(world, job, attempt=1, error="late")
    done = await finish(world, job, attempt=2, result=struct(length=5))
    assert (done.state, done.error) == (JOB_STATE_DONE, "")
    assert [revision for _, revision, _ in await told(world, job)] == [1, 2, 3, 4, 5, 6]


async def test_only_failed_jobs_can_be_retried_and_by_one_caller(world: TaskWorld) -> None:
    job = await a_job(world)
    for state in ("PENDING", "PROCESSING"):
        answer = await refusal(retry(world, job))
        assert (answer.code, answer.reason, answer.metadata) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "JOB_STATE_INVALID",
            {"state": state},
        )
        await claim(world, job)
    await finish(world, job, error="no")
    answers = await asyncio.gather(*(retry(world, job) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(answer, Job) for answer in answers) == 1
    assert (await get(world, job)).attempt == 2


async def test_results_that_json_cannot_represent_are_refused(world: TaskWorld) -> None:
    job = await a_job(world)
    await claim(world, job)
    for bad in (struct(x=float("nan")), struct(x="a\0b")):
        answer = await refusal(finish(world, job, result=bad))
        assert answer.code == grpc.StatusCode.INVALID_ARGUMENT
    assert (await get(world, job)).state == JOB_STATE_PROCESSING


async def test_lists_are_newest_first_in_pages_by_task_and_state(world: TaskWorld) -> None:
    made = [await a_job(world) for _ in range(5)]
    await claim(world, made[2])
    found: list[str] = []
    token = ""
    while True:
        request = ListJobsRequest(workspace_id=world.workspace_id, page_size=2, page_token=token)
        answer = await world.jobs.ListJobs(request, metadata=world.me)
        found += [job.id for job in answer.jobs]
        token = answer.next_page_token
        if not token:
            break
    assert found == [job.id for job in reversed(made)]
    (processing,) = await listed(world, states=[JOB_STATE_PROCESSING])
    assert processing.id == made[2].id
    assert len(await listed(world, states=[JOB_STATE_PROCESSING, JOB_STATE_PENDING])) == 5
    bad = ListJobsRequest(workspace_id=world.workspace_id, page_token="forged")
    refused = await refusal(world.jobs.ListJobs(bad, metadata=world.me))
    assert refused.reason == "INVALID_PAGE_TOKEN"


async def test_strangers_find_nothing_and_viewers_only_read(
    world: TaskWorld, services: Settings
) -> None:
    job = await a_job(world)
    await claim(world, job)
    await finish(world, job, error="no")
    viewer = await world.member("vera", Role.ROLE_VIEWER)
    assert (await get(world, job, viewer)).id == job.id
    assert (await refusal(retry(world, job, viewer))).reason == "ROLE_TOO_LOW"
    async with a_task_world(services) as other:
        for call in (get(world, job, other.owner), retry(world, job, other.owner)):
            answer = await refusal(call)
            assert (answer.code, answer.resource) == (grpc.StatusCode.NOT_FOUND, "job")
        assert await listed(other) == []
        foreign = ListJobsRequest(workspace_id=world.workspace_id)
        listing = world.jobs.ListJobs(foreign, metadata=other.me)
        assert (await refusal(listing)).resource == "workspace"


async def test_workers_get_not_found_for_missing_jobs_and_users_may_not_claim(
    world: TaskWorld,
) -> None:
    unknown = Job(id=_UNKNOWN)
    for call in (claim(world, unknown), finish(world, unknown, error="no")):
        assert (await refusal(call)).code == grpc.StatusCode.NOT_FOUND
    request = ClaimJobRequest(job_id=_UNKNOWN, attempt=1)
    by_hand = world.worker_jobs.ClaimJob(request, metadata=world.me)
    assert (await refusal(by_hand)).reason == "NOT_FOR_CALLER"


async def test_jobs_of_deleted_tasks_are_not_retried(world: TaskWorld) -> None:
    job = await a_job(world)
    await claim(world, job)
    await finish(world, job, error="no")
    await world.delete(Task(id=job.task_id))
    assert (await refusal(retry(world, job))).reason == "TASK_DELETED"


async def test_a_page_ends_before_it_is_larger_than_grpc_clients_accept(world: TaskWorld) -> None:
    result = struct(message="x" * 60_000)
    made = [await a_job(world) for _ in range(100)]
    for job in made:
        await claim(world, job)
        await finish(world, job, result=result)
    found: list[Job] = []
    pages = 0
    request = ListJobsRequest(workspace_id=world.workspace_id, page_size=1000)
    while pages == 0 or request.page_token:
        answer = await world.jobs.ListJobs(request, metadata=world.me)
        assert answer.ByteSize() < 4 * 1024 * 1024
        found += answer.jobs
        request.page_token = answer.next_page_token
        pages += 1
    assert pages == 2
    assert [job.id for job in found] == [job.id for job in reversed(made)]
