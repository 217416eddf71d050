"""In-memory doubles of the services' internal RPCs, with outages that a test sets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import grpc.aio
from google.protobuf.struct_pb2 import Struct

from services.platform.rpc.identity import SERVICE_HEADER
from taskflow.auth.v1 import internal_service_pb2 as user_rpc
from taskflow.auth.v1 import internal_service_pb2_grpc as user_grpc
from taskflow.event.v1 import dead_letter_service_pb2 as dead_rpc
from taskflow.event.v1 import dead_letter_service_pb2_grpc as dead_grpc
from taskflow.notification.v1 import internal_service_pb2 as email_rpc
from taskflow.notification.v1 import internal_service_pb2_grpc as email_grpc
from taskflow.task.v1 import internal_service_pb2 as task_rpc
from taskflow.task.v1 import internal_service_pb2_grpc as task_grpc
from taskflow.task.v1 import job_pb2

SECRET = "only-services-know-this"

Context = grpc.aio.ServicerContext[Any, Any]
Clock = Callable[[], Awaitable[datetime]]


@dataclass
class Task:
    title: str = ""
    description: str = ""
    text_revision: int = 1
    wanted: bool = True
    due: datetime | None = None
    finished: bool = False
    deleted: bool = False
    archived: bool = False
    # How long the worker must wait before it asks the model for this task's first suggestions.
    wait: timedelta | None = None


@dataclass
class Job:
    payload: dict[str, Any]
    task_id: str = "00000000-0000-7000-8000-000000000001"
    attempt: int = 1
    state: job_pb2.JobState.ValueType = job_pb2.JOB_STATE_PENDING
    result: Struct | None = None
    error: str = ""


@dataclass
class Services:
    """All doubles with their state."""

    clock: Clock
    port: int = 0
    tasks: dict[str, Task] = field(default_factory=dict)
    offsets: tuple[int, ...] = (86400, 3600, 0)
    # (task, due, offset) → outcome and time.
    ledger: dict[tuple[str, datetime, int], tuple[str, datetime]] = field(default_factory=dict)
    suggestions: list[task_rpc.StoreSuggestionsRequest] = field(default_factory=list)
    failures: list[task_rpc.FailEnrichmentRequest] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)
    # Notifications to mail, and the batches that they were put into.
    unread: list[email_rpc.EmailItem] = field(default_factory=list)
    batches: dict[str, list[email_rpc.EmailItem]] = field(default_factory=dict)
    largest_batch: int | None = None
    finished_batches: dict[str, str] = field(default_factory=dict)
    # Addresses reported as refused for good.
    bounced: list[str] = field(default_factory=list)
    recipient: tuple[str, str, str] = ("zoe@people.example", "Zoë", "Europe/Berlin")
    # How many more calls of MoveDueTimes answer that there is more to move.
    moves_left: int = 0
    parked: list[dead_rpc.ParkEventRequest] = field(default_factory=list)
    # RPC → Temporal's time at each call.
    calls: defaultdict[str, list[datetime]] = field(default_factory=lambda: defaultdict(list))
    # RPC → status codes with which its next calls fail, before calls succeed again.
    outages: dict[str, list[grpc.StatusCode]] = field(default_factory=dict)
    # RPC → function that the double awaits at its start.
    during: dict[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def reset(self) -> None:
        fresh = Services(self.clock, self.port)
        self.__dict__.update(fresh.__dict__)

    async def enter(self, name: str, context: Context) -> None:
        """Called at the start of each RPC: counts the call, waits, and fails it during an outage."""
        self.calls[name].append(await self.clock())
        sent = dict(context.invocation_metadata() or ())
        if sent.get(SERVICE_HEADER) != SECRET:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "only services may call this")
        if name in self.during:
            await self.during[name]()
        if self.outages.get(name):
            await context.abort(self.outages[name].pop(0), "zoe@people.example can't be served")


class SuggestionDouble(task_grpc.SuggestionInternalServiceServicer):
    def __init__(self, services: Services) -> None:
        self._services = services

    async def GetEnrichmentInput(
        self, request: task_rpc.GetEnrichmentInputRequest, context: Context
    ) -> task_rpc.GetEnrichmentInputResponse:
        await self._services.enter("GetEnrichmentInput", context)
        task = self._services.tasks.get(request.task_id)
        if task is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such task")
        if task.wait is not None:
            answer = task_rpc.GetEnrichmentInputResponse(wanted=True, text_revision=1)
            answer.wait.FromTimedelta(task.wait)
            task.wait = None
            return answer
        return task_rpc.GetEnrichmentInputResponse(
            wanted=task.wanted,
            title=task.title,
            description=task.description,
            text_revision=task.text_revision,
        )

    async def StoreSuggestions(
        self, request: task_rpc.StoreSuggestionsRequest, context: Context
    ) -> task_rpc.StoreSuggestionsResponse:
        await self._services.enter("StoreSuggestions", context)
        task = self._services.tasks[request.task_id]
        if task.text_revision != request.base_text_revision:
            return task_rpc.StoreSuggestionsResponse(stored=False)
        self._services.suggestions.append(request)
        return task_rpc.StoreSuggestionsResponse(stored=True)

    async def FailEnrichment(
        self, request: task_rpc.FailEnrichmentRequest, context: Context
    ) -> task_rpc.FailEnrichmentResponse:
        await self._services.enter("FailEnrichment", context)
        self._services.failures.append(request)
        return task_rpc.FailEnrichmentResponse()


class JobDouble(task_grpc.JobInternalServiceServicer):
    def __init__(self, services: Services) -> None:
        self._services = services

    async def ClaimJob(
        self, request: task_rpc.ClaimJobRequest, context: Context
    ) -> task_rpc.ClaimJobResponse:
        await self._services.enter("ClaimJob", context)
        job = self._services.jobs.get(request.job_id)
        if job is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such job")
        open_states = (job_pb2.JOB_STATE_PENDING, job_pb2.JOB_STATE_PROCESSING)
        if job.attempt != request.attempt or job.state not in open_states:
            return task_rpc.ClaimJobResponse(claimed=False)
        job.state = job_pb2.JOB_STATE_PROCESSING
        answer = task_rpc.ClaimJobResponse(
            claimed=True, job=job_pb2.Job(id=request.job_id, task_id=job.task_id)
        )
        answer.payload.update(job.payload)
        return answer

    async def FinishJob(
        self, request: task_rpc.FinishJobRequest, context: Context
    ) -> task_rpc.FinishJobResponse:
        await self._services.enter("FinishJob", context)
        job = self._services.jobs[request.job_id]
        if job.attempt != request.attempt:
            return task_rpc.FinishJobResponse()
        if request.HasField("result"):
            job.state, job.result = job_pb2.JOB_STATE_DONE, request.result
        else:
            job.state, job.error = job_pb2.JOB_STATE_FAILED, request.error
        return task_rpc.FinishJobResponse()


class ReminderDouble(task_grpc.ReminderInternalServiceServicer):
    def __init__(self, services: Services) -> None:
        self._services = services

    async def PlanReminder(
        self, request: task_rpc.PlanReminderRequest, context: Context
    ) -> task_rpc.PlanReminderResponse:
        await self._services.enter("PlanReminder", context)
        return task_rpc.PlanReminderResponse(next=await self._next(request.task_id))

    async def EmitReminder(
        self, request: task_rpc.EmitReminderRequest, context: Context
    ) -> task_rpc.EmitReminderResponse:
        await self._services.enter("EmitReminder", context)
        task_id, reminder = request.task_id, request.reminder
        outcome = await self._outcome(task_id, reminder)
        if outcome == task_rpc.REMINDER_OUTCOME_EARLY:
            return task_rpc.EmitReminderResponse(outcome=outcome)
        if outcome == task_rpc.REMINDER_OUTCOME_ARCHIVED:
            return task_rpc.EmitReminderResponse(outcome=outcome, next=await self._ahead(task_id))
        if outcome == task_rpc.REMINDER_OUTCOME_SENT:
            key = (task_id, reminder.due_time.ToDatetime(UTC), reminder.offset_seconds)
            self._services.ledger.setdefault(key, ("SENT", await self._services.clock()))
        return task_rpc.EmitReminderResponse(outcome=outcome, next=await self._next(task_id))

    async def MoveDueTimes(
        self, request: task_rpc.MoveDueTimesRequest, context: Context
    ) -> task_rpc.MoveDueTimesResponse:
        await self._services.enter("MoveDueTimes", context)
        self._services.moves_left -= 1
        return task_rpc.MoveDueTimesResponse(moved=1, more=self._services.moves_left > 0)

    async def _outcome(
        self, task_id: str, reminder: task_rpc.Reminder
    ) -> task_rpc.ReminderOutcome.ValueType:
        task = self._services.tasks.get(task_id)
        if task is None or task.deleted:
            return task_rpc.REMINDER_OUTCOME_DELETED
        if task.finished:
            return task_rpc.REMINDER_OUTCOME_FINISHED
        if task.due != reminder.due_time.ToDatetime(UTC):
            return task_rpc.REMINDER_OUTCOME_MOVED
        if task.archived:
            return task_rpc.REMINDER_OUTCOME_ARCHIVED
        now = await self._services.clock()
        if now < reminder.remind_time.ToDatetime(UTC):
            return task_rpc.REMINDER_OUTCOME_EARLY
        if reminder.offset_seconds > 0 and task.due <= now:
            return task_rpc.REMINDER_OUTCOME_SKIPPED_PAST
        return task_rpc.REMINDER_OUTCOME_SENT

    async def _ahead(self, task_id: str) -> task_rpc.Reminder | None:
        due = self._services.tasks[task_id].due
        now = await self._services.clock()
        for offset in sorted(self._services.offsets, reverse=True):
            if due is not None and due - timedelta(seconds=offset) > now:
                return _reminder(due, offset)
        return None

    async def _next(self, task_id: str) -> task_rpc.Reminder | None:
        task = self._services.tasks.get(task_id)
        if task is None or task.due is None or task.finished or task.deleted:
            return None
        now = await self._services.clock()
        for offset in sorted(self._services.offsets, reverse=True):
            key = (task_id, task.due, offset)
            if key in self._services.ledger:
                continue
            if task.due < now - timedelta(minutes=1) or (offset > 0 and task.due <= now):
                self._services.ledger[key] = ("SKIPPED_PAST", now)
                continue
            return _reminder(task.due, offset)
        return None


def _reminder(due: datetime, offset: int) -> task_rpc.Reminder:
    reminder = task_rpc.Reminder(offset_seconds=offset)
    reminder.due_time.FromDatetime(due)
    reminder.remind_time.FromDatetime(due - timedelta(seconds=offset))
    return reminder


class EmailDouble(email_grpc.EmailInternalServiceServicer):
    def __init__(self, services: Services) -> None:
        self._services = services

    async def PrepareEmailBatch(
        self, request: email_rpc.PrepareEmailBatchRequest, context: Context
    ) -> email_rpc.PrepareEmailBatchResponse:
        services = self._services
        await services.enter("PrepareEmailBatch", context)
        if request.batch_id not in services.batches:
            size = services.largest_batch or len(services.unread)
            services.batches[request.batch_id] = services.unread[:size]
            services.unread = services.unread[size:]
        email, name, zone = services.recipient
        return email_rpc.PrepareEmailBatchResponse(
            items=services.batches[request.batch_id],
            email=email,
            display_name=name,
            time_zone=zone,
        )

    async def FinishEmailBatch(
        self, request: email_rpc.FinishEmailBatchRequest, context: Context
    ) -> email_rpc.FinishEmailBatchResponse:
        await self._services.enter("FinishEmailBatch", context)
        self._services.finished_batches[request.batch_id] = request.error
        return email_rpc.FinishEmailBatchResponse(more=bool(self._services.unread))


class UserDouble(user_grpc.UserInternalServiceServicer):
    def __init__(self, services: Services) -> None:
        self._services = services

    async def ReportBounce(
        self, request: user_rpc.ReportBounceRequest, context: Context
    ) -> user_rpc.ReportBounceResponse:
        await self._services.enter("ReportBounce", context)
        self._services.bounced.append(request.email)
        return user_rpc.ReportBounceResponse()


class DeadLetterDouble(dead_grpc.DeadLetterInternalServiceServicer):
    def __init__(self, services: Services) -> None:
        self._services = services

    async def ParkEvent(
        self, request: dead_rpc.ParkEventRequest, context: Context
    ) -> dead_rpc.ParkEventResponse:
        await self._services.enter("ParkEvent", context)
        self._services.parked.append(request)
        return dead_rpc.ParkEventResponse()


@asynccontextmanager
async def serving_doubles(clock: Clock) -> AsyncIterator[Services]:
    """Serves all doubles on one loopback port."""
    services = Services(clock)
    server = grpc.aio.server()
    task_grpc.add_SuggestionInternalServiceServicer_to_server(SuggestionDouble(services), server)
    task_grpc.add_JobInternalServiceServicer_to_server(JobDouble(services), server)
    task_grpc.add_ReminderInternalServiceServicer_to_server(ReminderDouble(services), server)
    email_grpc.add_EmailInternalServiceServicer_to_server(EmailDouble(services), server)
    user_grpc.add_UserInternalServiceServicer_to_server(UserDouble(services), server)
    dead_grpc.add_DeadLetterInternalServiceServicer_to_server(DeadLetterDouble(services), server)
    services.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield services
    finally:
        await server.stop(None)
