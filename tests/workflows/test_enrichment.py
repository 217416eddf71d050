"""EnrichTask: suggestions while texts change, models fail and services are down."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import uuid4

import grpc
import pytest
from temporalio.client import WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from taskflow.task.v1 import suggestion_pb2, task_pb2
from tests.fakes import text_functions
from tests.workflows.conftest import PRIVATE, Examine, FakeModel
from tests.workflows.services_double import Services, Task
from workflows.contract import TASK_QUEUE
from workflows.enrichment.contract import (
    ENRICH_TRIES,
    EnrichmentOutcome,
    TaskText,
    enrich_id,
)
from workflows.enrichment.enrichers import (
    InvalidModelOutput,
    ModelRefused,
    Proposal,
    RetryableModelError,
)
from workflows.enrichment.workflow import EnrichTask

Handle = WorkflowHandle[EnrichTask, EnrichmentOutcome]


async def start(env: WorkflowEnvironment, task_id: str, text_revision: int = 1) -> Handle:
    return await env.client.start_workflow(
        EnrichTask.run,
        TaskText(task_id, text_revision),
        id=enrich_id(task_id, text_revision),
        task_queue=TASK_QUEUE,
    )


async def test_a_suggestion_is_stored_with_its_reason_for_the_text_it_was_made_for(
    env: WorkflowEnvironment, services: Services, model: FakeModel, examine: Examine, task_id: str
) -> None:
    services.tasks[task_id] = Task(f"Call {PRIVATE} as soon as possible", text_revision=3)
    handle = await start(env, task_id, 3)
    assert await handle.result() is EnrichmentOutcome.STORED
    (stored,) = services.suggestions
    assert stored.base_text_revision == 3
    (draft,) = stored.suggestions
    assert draft.kind == suggestion_pb2.SUGGESTION_KIND_PRIORITY
    assert draft.priority == task_pb2.TASK_PRIORITY_HIGH
    assert "as soon as possible" in draft.reason
    assert (draft.model, draft.prompt_version) == ("heuristic", "rules-1")
    history = await examine(handle, "enrich_stored")
    scheduled = [e for e in history["events"] if "activityTaskScheduledEventAttributes" in e]
    assert len(scheduled) == 1, "one activity does it all"


async def test_an_improved_description_is_stored_as_such(
    env: WorkflowEnvironment, services: Services, model: FakeModel, task_id: str
) -> None:
    async def improved() -> list[Proposal]:
        return [Proposal("description", "Better words.", "clearer", 0.7, "m", "p-1")]

    services.tasks[task_id] = Task("Words")
    model.answers = [improved]
    assert await (await start(env, task_id)).result() is EnrichmentOutcome.STORED
    (draft,) = services.suggestions[0].suggestions
    assert draft.kind == suggestion_pb2.SUGGESTION_KIND_DESCRIPTION
    assert draft.description == "Better words."
    assert draft.confidence == pytest.approx(0.7)


async def test_a_newer_text_supersedes_a_run_before_the_model_is_asked(
    env: WorkflowEnvironment, services: Services, model: FakeModel, examine: Examine, task_id: str
) -> None:
    services.tasks[task_id] = Task("Sweep", text_revision=2)
    handle = await start(env, task_id, 1)
    assert await handle.result() is EnrichmentOutcome.SUPERSEDED
    assert model.asked == []
    await examine(handle, "enrich_superseded")


async def test_a_text_that_changes_while_the_model_answers_gets_no_suggestion_for_the_old_text(
    env: WorkflowEnvironment, services: Services, model: FakeModel, task_id: str
) -> None:
    async def slow() -> list[Proposal]:
        services.tasks[task_id].text_revision = 2
        return [Proposal("priority", "LOW", "says 'someday'", 0.7, "m", "p-1")]

    services.tasks[task_id] = Task("Sweep someday")
    model.answers = [slow]
    assert await (await start(env, task_id)).result() is EnrichmentOutcome.SUPERSEDED
    assert services.suggestions == []


@pytest.mark.parametrize("gone", [False, True])
async def test_the_model_is_not_asked_when_a_task_wants_no_suggestions(
    env: WorkflowEnvironment, services: Services, model: FakeModel, task_id: str, gone: bool
) -> None:
    if not gone:
        services.tasks[task_id] = Task("Sweep", wanted=False)
    assert await (await start(env, task_id)).result() is EnrichmentOutcome.UNWANTED
    assert model.asked == []
    assert services.failures == []


async def test_a_retry_waits_as_long_as_the_model_asked_for(
    env: WorkflowEnvironment, services: Services, model: FakeModel, examine: Examine, task_id: str
) -> None:
    services.tasks[task_id] = Task("Sweep")
    model.answers = [RetryableModelError("the model endpoint answered 429", retry_after=600)]
    handle = await start(env, task_id)
    assert await handle.result() is EnrichmentOutcome.STORED
    first, second = services.calls["GetEnrichmentInput"]
    assert timedelta(seconds=600) <= second - first < timedelta(seconds=602)
    await examine(handle, "enrich_retried")


async def test_a_text_beyond_the_workspaces_limit_waits_and_then_gets_its_suggestions(
    env: WorkflowEnvironment, services: Services, model: FakeModel, examine: Examine, task_id: str
) -> None:
    services.tasks[task_id] = Task(f"Sweep for {PRIVATE}", wait=timedelta(hours=11))
    handle = await start(env, task_id)
    assert await handle.result() is EnrichmentOutcome.STORED
    first, second = services.calls["GetEnrichmentInput"]
    assert timedelta(hours=11) <= second - first < timedelta(hours=11, seconds=2)
    assert len(model.asked) == 1
    await examine(handle, "enrich_delayed")


async def test_a_text_that_would_wait_too_long_is_listed_as_failed(
    env: WorkflowEnvironment, services: Services, model: FakeModel, examine: Examine, task_id: str
) -> None:
    services.tasks[task_id] = Task("Sweep", wait=timedelta(hours=12, seconds=1))
    handle = await start(env, task_id)
    assert await handle.result() is EnrichmentOutcome.FAILED
    assert model.asked == []
    (failure,) = services.failures
    assert failure.error == "the workspace's AI calls of this hour are used up"
    await examine(handle)


async def test_a_model_that_keeps_failing_ends_as_a_failed_job_after_its_tries(
    env: WorkflowEnvironment, services: Services, model: FakeModel, examine: Examine, task_id: str
) -> None:
    services.tasks[task_id] = Task(f"Sweep for {PRIVATE}")
    model.answers = [
        RetryableModelError("the model endpoint answered 503") for _ in range(ENRICH_TRIES)
    ]
    handle = await start(env, task_id)
    assert await handle.result() is EnrichmentOutcome.FAILED
    assert len(model.asked) == ENRICH_TRIES
    (failure,) = services.failures
    assert failure.task_id == task_id
    assert failure.base_text_revision == 1
    assert failure.error == "the model endpoint answered 503"
    await examine(handle, "enrich_failed")


@pytest.mark.parametrize(
    "error", [InvalidModelOutput("invalid answer after a correction"), ModelRefused("declined")]
)
async def test_an_unusable_answer_fails_at_once_and_leaves_the_task_alone(
    env: WorkflowEnvironment,
    services: Services,
    model: FakeModel,
    examine: Examine,
    task_id: str,
    error: Exception,
) -> None:
    services.tasks[task_id] = Task("Sweep")
    model.answers = [error]
    handle = await start(env, task_id)
    assert await handle.result() is EnrichmentOutcome.FAILED
    assert len(model.asked) == 1
    assert services.suggestions == []
    assert [failure.error for failure in services.failures] == [str(error)]
    await examine(handle)


async def test_texts_that_exceed_the_cpu_budget_are_failed_jobs_and_other_tasks_get_their_suggestions(
    env: WorkflowEnvironment, services: Services, model: FakeModel, examine: Examine
) -> None:
    ended: list[str] = []
    waited_for: list[int] = []

    async def poisonous() -> list[Proposal]:
        try:
            await model.texts.call("loud", text_functions.never_ends, f"{PRIVATE}!")
        finally:
            ended.append("loud")
        return []

    async def quiet() -> list[Proposal]:
        before = len(ended)
        await model.texts.call(str(uuid4()), text_functions.length, PRIVATE)
        waited_for.append(len(ended) - before)
        return [Proposal("priority", "HIGH", "says so", 0.7, "m", "p-1")]

    poisoned, others = [str(uuid4()) for _ in range(6)], [str(uuid4()) for _ in range(3)]
    for task_id in poisoned + others:
        services.tasks[task_id] = Task(f"Call {PRIVATE}")
    model.answers = [poisonous] * len(poisoned)
    failing = [await start(env, task_id) for task_id in poisoned]
    while model.answers:
        await asyncio.sleep(0.01)
    model.answers = [quiet] * len(others)
    for handle in [await start(env, task_id) for task_id in others]:
        assert await handle.result() is EnrichmentOutcome.STORED
    assert max(waited_for) <= 1, "poisonous texts that a text of another workspace waited for"
    for handle in failing:
        assert await handle.result() is EnrichmentOutcome.FAILED
        await examine(handle)
    assert {failure.task_id for failure in services.failures} == set(poisoned)
    assert {failure.error for failure in services.failures} == {"the text takes too long to read"}
    assert {stored.task_id for stored in services.suggestions} == set(others)
    assert len(model.asked) == len(poisoned) + len(others), "a poisonous text was tried again"


async def test_an_outage_of_the_task_service_costs_time_and_no_suggestion(
    env: WorkflowEnvironment, services: Services, model: FakeModel, examine: Examine, task_id: str
) -> None:
    services.tasks[task_id] = Task("Sweep")
    services.outages["GetEnrichmentInput"] = [grpc.StatusCode.UNAVAILABLE] * 15
    services.outages["StoreSuggestions"] = [grpc.StatusCode.INTERNAL]
    handle = await start(env, task_id)
    assert await handle.result() is EnrichmentOutcome.STORED
    await examine(handle)


async def test_a_suggestion_that_the_service_refuses_is_listed_as_failed_at_once(
    env: WorkflowEnvironment, services: Services, model: FakeModel, examine: Examine, task_id: str
) -> None:
    services.tasks[task_id] = Task("Sweep")
    services.outages["StoreSuggestions"] = [grpc.StatusCode.INVALID_ARGUMENT]
    handle = await start(env, task_id)
    assert await handle.result() is EnrichmentOutcome.FAILED
    assert services.failures[0].error == "a service answered INVALID_ARGUMENT"
    await examine(handle)


async def test_an_unexpected_failure_is_recorded_without_its_text(
    env: WorkflowEnvironment, services: Services, model: FakeModel, examine: Examine, task_id: str
) -> None:
    services.tasks[task_id] = Task("Sweep")
    model.answers = [KeyError(f"{PRIVATE} is missing")]
    handle = await start(env, task_id)
    assert await handle.result() is EnrichmentOutcome.STORED
    await examine(handle)
