"""Activities of EnrichTask. gRPC errors pass through to activity_interceptor.py."""

from datetime import timedelta

import grpc
import grpc.aio
from temporalio import activity
from temporalio.exceptions import ApplicationError

from taskflow.task.v1 import internal_service_pb2 as task_rpc
from taskflow.task.v1 import suggestion_pb2, task_pb2
from taskflow.task.v1.internal_service_pb2_grpc import SuggestionInternalServiceStub
from workflows.enrichment.contract import (
    ENRICH_TRIES,
    EnrichmentOutcome,
    FailedEnrichment,
    TaskText,
)
from workflows.enrichment.enrichers import (
    Enricher,
    EnrichRequest,
    InvalidModelOutput,
    ModelRefused,
    Proposal,
    RetryableModelError,
)
from workflows.enrichment.text_process import UnreadableText
from workflows.feature import Activities


class EnrichmentActivities:
    def __init__(self, stub: SuggestionInternalServiceStub, enricher: Enricher) -> None:
        self._stub = stub
        self._enricher = enricher

    def by_queue(self) -> Activities:
        return Activities(quick=[self.fail], slow=[self.suggest], close=self._enricher.close)

    @activity.defn(name="enrichment.suggest")
    async def suggest(self, text: TaskText) -> EnrichmentOutcome:
        """Makes suggestions for a text and stores them, if the task still has this text."""
        try:
            task = await self._stub.GetEnrichmentInput(
                task_rpc.GetEnrichmentInputRequest(
                    task_id=text.task_id, text_revision=text.text_revision
                )
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return EnrichmentOutcome.UNWANTED
            raise
        if not task.wanted:
            return EnrichmentOutcome.UNWANTED
        if task.text_revision != text.text_revision:
            return EnrichmentOutcome.SUPERSEDED
        if task.HasField("wait"):
            # When the retry delay exceeds ENRICH_TOTAL_TIMEOUT, Temporal fails the activity at once.
            raise ApplicationError(
                "the workspace's AI calls of this hour are used up",
                type="AI_LIMIT_REACHED",
                next_retry_delay=task.wait.ToTimedelta(),
            )
        proposals = await self._ask(task)
        # The activity stores an empty list too, so that the user who asked sees that no suggestion will come.
        answer = await self._stub.StoreSuggestions(
            task_rpc.StoreSuggestionsRequest(
                task_id=text.task_id,
                base_text_revision=text.text_revision,
                suggestions=[_draft(proposal) for proposal in proposals],
            )
        )
        if not answer.stored:
            return EnrichmentOutcome.SUPERSEDED
        return EnrichmentOutcome.STORED if proposals else EnrichmentOutcome.NOTHING

    async def _ask(self, task: task_rpc.GetEnrichmentInputResponse) -> list[Proposal]:
        request = EnrichRequest(
            title=task.title,
            description=task.description,
            deadline=task.deadline or None,
            similar=tuple(task.similar_titles),
            workspace=task.workspace_id,
        )
        try:
            return await self._enricher.suggest(request)
        except RetryableModelError as error:
            raise ApplicationError(
                str(error),
                type="MODEL_UNAVAILABLE",
                non_retryable=activity.info().attempt >= ENRICH_TRIES,
                next_retry_delay=(
                    None if error.retry_after is None else timedelta(seconds=error.retry_after)
                ),
            ) from None
        except (InvalidModelOutput, ModelRefused) as error:
            raise ApplicationError(str(error), type="MODEL_UNUSABLE", non_retryable=True) from None
        except UnreadableText as error:
            raise ApplicationError(str(error), type="TEXT_UNREADABLE", non_retryable=True) from None

    @activity.defn(name="enrichment.fail")
    async def fail(self, failed: FailedEnrichment) -> None:
        """Records that there will be no suggestions."""
        try:
            await self._stub.FailEnrichment(
                task_rpc.FailEnrichmentRequest(
                    task_id=failed.text.task_id,
                    base_text_revision=failed.text.text_revision,
                    error=failed.error,
                )
            )
        except grpc.aio.AioRpcError as error:
            # The task has been deleted, and its jobs with it.
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise


def _draft(proposal: Proposal) -> task_rpc.SuggestionDraft:
    draft = task_rpc.SuggestionDraft(
        reason=proposal.reason,
        confidence=proposal.confidence,
        model=proposal.model,
        prompt_version=proposal.prompt_version,
    )
    if proposal.kind == "priority":
        draft.kind = suggestion_pb2.SUGGESTION_KIND_PRIORITY
        draft.priority = task_pb2.TaskPriority.Value(f"TASK_PRIORITY_{proposal.value}")
    else:
        draft.kind = suggestion_pb2.SUGGESTION_KIND_DESCRIPTION
        draft.description = proposal.value
    return draft
