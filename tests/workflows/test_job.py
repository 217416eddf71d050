"""ProcessJob: success, retries and dead letters. Temporal's history never contains the payload."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from importlib.metadata import EntryPoint
from itertools import pairwise
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf import json_format
from temporalio.client import WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from taskflow.task.v1 import job_pb2
from tests.workflows.conftest import PRIVATE, Examine
from tests.workflows.services_double import Job, Services
from workflows.contract import TASK_QUEUE
from workflows.jobs import activities
from workflows.jobs.contract import (
    JOB_BACKOFF,
    JOB_TRIES,
    JobAttempt,
    JobOutcome,
    job_workflow_id,
)
from workflows.jobs.handlers import (
    GROUP,
    Handler,
    JobContext,
    JobError,
    Payload,
    PermanentJobError,
    Result,
    load_handlers,
    message,
    run_handler,
)
from workflows.jobs.workflow import ProcessJob

Handle = WorkflowHandle[ProcessJob, JobOutcome]


@pytest.fixture
def handlers(all_handlers: dict[str, Handler]) -> dict[str, Handler]:
    all_handlers.clear()
    all_handlers["message"] = message
    return all_handlers


@pytest.fixture
def job_id() -> str:
    return str(uuid4())


async def start(env: WorkflowEnvironment, job_id: str, attempt: int = 1) -> Handle:
    return await env.client.start_workflow(
        ProcessJob.run,
        JobAttempt(job_id, attempt),
        id=job_workflow_id(job_id, attempt),
        task_queue=TASK_QUEUE,
    )


def failing(*errors: Exception) -> Callable[[Payload, JobContext], Awaitable[Result]]:
    """A handler that raises the given exceptions in turn, and then succeeds."""
    left = list(errors)

    async def handle(payload: Payload, job: JobContext) -> Result:
        if left:
            raise left.pop(0)
        return {"done": job.key}

    return handle


async def test_a_message_is_completed_with_its_result(
    env: WorkflowEnvironment,
    services: Services,
    handlers: dict[str, Handler],
    examine: Examine,
    job_id: str,
) -> None:
    services.jobs[job_id] = Job({"message": f"from {PRIVATE}"})
    handle = await start(env, job_id)
    assert await handle.result() is JobOutcome.DONE
    job = services.jobs[job_id]
    assert job.state == job_pb2.JOB_STATE_DONE
    assert job.result is not None
    assert json_format.MessageToDict(job.result) == {"message": f"from {PRIVATE}", "length": 14}
    await examine(handle, "job_done")


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        ({}, "the payload needs a string `message`"),
        ({"message": 5}, "the payload needs a string `message`"),
        ({"type": "unheard-of"}, "there is no handler for this type of payload"),
        ({"type": 7, "message": "x"}, "there is no handler for this type of payload"),
    ],
)
async def test_a_payload_that_cannot_be_processed_is_a_dead_letter_at_once(
    env: WorkflowEnvironment,
    services: Services,
    handlers: dict[str, Handler],
    examine: Examine,
    job_id: str,
    payload: dict[str, Any],
    error: str,
) -> None:
    services.jobs[job_id] = Job(payload)
    handle = await start(env, job_id)
    assert await handle.result() is JobOutcome.FAILED
    job = services.jobs[job_id]
    assert (job.state, job.error) == (job_pb2.JOB_STATE_FAILED, error)
    assert len(services.calls["ClaimJob"]) == 1
    await examine(handle, "job_refused" if not payload else "")


async def test_a_failing_handler_is_retried_with_growing_pauses(
    env: WorkflowEnvironment,
    services: Services,
    handlers: dict[str, Handler],
    examine: Examine,
    job_id: str,
) -> None:
    handlers["flaky"] = failing(OSError(PRIVATE), ValueError(PRIVATE))
    services.jobs[job_id] = Job({"type": "flaky"}, attempt=2)
    handle = await start(env, job_id, 2)
    assert await handle.result() is JobOutcome.DONE
    claims = services.calls["ClaimJob"]
    pauses = [(later - earlier).total_seconds() for earlier, later in pairwise(claims)]
    assert pauses == pytest.approx(JOB_BACKOFF[:2], abs=0.5)
    result = services.jobs[job_id].result
    assert result is not None
    assert result["done"] == f"{job_id}/2"
    await examine(handle, "job_retried")


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (JobError("the printer is on fire"), "the printer is on fire"),
        (RuntimeError(f"secret of {PRIVATE}"), "the handler failed with RuntimeError"),
    ],
)
async def test_after_its_last_try_a_job_is_a_dead_letter_without_secrets(
    env: WorkflowEnvironment,
    services: Services,
    handlers: dict[str, Handler],
    examine: Examine,
    job_id: str,
    error: Exception,
    shown: str,
) -> None:
    handlers["broken"] = failing(*[error] * 100)
    services.jobs[job_id] = Job({"type": "broken"})
    handle = await start(env, job_id)
    assert await handle.result() is JobOutcome.FAILED
    assert services.jobs[job_id].error == shown
    assert len(services.calls["ClaimJob"]) == JOB_TRIES
    await examine(handle, "job_dead_letter" if isinstance(error, JobError) else "")


async def test_a_permanent_failure_is_not_retried_and_its_text_stays_out_of_the_history(
    env: WorkflowEnvironment,
    services: Services,
    handlers: dict[str, Handler],
    examine: Examine,
    job_id: str,
) -> None:
    handlers["picky"] = failing(PermanentJobError(f"no {PRIVATE} here" + "!" * 600))
    services.jobs[job_id] = Job({"type": "picky"})
    handle = await start(env, job_id)
    assert await handle.result() is JobOutcome.FAILED
    assert services.jobs[job_id].error.startswith(f"no {PRIVATE} here!")
    assert len(services.jobs[job_id].error) == 500
    await examine(handle)


async def test_a_handler_that_hangs_is_stopped(
    env: WorkflowEnvironment,
    services: Services,
    handlers: dict[str, Handler],
    job_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hang(payload: Payload, job: JobContext) -> Result:
        await asyncio.Event().wait()
        return None

    monkeypatch.setattr(activities, "JOB_HANDLER_SECONDS", 0.05)
    handlers["hang"] = hang
    services.jobs[job_id] = Job({"type": "hang"})
    assert await (await start(env, job_id)).result() is JobOutcome.FAILED
    assert services.jobs[job_id].error == "the handler took longer than 0.05 seconds"


@pytest.mark.parametrize(
    "result", [{"value": math.nan}, {"value": object()}, {"value": "\ud800"}, ["no mapping"]]
)
async def test_a_result_that_is_no_json_object_fails_the_job(
    env: WorkflowEnvironment,
    services: Services,
    handlers: dict[str, Handler],
    job_id: str,
    result: Any,
) -> None:
    async def odd(payload: Payload, job: JobContext) -> Result:
        return result  # type: ignore[no-any-return]

    handlers["odd"] = odd
    services.jobs[job_id] = Job({"type": "odd"})
    assert await (await start(env, job_id)).result() is JobOutcome.FAILED
    assert services.jobs[job_id].error == "the handler's result isn't a JSON object"


async def test_a_result_that_is_too_large_fails_the_job(
    env: WorkflowEnvironment, services: Services, handlers: dict[str, Handler], job_id: str
) -> None:
    async def talk(payload: Payload, job: JobContext) -> Result:
        return {"text": "x" * 300_000}

    handlers["talk"] = talk
    services.jobs[job_id] = Job({"type": "talk"})
    assert await (await start(env, job_id)).result() is JobOutcome.FAILED
    assert services.jobs[job_id].error == "the handler's result is larger than 64 KiB"


async def test_a_timeout_error_of_the_handler_is_not_reported_as_its_time_limit(
    env: WorkflowEnvironment, services: Services, handlers: dict[str, Handler], job_id: str
) -> None:
    async def wait(payload: Payload, job: JobContext) -> Result:
        raise TimeoutError

    handlers["wait"] = wait
    services.jobs[job_id] = Job({"type": "wait"})
    assert await (await start(env, job_id)).result() is JobOutcome.FAILED
    assert services.jobs[job_id].error == "the handler failed with TimeoutError"


async def test_a_result_that_the_service_refuses_fails_the_job(
    env: WorkflowEnvironment, services: Services, handlers: dict[str, Handler], job_id: str
) -> None:
    services.jobs[job_id] = Job({"message": "x"})
    services.outages["FinishJob"] = [grpc.StatusCode.INVALID_ARGUMENT]
    assert await (await start(env, job_id)).result() is JobOutcome.FAILED
    assert services.jobs[job_id].error == "the handler's result can't be stored"


@pytest.mark.parametrize("state", [job_pb2.JOB_STATE_DONE, job_pb2.JOB_STATE_FAILED])
async def test_a_job_that_has_ended_is_not_processed_again(
    env: WorkflowEnvironment,
    services: Services,
    handlers: dict[str, Handler],
    job_id: str,
    state: job_pb2.JobState.ValueType,
) -> None:
    services.jobs[job_id] = Job({"message": "x"}, state=state)
    assert await (await start(env, job_id)).result() is JobOutcome.NOT_OURS
    assert services.calls["FinishJob"] == []


async def test_a_retry_is_a_run_of_its_own_that_the_first_can_not_swallow(
    env: WorkflowEnvironment, services: Services, handlers: dict[str, Handler], job_id: str
) -> None:
    services.jobs[job_id] = Job({"message": 1})
    retried: list[Handle] = []

    async def retry() -> None:
        # The user retries before the first run has ended.
        if services.jobs[job_id].state == job_pb2.JOB_STATE_PROCESSING and not retried:
            services.jobs[job_id] = Job({"message": "now a string"}, attempt=2)
            retried.append(await start(env, job_id, 2))

    services.during["FinishJob"] = retry
    await (await start(env, job_id)).result()
    services.during.clear()
    assert await retried[0].result() is JobOutcome.DONE


async def test_an_outage_of_the_task_service_delays_a_job_and_costs_no_try(
    env: WorkflowEnvironment,
    services: Services,
    handlers: dict[str, Handler],
    examine: Examine,
    job_id: str,
) -> None:
    services.jobs[job_id] = Job({"message": "x"})
    services.outages["ClaimJob"] = [grpc.StatusCode.UNAVAILABLE] * 22
    handle = await start(env, job_id)
    assert await handle.result() is JobOutcome.DONE
    run = env.client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
    await examine(run, "job_outage")


async def test_a_handler_can_recognise_a_repetition(
    env: WorkflowEnvironment, services: Services, handlers: dict[str, Handler], job_id: str
) -> None:
    """The result doesn't reach the service, so the handler runs again, with the same key."""
    keys: list[str] = []

    async def remember(payload: Payload, job: JobContext) -> Result:
        keys.append(job.key)
        return None

    handlers["remember"] = remember
    services.jobs[job_id] = Job({"type": "remember"})
    services.outages["FinishJob"] = [grpc.StatusCode.UNAVAILABLE]
    assert await (await start(env, job_id)).result() is JobOutcome.DONE
    assert keys == [f"{job_id}/1", f"{job_id}/1"]


async def test_handlers_of_installed_packages_are_found_and_broken_ones_left_out() -> None:
    found = [
        EntryPoint("echo", "workflows.jobs.handlers:message", GROUP),
        EntryPoint("broken", "no.such.module:handler", GROUP),
    ]
    handlers = load_handlers(found)
    job = JobContext("job", "task", "workspace", 1)
    for name in ("echo", "message"):
        result = await run_handler(handlers, {"type": name, "message": "hello"}, job)
        assert json_format.MessageToDict(result) == {"message": "hello", "length": 5}
    with pytest.raises(PermanentJobError):
        await run_handler(handlers, {"type": "broken"}, job)
