"""Promises of suggestions: users decide about them, and no value that a user set is overwritten."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.type.date_pb2 import Date

from services.platform.config import Settings
from taskflow.auth.v1.workspace_pb2 import Role, Workspace
from taskflow.auth.v1.workspace_service_pb2 import UpdateWorkspaceRequest
from taskflow.event.v1.event_pb2 import Event
from taskflow.task.v1 import job_pb2, task_pb2
from taskflow.task.v1.internal_service_pb2 import (
    FailEnrichmentRequest,
    GetEnrichmentInputRequest,
    GetEnrichmentInputResponse,
    StoreSuggestionsRequest,
    SuggestionDraft,
)
from taskflow.task.v1.job_pb2 import Job
from taskflow.task.v1.job_service_pb2 import ListJobsRequest, RetryJobRequest
from taskflow.task.v1.project_service_pb2 import ArchiveProjectRequest
from taskflow.task.v1.suggestion_pb2 import (
    SUGGESTION_KIND_DESCRIPTION,
    SUGGESTION_KIND_PRIORITY,
    SUGGESTION_STATE_ACCEPTED,
    SUGGESTION_STATE_PENDING,
    SUGGESTION_STATE_REJECTED,
    SUGGESTION_STATE_STALE,
    Suggestion,
    SuggestionEdit,
)
from taskflow.task.v1.suggestion_service_pb2 import (
    AcceptSuggestionRequest,
    AcceptSuggestionResponse,
    ListSuggestionsRequest,
    RejectSuggestionRequest,
    RequestSuggestionsRequest,
)
from taskflow.task.v1.task_pb2 import Due, Task
from tests.integration.people import Person, events, refusal
from tests.integration.task_world import TaskWorld, a_task_world

_HIGH = task_pb2.TASK_PRIORITY_HIGH
_LOW = task_pb2.TASK_PRIORITY_LOW


@pytest.fixture
async def world(services: Settings) -> AsyncIterator[TaskWorld]:
    async with a_task_world(services) as made:
        yield made


def priority(value: Any = _HIGH, **fields: Any) -> SuggestionDraft:
    return SuggestionDraft(
        **{
            "kind": SUGGESTION_KIND_PRIORITY,
            "priority": value,
            "reason": "says 'at once'",
            "confidence": 0.75,
            "model": "heuristic",
            "prompt_version": "1",
            **fields,
        }
    )


def description(text: str = "Better words") -> SuggestionDraft:
    return SuggestionDraft(
        kind=SUGGESTION_KIND_DESCRIPTION,
        description=text,
        reason="clearer",
        confidence=0.5,
        model="model",
    )


async def store(world: TaskWorld, task: Task, *drafts: SuggestionDraft, base: int = 0) -> bool:
    request = StoreSuggestionsRequest(
        task_id=task.id, base_text_revision=base or task.text_revision, suggestions=drafts
    )
    answer = await world.worker_suggestions.StoreSuggestions(request, metadata=world.service)
    return bool(answer.stored)


async def listed(world: TaskWorld, **request: Any) -> list[Suggestion]:
    answer = await world.suggestions.ListSuggestions(
        ListSuggestionsRequest(workspace_id=world.workspace_id, **request), metadata=world.me
    )
    return list(answer.suggestions)


async def suggested(world: TaskWorld, draft: SuggestionDraft, **fields: Any) -> tuple[Task, str]:
    """A task, and the id of its one suggestion."""
    task = await world.create(**fields)
    assert await store(world, task, draft)
    (suggestion,) = await listed(world, task_id=task.id)
    return task, suggestion.id


async def accept(
    world: TaskWorld,
    suggestion_id: str,
    edit: SuggestionEdit | None = None,
    who: Person | None = None,
) -> AcceptSuggestionResponse:
    answer: AcceptSuggestionResponse = await world.suggestions.AcceptSuggestion(
        AcceptSuggestionRequest(id=suggestion_id, edit=edit),
        metadata=(who or world.owner).credentials,
    )
    return answer


async def reject(world: TaskWorld, suggestion_id: str, reason: str = "") -> Suggestion:
    answer = await world.suggestions.RejectSuggestion(
        RejectSuggestionRequest(id=suggestion_id, reason=reason), metadata=world.me
    )
    suggestion: Suggestion = answer.suggestion
    return suggestion


async def request(world: TaskWorld, task: Task) -> int:
    answer = await world.suggestions.RequestSuggestions(
        RequestSuggestionsRequest(task_id=task.id), metadata=world.me
    )
    return int(answer.text_revision)


async def published(world: TaskWorld, what: str, aggregate_id: str = "") -> list[Event]:
    return await events(world.db, f"taskflow.{world.workspace_id}.{what}", aggregate_id)


async def input_for(world: TaskWorld, task: Task) -> GetEnrichmentInputResponse:
    answer: GetEnrichmentInputResponse = await world.worker_suggestions.GetEnrichmentInput(
        GetEnrichmentInputRequest(task_id=task.id), metadata=world.service
    )
    return answer


async def switch_ai(world: TaskWorld, *, on: bool) -> None:
    workspace = Workspace(id=world.workspace_id, ai_enabled=on)
    request = UpdateWorkspaceRequest(workspace=workspace)
    request.update_mask.paths.append("ai_enabled")
    await world.team.workspaces.UpdateWorkspace(request, metadata=world.me)


# Requesting suggestions.


async def test_events_state_whether_ai_is_off(world: TaskWorld) -> None:
    on = await world.create()
    await switch_ai(world, on=False)
    off = await world.create()
    for task in (on, off):
        await world.update(task, title="Another title")
    await switch_ai(world, on=True)
    await world.update(off, description="More of it")
    created = [
        event.task_created.ai_disabled
        for task in (on, off)
        for event in await published(world, "task.created", task.id)
    ]
    updated = [
        event.task_updated.ai_disabled
        for task in (on, off)
        for event in await published(world, "task.updated", task.id)
    ]
    assert (created, updated) == ([False, True], [True, True, False])


async def test_a_request_names_its_text_revision_and_emits_an_event(
    world: TaskWorld,
) -> None:
    task = await world.create()
    await world.update(task, title="Another title")
    assert await request(world, task) == 2
    (event,) = await published(world, "task.suggestions_requested", task.id)
    assert event.task_suggestions_requested.task_id == task.id
    assert event.task_suggestions_requested.text_revision == 2
    assert (event.actor_id, event.revision) == (world.owner.id, 2)


async def test_requests_are_refused_with_ai_off_or_for_a_read_only_task(
    world: TaskWorld,
) -> None:
    task = await world.create()
    await world.delete(task)
    assert (await refusal(request(world, task))).reason == "TASK_DELETED"
    await world.undelete(task)
    viewer = await world.member("vera", Role.ROLE_VIEWER)
    call = world.suggestions.RequestSuggestions(
        RequestSuggestionsRequest(task_id=task.id), metadata=viewer.credentials
    )
    assert (await refusal(call)).reason == "ROLE_TOO_LOW"
    await switch_ai(world, on=False)
    assert (await refusal(request(world, task))).reason == "AI_DISABLED"
    await switch_ai(world, on=True)
    await world.projects.ArchiveProject(
        ArchiveProjectRequest(id=world.project_id), metadata=world.me
    )
    assert (await refusal(request(world, task))).reason == "PROJECT_ARCHIVED"


async def test_a_worker_reads_the_text_the_deadline_and_similar_titles_of_the_project(
    world: TaskWorld,
) -> None:
    await world.create("Renew the certificate of the mail server")
    await world.create("Paint the fence", labels=["tls"])
    await world.create("Buy milk")
    deleted = await world.create("Renew the certificate of nobody")
    await world.delete(deleted)
    elsewhere = await world.new_project("OTHER")
    await world.create("Renew the certificate elsewhere", project_id=elsewhere)
    task = await world.create(
        "Renew the mail certificate",
        description="It expires.",
        labels=["tls"],
        due=Due(date=Date(year=2031, month=3, day=7)),
    )
    found = await input_for(world, task)
    assert found.wanted
    assert (found.title, found.description) == ("Renew the mail certificate", "It expires.")
    assert (found.text_revision, found.deadline) == (1, "Friday, 2031-03-07")
    assert list(found.similar_titles) == [
        "Renew the certificate of the mail server",
        "Paint the fence",
    ]
    assert found.workspace_id == world.workspace_id


async def test_no_suggestions_are_wanted_for_deleted_tasks_or_with_ai_off(world: TaskWorld) -> None:
    task = await world.create()
    await switch_ai(world, on=False)
    assert await input_for(world, task) == GetEnrichmentInputResponse()
    await switch_ai(world, on=True)
    assert (await input_for(world, task)).wanted
    await world.delete(task)
    assert await input_for(world, task) == GetEnrichmentInputResponse()
    assert await input_for(world, Task(id=world.workspace_id)) == GetEnrichmentInputResponse()


# Storing suggestions.


async def test_a_stored_suggestion_has_value_reason_confidence_model_and_text_revision(
    world: TaskWorld,
) -> None:
    task = await world.create()
    assert await store(world, task, priority(), description())
    second, first = await listed(world, task_id=task.id)
    assert (first.kind, first.priority) == (SUGGESTION_KIND_PRIORITY, _HIGH)
    assert (first.reason, first.confidence) == ("says 'at once'", 0.75)
    assert (first.model, first.prompt_version) == ("heuristic", "1")
    assert (first.base_text_revision, first.state) == (1, SUGGESTION_STATE_PENDING)
    assert (second.kind, second.description) == (SUGGESTION_KIND_DESCRIPTION, "Better words")
    (event,) = await published(world, "suggestion.created", first.id)
    assert (event.revision, event.suggestion_changed.suggestion) == (1, first)
    assert await world.get(task) == task


async def test_storing_again_for_the_same_text_changes_nothing(world: TaskWorld) -> None:
    task, suggestion_id = await suggested(world, priority())
    assert await store(world, task, priority(_LOW))
    await reject(world, suggestion_id)
    assert await store(world, task, priority(_LOW))
    (kept,) = await listed(world, task_id=task.id)
    assert (kept.id, kept.priority) == (suggestion_id, _HIGH)
    assert kept.state == SUGGESTION_STATE_REJECTED


async def test_nothing_is_stored_for_a_text_that_has_changed_or_a_deleted_task(
    world: TaskWorld,
) -> None:
    task = await world.create()
    await world.update(task, description="new")
    assert not await store(world, task, priority(), base=1)
    assert not await store(world, task, priority(), base=3)
    await world.delete(task)
    assert not await store(world, task, priority(), base=2)
    assert not await store(world, Task(id=world.workspace_id), priority(), base=1)
    assert await listed(world, task_id=task.id) == []


async def test_values_that_the_task_already_has_are_not_suggested(world: TaskWorld) -> None:
    task = await world.create(description="Better words", priority=_HIGH)
    assert await store(world, task, priority(_HIGH), description("Better words"))
    assert await listed(world, task_id=task.id) == []


async def test_a_late_result_does_not_overwrite_a_users_change(world: TaskWorld) -> None:
    task = await world.create()
    changed = await world.update(task, priority=_LOW)
    assert await store(world, task, priority(_HIGH))
    assert await world.get(task) == changed
    (pending,) = await listed(world, task_id=task.id)
    assert pending.state == SUGGESTION_STATE_PENDING


async def test_a_newer_suggestion_outdates_the_pending_ones_of_its_kind_only(
    world: TaskWorld,
) -> None:
    task = await world.create()
    await store(world, task, priority(), description())
    changed = await world.update(task, title="Another title")
    await store(world, changed, priority(_LOW))
    states = {s.base_text_revision: s.state for s in await listed(world, task_id=task.id)}
    assert states == {2: SUGGESTION_STATE_PENDING, 1: SUGGESTION_STATE_STALE}


async def test_drafts_of_the_wrong_kind_are_refused(world: TaskWorld) -> None:
    task = await world.create()
    wrong = priority(kind=SUGGESTION_KIND_DESCRIPTION)
    answer = await refusal(store(world, task, wrong))
    assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["suggestions"])


async def test_only_services_store_suggestions(world: TaskWorld) -> None:
    task = await world.create()
    call = world.worker_suggestions.StoreSuggestions(
        StoreSuggestionsRequest(task_id=task.id, base_text_revision=1), metadata=world.me
    )
    assert (await refusal(call)).reason == "NOT_FOR_CALLER"


# Accepting and rejecting.


async def test_accepting_a_suggestion_changes_the_task_in_the_accepting_users_name(
    world: TaskWorld,
) -> None:
    task, suggestion_id = await suggested(world, priority())
    ben = await world.member("ben")
    answer = await accept(world, suggestion_id, who=ben)
    assert answer.task.priority == _HIGH
    assert answer.task == await world.get(task)
    assert answer.suggestion.state == SUGGESTION_STATE_ACCEPTED
    assert answer.suggestion.resolver_id == ben.id
    assert answer.suggestion.HasField("resolve_time")
    assert not answer.suggestion.accepted_with_edits
    (event,) = await published(world, "task.updated", task.id)
    assert event.actor_id == ben.id
    assert list(event.task_updated.changed_fields.paths) == ["priority"]
    (decided,) = await published(world, "suggestion.updated", suggestion_id)
    assert (decided.actor_id, decided.revision) == (ben.id, 2)


async def test_accepting_with_edits_applies_the_edited_value_and_records_it(
    world: TaskWorld,
) -> None:
    _, suggestion_id = await suggested(world, description())
    answer = await accept(world, suggestion_id, SuggestionEdit(description="Cafe\u0301"))
    assert answer.task.description == "Café"
    assert answer.suggestion.accepted_with_edits
    assert answer.suggestion.description == "Better words"
    _, same_id = await suggested(world, priority())
    unchanged = await accept(world, same_id, SuggestionEdit(priority=_HIGH))
    assert not unchanged.suggestion.accepted_with_edits


async def test_an_edit_of_another_kind_is_refused_and_changes_nothing(world: TaskWorld) -> None:
    task, suggestion_id = await suggested(world, priority())
    answer = await refusal(accept(world, suggestion_id, SuggestionEdit(description="words")))
    assert (answer.reason, answer.fields) == ("INVALID_REQUEST", ["edit"])
    assert await world.get(task) == task
    assert (await accept(world, suggestion_id)).task.priority == _HIGH


async def test_accepting_a_description_outdates_the_other_pending_ones_and_not_itself(
    world: TaskWorld,
) -> None:
    task = await world.create()
    await store(world, task, priority(), description())
    words, urgency = await listed(world, task_id=task.id)
    await accept(world, words.id)
    states = {s.id: s.state for s in await listed(world, task_id=task.id)}
    assert states == {words.id: SUGGESTION_STATE_ACCEPTED, urgency.id: SUGGESTION_STATE_STALE}


@pytest.mark.parametrize("field", ["title", "description"])
async def test_editing_the_text_makes_pending_suggestions_stale(
    world: TaskWorld, field: str
) -> None:
    task, suggestion_id = await suggested(world, priority())
    await world.update(task, **{field: "changed"})
    (stale,) = await listed(world, task_id=task.id)
    assert stale.state == SUGGESTION_STATE_STALE
    (event,) = await published(world, "suggestion.updated", suggestion_id)
    assert event.suggestion_changed.suggestion == stale
    answer = await refusal(accept(world, suggestion_id))
    assert (answer.code, answer.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "SUGGESTION_STALE",
    )
    assert (await reject(world, suggestion_id)).state == SUGGESTION_STATE_REJECTED


async def test_other_changes_leave_suggestions_pending(world: TaskWorld) -> None:
    task, suggestion_id = await suggested(world, priority())
    await world.update(task, labels=["tls"])
    await world.set_status(task)
    assert (await accept(world, suggestion_id)).task.priority == _HIGH


async def test_a_rejection_stores_its_reason_and_leaves_the_task_unchanged(
    world: TaskWorld,
) -> None:
    task, suggestion_id = await suggested(world, priority())
    rejected = await reject(world, suggestion_id, "it can wait")
    assert (rejected.state, rejected.reject_reason) == (SUGGESTION_STATE_REJECTED, "it can wait")
    assert rejected.resolver_id == world.owner.id
    assert await world.get(task) == task


async def test_a_decided_suggestion_cannot_be_decided_again(world: TaskWorld) -> None:
    _, accepted = await suggested(world, priority())
    _, rejected = await suggested(world, priority())
    await accept(world, accepted)
    await reject(world, rejected)
    for suggestion_id, state in ((accepted, "ACCEPTED"), (rejected, "REJECTED")):
        for again in (accept(world, suggestion_id), reject(world, suggestion_id)):
            answer = await refusal(again)
            assert (answer.reason, answer.metadata) == ("SUGGESTION_RESOLVED", {"state": state})


async def test_of_concurrent_acceptances_one_succeeds(world: TaskWorld) -> None:
    task, suggestion_id = await suggested(world, priority())
    answers = await asyncio.gather(
        *(accept(world, suggestion_id) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(answer, AcceptSuggestionResponse) for answer in answers) == 1
    assert (await world.get(task)).revision == 2


async def test_accepting_while_the_text_is_edited_never_mixes_the_two(world: TaskWorld) -> None:
    for _ in range(10):
        task, suggestion_id = await suggested(world, description())
        accepted, _ = await asyncio.gather(
            accept(world, suggestion_id),
            world.update(task, description="typed by hand"),
            return_exceptions=True,
        )
        if isinstance(accepted, AcceptSuggestionResponse):
            assert accepted.task.revision == 2
        assert (await world.get(task)).description == "typed by hand"


async def test_suggestions_of_deleted_tasks_and_archived_projects_are_not_accepted(
    world: TaskWorld,
) -> None:
    task, suggestion_id = await suggested(world, priority())
    await world.delete(task)
    assert (await refusal(accept(world, suggestion_id))).reason == "TASK_DELETED"
    await world.undelete(task)
    await world.projects.ArchiveProject(
        ArchiveProjectRequest(id=world.project_id), metadata=world.me
    )
    assert (await refusal(accept(world, suggestion_id))).reason == "PROJECT_ARCHIVED"
    (pending,) = await listed(world, task_id=task.id)
    assert pending.state == SUGGESTION_STATE_PENDING


async def test_strangers_find_nothing_and_viewers_only_read(
    world: TaskWorld, services: Settings
) -> None:
    _, suggestion_id = await suggested(world, priority())
    viewer = await world.member("vera", Role.ROLE_VIEWER)
    assert (await refusal(accept(world, suggestion_id, who=viewer))).reason == "ROLE_TOO_LOW"
    async with a_task_world(services) as other:
        answer = await refusal(accept(world, suggestion_id, who=other.owner))
        assert (answer.code, answer.resource) == (grpc.StatusCode.NOT_FOUND, "suggestion")
        assert await listed(other) == []


# Listing suggestions.


async def test_lists_are_newest_first_in_pages_by_task_and_state(world: TaskWorld) -> None:
    ids = [(await suggested(world, priority()))[1] for _ in range(5)]
    await reject(world, ids[2])
    found: list[str] = []
    token = ""
    while True:
        answer = await world.suggestions.ListSuggestions(
            ListSuggestionsRequest(workspace_id=world.workspace_id, page_size=2, page_token=token),
            metadata=world.me,
        )
        found += [suggestion.id for suggestion in answer.suggestions]
        token = answer.next_page_token
        if not token:
            break
    assert found == ids[::-1]
    rejected = await listed(world, states=[SUGGESTION_STATE_REJECTED])
    assert [suggestion.id for suggestion in rejected] == [ids[2]]
    both = await listed(world, states=[SUGGESTION_STATE_REJECTED, SUGGESTION_STATE_PENDING])
    assert len(both) == 5
    assert await listed(world, task_id=world.project_id) == []


# Failed suggestions, listed as jobs.


async def fail(world: TaskWorld, task: Task, error: str = "model is away", base: int = 1) -> None:
    await world.worker_suggestions.FailEnrichment(
        FailEnrichmentRequest(task_id=task.id, base_text_revision=base, error=error),
        metadata=world.service,
    )


async def jobs(world: TaskWorld, **request: Any) -> list[Job]:
    answer = await world.jobs.ListJobs(
        ListJobsRequest(workspace_id=world.workspace_id, **request), metadata=world.me
    )
    return list(answer.jobs)


async def test_a_failure_is_listed_once_and_leaves_the_task_untouched(world: TaskWorld) -> None:
    task = await world.create()
    await fail(world, task)
    await fail(world, task, "again")
    (job,) = await jobs(world, states=[job_pb2.JOB_STATE_FAILED])
    assert (job.kind, job.task_id) == (job_pb2.JOB_KIND_ENRICHMENT, task.id)
    assert (job.error, job.attempt) == ("model is away", 1)
    assert await world.get(task) == task
    (event,) = await published(world, "job.created", job.id)
    assert event.job_changed.job == job


async def test_retrying_requests_suggestions_and_their_arrival_resolves_the_failure(
    world: TaskWorld,
) -> None:
    task = await world.create()
    await fail(world, task)
    (job,) = await jobs(world)
    answer = await world.jobs.RetryJob(RetryJobRequest(id=job.id), metadata=world.me)
    assert (answer.job.state, answer.job.attempt) == (job_pb2.JOB_STATE_PENDING, 2)
    (event,) = await published(world, "task.suggestions_requested", task.id)
    assert event.task_suggestions_requested.text_revision == 1
    await fail(world, task, "still away")
    (job,) = await jobs(world)
    assert (job.state, job.attempt, job.error) == (job_pb2.JOB_STATE_FAILED, 2, "still away")
    await store(world, task, priority())
    (job,) = await jobs(world)
    assert (job.state, job.error) == (job_pb2.JOB_STATE_DONE, "")
    revisions = [e.revision for e in await published(world, "job.%", job.id)]
    assert revisions == [1, 2, 3, 4]


async def asked_again(world: TaskWorld) -> Task:
    """A task whose suggestions failed and were requested again."""
    task = await world.create()
    await fail(world, task)
    (job,) = await jobs(world)
    await world.jobs.RetryJob(RetryJobRequest(id=job.id), metadata=world.me)
    return task


async def test_a_retry_is_refused_whenever_a_request_would_be(world: TaskWorld) -> None:
    task = await world.create()
    await fail(world, task)
    (job,) = await jobs(world)
    await world.projects.ArchiveProject(
        ArchiveProjectRequest(id=world.project_id), metadata=world.me
    )
    retry = world.jobs.RetryJob(RetryJobRequest(id=job.id), metadata=world.me)
    assert (await refusal(retry)).reason == "PROJECT_ARCHIVED"
    assert await jobs(world) == [job]


async def test_a_retried_failure_is_resolved_when_suggestions_are_no_longer_wanted(
    world: TaskWorld,
) -> None:
    task = await asked_again(world)
    await switch_ai(world, on=False)
    assert not (await input_for(world, task)).wanted
    (job,) = await jobs(world)
    assert job.state == job_pb2.JOB_STATE_FAILED
    assert job.error == "suggestions aren't wanted any more"


async def test_an_answer_without_suggestions_resolves_the_retried_failure(
    world: TaskWorld,
) -> None:
    task = await asked_again(world)
    await store(world, task)
    assert [job.state for job in await jobs(world)] == [job_pb2.JOB_STATE_DONE]


async def test_suggestions_for_a_newer_text_resolve_older_failures(world: TaskWorld) -> None:
    task = await world.create()
    await fail(world, task)
    changed = await world.update(task, title="Another title")
    await store(world, changed, priority())
    assert [job.state for job in await jobs(world)] == [job_pb2.JOB_STATE_DONE]


async def test_failures_for_an_outdated_text_are_not_listed(world: TaskWorld) -> None:
    task = await world.create()
    await world.update(task, title="Another title")
    await fail(world, task, base=1)
    assert await jobs(world) == []


async def test_a_page_ends_before_it_is_larger_than_grpc_clients_accept(world: TaskWorld) -> None:
    # 60 descriptions of 80 kB each exceed the page limit of 3 MiB.
    text = "\N{GRINNING FACE}" * 20_000
    made = [(await suggested(world, description(text)))[1] for _ in range(60)]
    found: list[str] = []
    pages = 0
    request = ListSuggestionsRequest(workspace_id=world.workspace_id, page_size=1000)
    while pages == 0 or request.page_token:
        answer = await world.suggestions.ListSuggestions(request, metadata=world.me)
        assert answer.ByteSize() < 4 * 1024 * 1024
        found += [suggestion.id for suggestion in answer.suggestions]
        request.page_token = answer.next_page_token
        pages += 1
    assert pages == 2
    assert found == made[::-1]
