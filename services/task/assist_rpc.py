"""Suggestions, jobs and reminders: for people, and for the workers that make, run and send them."""

from typing import Any
from uuid import UUID

from services.platform.interceptors import current_caller
from services.platform.runtime import Platform
from services.task import (
    decisions,
    enrichment,
    jobs,
    logic,
    messages,
    models,
    newest,
    payload,
    reminders,
    suggestions,
)
from services.task.allowance import Allowance
from taskflow.task.v1 import internal_service_pb2 as internal
from taskflow.task.v1 import internal_service_pb2_grpc as internal_grpc
from taskflow.task.v1 import job_service_pb2 as job_service
from taskflow.task.v1 import job_service_pb2_grpc, suggestion_service_pb2_grpc
from taskflow.task.v1 import suggestion_service_pb2 as suggestion_service


class SuggestionServicer(suggestion_service_pb2_grpc.SuggestionServiceServicer):
    def __init__(self, platform: Platform) -> None:
        self._db = platform.db
        self._seal = platform.seal
        self._allowance = Allowance(platform.settings)

    async def RequestSuggestions(
        self, request: suggestion_service.RequestSuggestionsRequest, context: Any
    ) -> suggestion_service.RequestSuggestionsResponse:
        async with self._db.transaction() as tx:
            revision = await suggestions.request(
                tx, self._allowance, current_caller(), UUID(request.task_id)
            )
        return suggestion_service.RequestSuggestionsResponse(text_revision=revision)

    async def ListSuggestions(
        self, request: suggestion_service.ListSuggestionsRequest, context: Any
    ) -> suggestion_service.ListSuggestionsResponse:
        async with self._db.read() as tx:
            rows, token = await newest.page(
                tx, self._seal, current_caller(), models.suggestions, request
            )
        return suggestion_service.ListSuggestionsResponse(
            suggestions=[suggestions.message(row) for row in rows], next_page_token=token
        )

    async def AcceptSuggestion(
        self, request: suggestion_service.AcceptSuggestionRequest, context: Any
    ) -> suggestion_service.AcceptSuggestionResponse:
        edit = request.edit if request.HasField("edit") else None
        async with self._db.transaction() as tx:
            suggestion, task = await decisions.accept(tx, current_caller(), UUID(request.id), edit)
        return suggestion_service.AcceptSuggestionResponse(
            suggestion=suggestions.message(suggestion), task=messages.task(task)
        )

    async def RejectSuggestion(
        self, request: suggestion_service.RejectSuggestionRequest, context: Any
    ) -> suggestion_service.RejectSuggestionResponse:
        async with self._db.transaction() as tx:
            row = await decisions.reject(tx, current_caller(), UUID(request.id), request.reason)
        return suggestion_service.RejectSuggestionResponse(suggestion=suggestions.message(row))


class SuggestionInternalServicer(internal_grpc.SuggestionInternalServiceServicer):
    def __init__(self, platform: Platform) -> None:
        self._db = platform.db
        self._allowance = Allowance(platform.settings)

    async def GetEnrichmentInput(
        self, request: internal.GetEnrichmentInputRequest, context: Any
    ) -> internal.GetEnrichmentInputResponse:
        async with self._db.transaction() as tx:
            return await enrichment.enrichment_input(
                tx, self._allowance, UUID(request.task_id), request.text_revision
            )

    async def StoreSuggestions(
        self, request: internal.StoreSuggestionsRequest, context: Any
    ) -> internal.StoreSuggestionsResponse:
        async with self._db.transaction() as tx:
            stored = await suggestions.store(
                tx, UUID(request.task_id), request.base_text_revision, request.suggestions
            )
        return internal.StoreSuggestionsResponse(stored=stored)

    async def FailEnrichment(
        self, request: internal.FailEnrichmentRequest, context: Any
    ) -> internal.FailEnrichmentResponse:
        async with self._db.transaction() as tx:
            await jobs.fail_enrichment(
                tx, UUID(request.task_id), request.base_text_revision, request.error
            )
        return internal.FailEnrichmentResponse()


class JobServicer(job_service_pb2_grpc.JobServiceServicer):
    def __init__(self, platform: Platform) -> None:
        self._db = platform.db
        self._seal = platform.seal
        self._allowance = Allowance(platform.settings)

    async def GetJob(
        self, request: job_service.GetJobRequest, context: Any
    ) -> job_service.GetJobResponse:
        async with self._db.read() as tx:
            row = await jobs.get(tx, current_caller(), UUID(request.id))
        return job_service.GetJobResponse(job=jobs.message(row))

    async def ListJobs(
        self, request: job_service.ListJobsRequest, context: Any
    ) -> job_service.ListJobsResponse:
        async with self._db.read() as tx:
            rows, token = await newest.page(tx, self._seal, current_caller(), models.jobs, request)
        return job_service.ListJobsResponse(
            jobs=[jobs.message(row) for row in rows], next_page_token=token
        )

    async def RetryJob(
        self, request: job_service.RetryJobRequest, context: Any
    ) -> job_service.RetryJobResponse:
        async with self._db.transaction() as tx:
            row = await jobs.retry(tx, self._allowance, current_caller(), UUID(request.id))
        return job_service.RetryJobResponse(job=jobs.message(row))


class JobInternalServicer(internal_grpc.JobInternalServiceServicer):
    def __init__(self, platform: Platform) -> None:
        self._db = platform.db

    async def ClaimJob(
        self, request: internal.ClaimJobRequest, context: Any
    ) -> internal.ClaimJobResponse:
        async with self._db.transaction() as tx:
            claimed, row = await jobs.claim(tx, UUID(request.job_id), request.attempt)
        response = internal.ClaimJobResponse(claimed=claimed, job=jobs.message(row))
        if claimed:
            response.payload.CopyFrom(payload.struct(row.payload))
        return response

    async def FinishJob(
        self, request: internal.FinishJobRequest, context: Any
    ) -> internal.FinishJobResponse:
        result = payload.parse(request.result, "result") if request.HasField("result") else None
        async with self._db.transaction() as tx:
            row = await jobs.finish(
                tx, UUID(request.job_id), request.attempt, result, request.error
            )
        return internal.FinishJobResponse(job=jobs.message(row))


class ReminderInternalServicer(internal_grpc.ReminderInternalServiceServicer):
    def __init__(self, platform: Platform) -> None:
        self._db = platform.db
        self._offsets = platform.settings.reminder_offsets

    async def PlanReminder(
        self, request: internal.PlanReminderRequest, context: Any
    ) -> internal.PlanReminderResponse:
        async with self._db.transaction() as tx:
            reminder = await reminders.plan(tx, UUID(request.task_id), self._offsets)
        return internal.PlanReminderResponse(next=reminder)

    async def EmitReminder(
        self, request: internal.EmitReminderRequest, context: Any
    ) -> internal.EmitReminderResponse:
        async with self._db.transaction() as tx:
            outcome, after = await reminders.emit(
                tx, UUID(request.task_id), request.reminder, self._offsets
            )
        return internal.EmitReminderResponse(outcome=outcome, next=after)

    async def MoveDueTimes(
        self, request: internal.MoveDueTimesRequest, context: Any
    ) -> internal.MoveDueTimesResponse:
        async with self._db.transaction() as tx:
            moved, more = await logic.move_due_times(tx, UUID(request.user_id), logic.AT_ONCE)
        return internal.MoveDueTimesResponse(moved=moved, more=more)
