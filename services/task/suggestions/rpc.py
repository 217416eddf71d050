"""The servicers of SuggestionService and SuggestionInternalService."""

from typing import Any
from uuid import UUID

import grpc.aio

from services.platform.rpc import directory
from services.platform.rpc.identity import current_caller
from services.platform.runtime import Loop, Platform
from services.task import pages
from services.task.jobs import enrichment
from services.task.suggestions import logic, messages, queries, requests
from services.task.suggestions.ai_rate_limit import AiRateLimit
from services.task.suggestions.model_input import model_input
from services.task.suggestions.models import suggestions
from services.task.suggestions.queries import SuggestionRow
from services.task.tasks import messages as task_messages
from taskflow.task.v1 import internal_service_pb2 as internal
from taskflow.task.v1 import internal_service_pb2_grpc, suggestion_service_pb2_grpc
from taskflow.task.v1 import suggestion_service_pb2 as suggestion_service


class SuggestionServicer(suggestion_service_pb2_grpc.SuggestionServiceServicer):
    def __init__(self, platform: Platform) -> None:
        self._db = platform.db
        self._seal = platform.seal
        self._ai_limit = AiRateLimit(platform.settings)

    async def RequestSuggestions(
        self, request: suggestion_service.RequestSuggestionsRequest, context: Any
    ) -> suggestion_service.RequestSuggestionsResponse:
        caller = current_caller()
        task_id = UUID(request.task_id)
        async with self._db.transaction() as tx:
            await directory.find_allowed(
                tx, caller, queries.FIND_TASK, "task", task_id, task_id=task_id
            )
            revision = await requests.request(tx, self._ai_limit, task_id, caller.user_id)
        return suggestion_service.RequestSuggestionsResponse(text_revision=revision)

    async def ListSuggestions(
        self, request: suggestion_service.ListSuggestionsRequest, context: Any
    ) -> suggestion_service.ListSuggestionsResponse:
        async with self._db.read() as tx:
            page, token = await pages.page(
                tx,
                self._seal,
                current_caller(),
                request,
                suggestions,
                SuggestionRow,
                messages.suggestion,
            )
        return suggestion_service.ListSuggestionsResponse(suggestions=page, next_page_token=token)

    async def AcceptSuggestion(
        self, request: suggestion_service.AcceptSuggestionRequest, context: Any
    ) -> suggestion_service.AcceptSuggestionResponse:
        edit = request.edit if request.HasField("edit") else None
        async with self._db.transaction() as tx:
            suggestion, task = await logic.accept(tx, current_caller(), UUID(request.id), edit)
        return suggestion_service.AcceptSuggestionResponse(
            suggestion=messages.suggestion(suggestion), task=task_messages.task(task)
        )

    async def RejectSuggestion(
        self, request: suggestion_service.RejectSuggestionRequest, context: Any
    ) -> suggestion_service.RejectSuggestionResponse:
        async with self._db.transaction() as tx:
            row = await logic.reject(tx, current_caller(), UUID(request.id), request.reason)
        return suggestion_service.RejectSuggestionResponse(suggestion=messages.suggestion(row))


class SuggestionInternalServicer(internal_service_pb2_grpc.SuggestionInternalServiceServicer):
    def __init__(self, platform: Platform) -> None:
        self._db = platform.db
        self._ai_limit = AiRateLimit(platform.settings)

    async def GetEnrichmentInput(
        self, request: internal.GetEnrichmentInputRequest, context: Any
    ) -> internal.GetEnrichmentInputResponse:
        async with self._db.transaction() as tx:
            return await model_input(
                tx, self._ai_limit, UUID(request.task_id), request.text_revision
            )

    async def StoreSuggestions(
        self, request: internal.StoreSuggestionsRequest, context: Any
    ) -> internal.StoreSuggestionsResponse:
        async with self._db.transaction() as tx:
            stored = await logic.store(
                tx, UUID(request.task_id), request.base_text_revision, request.suggestions
            )
        return internal.StoreSuggestionsResponse(stored=stored)

    async def FailEnrichment(
        self, request: internal.FailEnrichmentRequest, context: Any
    ) -> internal.FailEnrichmentResponse:
        async with self._db.transaction() as tx:
            await enrichment.record_failure(
                tx, UUID(request.task_id), request.base_text_revision, request.error
            )
        return internal.FailEnrichmentResponse()


def register(server: grpc.aio.Server, platform: Platform) -> list[Loop]:
    suggestion_service_pb2_grpc.add_SuggestionServiceServicer_to_server(
        SuggestionServicer(platform), server
    )
    internal_service_pb2_grpc.add_SuggestionInternalServiceServicer_to_server(
        SuggestionInternalServicer(platform), server
    )
    return []
