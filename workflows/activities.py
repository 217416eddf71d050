"""What workflows have done: calls of the services, a model, a handler, a mail server.

Activities raise gRPC errors as they come; `edge` turns whatever leaves them into what may stand in a history.
"""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import parseaddr
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import grpc
import grpc.aio
import structlog
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio import activity
from temporalio.exceptions import ApplicationError

from taskflow.notification.v1 import internal_service_pb2 as email_rpc
from taskflow.notification.v1 import notification_pb2
from taskflow.notification.v1.internal_service_pb2_grpc import EmailInternalServiceStub
from taskflow.task.v1 import internal_service_pb2 as task_rpc
from taskflow.task.v1 import suggestion_pb2, task_pb2
from taskflow.task.v1.internal_service_pb2_grpc import (
    JobInternalServiceStub,
    ReminderInternalServiceStub,
    SuggestionInternalServiceStub,
)
from workflows import contracts
from workflows.contracts import (
    EmittedReminder,
    Enrichment,
    JobOutcome,
    MailOutcome,
    Reminder,
    ReminderOutcome,
)
from workflows.enrichers import (
    Enricher,
    EnrichRequest,
    InvalidModelOutput,
    ModelRefused,
    Proposal,
    RetryableModelError,
)
from workflows.handlers import Handlers, JobContext, JobError, PermanentJobError
from workflows.mail import Item, Mailer, PermanentMailError, TemporaryMailError, compose, render
from workflows.text_process import UnreadableText

log = structlog.get_logger()


class EnrichmentActivities:
    """Suggestions: read, asked for, stored."""

    def __init__(self, stub: SuggestionInternalServiceStub, enricher: Enricher) -> None:
        self._stub = stub
        self._enricher = enricher

    @activity.defn(name="enrichment.suggest")
    async def suggest(self, text: contracts.TaskText) -> Enrichment:
        """Makes suggestions for a text and stores them, if it's still the task's."""
        try:
            given = await self._stub.GetEnrichmentInput(
                task_rpc.GetEnrichmentInputRequest(
                    task_id=text.task_id, text_revision=text.text_revision
                )
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return Enrichment.UNWANTED
            raise
        if not given.wanted:
            return Enrichment.UNWANTED
        if given.text_revision != text.text_revision:
            return Enrichment.SUPERSEDED
        if given.HasField("wait"):
            # Temporal gives up at once where that is beyond ENRICH_GIVE_UP, and the failure is recorded.
            raise ApplicationError(
                "the workspace's AI calls of this hour are used up",
                type="AI_LIMIT_REACHED",
                next_retry_delay=given.wait.ToTimedelta(),
            )
        proposals = await self._ask(given)
        # Also when there are none: who asked for them learns that it's over.
        answer = await self._stub.StoreSuggestions(
            task_rpc.StoreSuggestionsRequest(
                task_id=text.task_id,
                base_text_revision=text.text_revision,
                suggestions=[_draft(proposal) for proposal in proposals],
            )
        )
        if not answer.stored:
            return Enrichment.SUPERSEDED
        return Enrichment.STORED if proposals else Enrichment.NOTHING

    async def _ask(self, given: task_rpc.GetEnrichmentInputResponse) -> list[Proposal]:
        request = EnrichRequest(
            title=given.title,
            description=given.description,
            deadline=given.deadline or None,
            similar=tuple(given.similar_titles),
            workspace=given.workspace_id,
        )
        try:
            return await self._enricher.suggest(request)
        except RetryableModelError as error:
            raise ApplicationError(
                str(error),
                type="MODEL_UNAVAILABLE",
                non_retryable=activity.info().attempt >= contracts.ENRICH_TRIES,
                next_retry_delay=(
                    None if error.retry_after is None else timedelta(seconds=error.retry_after)
                ),
            ) from None
        except (InvalidModelOutput, ModelRefused) as error:
            raise ApplicationError(str(error), type="MODEL_UNUSABLE", non_retryable=True) from None
        except UnreadableText as error:
            raise ApplicationError(str(error), type="TEXT_UNREADABLE", non_retryable=True) from None

    @activity.defn(name="enrichment.fail")
    async def fail(self, failed: contracts.FailedEnrichment) -> None:
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
            # Then there's nothing left to record it for.
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise


class ReminderActivities:
    """Reminders of one task's deadline."""

    def __init__(self, stub: ReminderInternalServiceStub) -> None:
        self._stub = stub

    @activity.defn(name="reminder.plan")
    async def plan(self, task: contracts.TaskDeadline) -> Reminder | None:
        """The next reminder, None when there is none."""
        try:
            answer = await self._stub.PlanReminder(
                task_rpc.PlanReminderRequest(task_id=task.task_id)
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise
        return _reminder(task.task_id, answer.next) if answer.HasField("next") else None

    @activity.defn(name="reminder.emit")
    async def emit(self, reminder: Reminder) -> EmittedReminder:
        """Sends a reminder, or says why not, and what comes after it."""
        task_id = reminder.task_id
        try:
            answer = await self._stub.EmitReminder(
                task_rpc.EmitReminderRequest(
                    task_id=task_id,
                    reminder=task_rpc.Reminder(
                        due_time=_timestamp(reminder.due_time),
                        offset_seconds=reminder.offset_seconds,
                        remind_time=_timestamp(reminder.remind_time),
                    ),
                )
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return EmittedReminder(ReminderOutcome.DELETED)
            raise
        name = task_rpc.ReminderOutcome.Name(answer.outcome).removeprefix("REMINDER_OUTCOME_")
        late = time.time() - reminder.remind_time.timestamp()
        log.info(
            "reminder",
            task_id=task_id,
            offset_seconds=reminder.offset_seconds,
            state=name,
            late_seconds=round(late, 3),
        )
        following = _reminder(task_id, answer.next) if answer.HasField("next") else None
        return EmittedReminder(ReminderOutcome(name), following)


class JobActivities:
    """Payload jobs. Payload, result and error go straight between handler and service."""

    def __init__(self, stub: JobInternalServiceStub, handlers: Handlers) -> None:
        self._stub = stub
        self._handlers = handlers

    @activity.defn(name="job.process")
    async def process(self, run: contracts.JobAttempt) -> JobOutcome:
        """One try: claims the job, runs its handler and records how it ended. Raises only what isn't the handler's."""
        try:
            claim = await self._stub.ClaimJob(
                task_rpc.ClaimJobRequest(job_id=run.job_id, attempt=run.attempt)
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return JobOutcome.NOT_OURS
            raise
        if not claim.claimed:
            return JobOutcome.NOT_OURS
        started = time.perf_counter()
        ended = await self._handle(claim, run)
        seconds = time.perf_counter() - started
        outcome = JobOutcome.RETRY
        if ended is not None:
            outcome = await self._finish(ended)
        log.info(
            "job",
            job_id=run.job_id,
            task_id=claim.job.task_id,
            attempt=run.attempt,
            failed_tries=run.failed_tries,
            state=outcome.value,
            duration=round(seconds, 4),
        )
        return outcome

    async def _handle(
        self, claim: task_rpc.ClaimJobResponse, run: contracts.JobAttempt
    ) -> task_rpc.FinishJobRequest | None:
        """How it ended; None when it's worth another try."""
        job = JobContext(run.job_id, claim.job.task_id, claim.job.workspace_id, run.attempt)
        ended = task_rpc.FinishJobRequest(job_id=run.job_id, attempt=run.attempt)
        payload = json_format.MessageToDict(claim.payload)
        limit = asyncio.timeout(contracts.JOB_HANDLER_SECONDS)
        try:
            async with limit:
                result = await self._handlers.run(payload, job)
        except Exception as error:
            # The text of another exception could quote the payload, or a secret.
            log.warning("job handler failed", job_id=run.job_id, error=type(error).__name__)
            if not isinstance(error, PermanentJobError) and not run.last_try:
                return None
            ended.error = (
                f"the handler took longer than {contracts.JOB_HANDLER_SECONDS:g} seconds"
                if limit.expired()
                else _shown(error)
            )
        else:
            ended.result.CopyFrom(result)
        return ended

    async def _finish(self, ended: task_rpc.FinishJobRequest) -> JobOutcome:
        try:
            await self._stub.FinishJob(ended)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.INVALID_ARGUMENT or ended.error:
                raise
            ended.error = "the handler's result can't be stored"
            await self._stub.FinishJob(ended)
        return JobOutcome.FAILED if ended.error else JobOutcome.DONE

    @activity.defn(name="job.fail")
    async def fail(self, failed: contracts.FailedJob) -> None:
        """Records a failure that `process` couldn't record itself."""
        await self._stub.FinishJob(
            task_rpc.FinishJobRequest(
                job_id=failed.job_id, attempt=failed.attempt, error=failed.error
            )
        )


class EmailActivities:
    """Mail. `sender` is a mailbox with a name, as in a From header."""

    def __init__(self, stub: EmailInternalServiceStub, mailer: Mailer, sender: str) -> None:
        self._stub = stub
        self._mailer = mailer
        self._sender_name, self._sender = parseaddr(sender)

    @activity.defn(name="email.send")
    async def send(self, batch: contracts.MailBatch) -> MailOutcome:
        """Mails what is still wanted of a batch. Returns when the mail server has taken it."""
        prepared = await self._stub.PrepareEmailBatch(
            email_rpc.PrepareEmailBatchRequest(user_id=batch.user_id, batch_id=batch.batch_id)
        )
        if not prepared.items:
            return MailOutcome.EMPTY
        try:
            # Some 100 ms for 200 notifications: a thread lets the event loop go on meanwhile.
            message = await asyncio.to_thread(self._message, batch.batch_id, prepared)
            await self._mailer.send(message)
        except PermanentMailError as error:
            raise ApplicationError(str(error), type="MAIL_REFUSED", non_retryable=True) from None
        except TemporaryMailError as error:
            raise ApplicationError(str(error), type="MAIL_DELAYED") from None
        log.info("mail sent", batch_id=batch.batch_id, notifications=len(prepared.items))
        return MailOutcome.SENT

    def _message(
        self, batch_id: str, prepared: email_rpc.PrepareEmailBatchResponse
    ) -> EmailMessage:
        rendered = render(
            [_item(item) for item in prepared.items],
            recipient_name=prepared.display_name,
            zone=_known_zone(prepared.time_zone),
        )
        return compose(
            batch_id,
            rendered,
            sender=self._sender,
            sender_name=self._sender_name,
            recipient=prepared.email,
            recipient_name=prepared.display_name,
        )

    @activity.defn(name="email.finish")
    async def finish(self, finished: contracts.FinishedMail) -> None:
        """Records that a batch was sent, or can't be."""
        await self._stub.FinishEmailBatch(
            email_rpc.FinishEmailBatchRequest(batch_id=finished.batch_id, error=finished.error)
        )


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


def _reminder(task_id: str, sent: task_rpc.Reminder) -> Reminder:
    return Reminder(
        task_id,
        sent.due_time.ToDatetime(UTC),
        sent.offset_seconds,
        sent.remind_time.ToDatetime(UTC),
    )


def _timestamp(instant: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    return stamp


def _shown(error: Exception) -> str:
    """What people get to see of a handler's failure."""
    if isinstance(error, JobError):
        text = str(error).replace("\0", "") or type(error).__name__
    else:
        text = f"the handler failed with {type(error).__name__}"
    return text[: contracts.MAX_ERROR]


_KINDS: Final = {
    notification_pb2.NOTIFICATION_KIND_ASSIGNED: "assigned",
    notification_pb2.NOTIFICATION_KIND_STATUS_CHANGED: "status",
    notification_pb2.NOTIFICATION_KIND_DEADLINE_APPROACHING: "deadline",
    notification_pb2.NOTIFICATION_KIND_OVERDUE: "overdue",
}


def _item(item: email_rpc.EmailItem) -> Item:
    told = item.notification
    return Item(
        kind=_KINDS.get(told.kind, ""),
        headline=told.headline,
        text="",
        task_key=told.task_key,
        task_title=told.task_title,
        # The project's key, which is what a mail of several tasks is named after.
        project=told.task_key.rpartition("-")[0],
        workspace=item.workspace_name,
        time=told.create_time.ToDatetime(UTC),
    )


def _known_zone(name: str) -> str:
    """UTC for a zone that this machine's tables don't have: a mail with another time is better than none."""
    try:
        return ZoneInfo(name).key
    except (ZoneInfoNotFoundError, ValueError):
        return "UTC"
