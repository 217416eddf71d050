"""Domain event → workflow started or signalled.

Ids are deterministic and effects idempotent, so an event may come twice. Events of one aggregate are dispatched in
order, those of others beside them. An event is acknowledged after Temporal has accepted what it asks for; while
Temporal or the Task service isn't there, events wait in JetStream.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

import grpc.aio
import nats.errors
import structlog
from google.protobuf.message import DecodeError
from nats.aio.msg import Msg
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from services.platform import tracing
from services.platform.bus import Bus, PoisonEvent, event_id
from services.platform.config import Settings
from taskflow.event.v1.dead_letter_service_pb2 import ParkEventRequest
from taskflow.event.v1.event_pb2 import Event
from taskflow.task.v1 import job_pb2, task_pb2
from taskflow.task.v1.internal_service_pb2 import MoveDueTimesRequest
from workflows import contracts
from workflows.email import EmailBatch
from workflows.enrichment import EnrichTask
from workflows.front_door import FrontDoor, is_final
from workflows.job import ProcessJob
from workflows.reminder import DeadlineReminder

log = structlog.get_logger()

CONSUMER: Final = "dispatcher"
SUBJECTS: Final = [
    f"taskflow.*.{event}"
    for event in (
        "task.created",
        "task.updated",
        "task.deleted",
        "task.undeleted",
        "task.suggestions_requested",
        "job.created",
        "job.updated",
        "notification.created",
        "user.time_zone_changed",
    )
]

# Events taken at once, and how many of them wait for Temporal at the same time. The development server takes about 200
# starts a second, some 5 ms each.
_BATCH: Final = 64
_CONCURRENCY: Final = 16
# Well within the 8 s after which JetStream hands an event to somebody else.
_ACK_INTERVAL: Final = 2.5
# Seconds between tries while nobody answers: the first pause and the longest.
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0
_RPC_TIMEOUT: Final = timedelta(seconds=5)
# Statuses by which Temporal says that the request is at fault: another try would have the same answer. All others can
# pass: an overload, a namespace that is missing or moving, a permission, a server that is being upgraded.
_REFUSED: Final = frozenset({RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.OUT_OF_RANGE})
# Part of the message by which Temporal refuses a signal to a run that has had 10,000, under INVALID_ARGUMENT.
_SIGNAL_LIMIT: Final = "exceeded workflow execution limit for signal events"
# Characters, as the RPC has it.
_LONGEST_ERROR: Final = 1000

_TEXT: Final = frozenset({"title", "description"})
_TIMING: Final = frozenset({"due", "due_time", "assignee_id", "status"})

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Start:
    """A workflow to be started unless it runs, with a signal that it gets in any case.

    A signal only means "look again". A run at Temporal's limit of signals always looks again before it ends, see
    `history`, so that the dispatcher may drop a signal to it.
    """

    workflow: Callable[..., Awaitable[Any]]
    argument: object
    id: str
    signal: str | None = None
    signal_argument: object = None
    delay: timedelta | None = None
    # Whether a run that has ended well is run again.
    again: bool = True
    # Whether one that is under way is ended, and this one takes its place.
    instead: bool = False


class Dispatcher:
    """Consumes events for ever, see the module."""

    def __init__(self, settings: Settings, bus: Bus, temporal: Client, door: FrontDoor) -> None:
        self._settings = settings
        self._bus = bus
        self._temporal = temporal
        self._door = door
        self._slots = asyncio.Semaphore(_CONCURRENCY)

    async def run(self) -> None:
        await self._bus.consume_batches(CONSUMER, SUBJECTS, self.handle, self.park, size=_BATCH)

    async def handle(self, batch: list[Msg]) -> None:
        """Raises PoisonEvent for what can't be read, before anything is started."""
        by_aggregate: dict[str, list[Event]] = {}
        mailed: set[str] = set()
        for message in batch:
            event = read(message.data)
            if event.WhichOneof("facts") == "notification_created":
                # One signal per user: it comes after the commits of all the user's notifications in the batch.
                user_id = event.notification_created.user_id
                if user_id in mailed:
                    continue
                mailed.add(user_id)
            by_aggregate.setdefault(event.aggregate_id, []).append(event)
        keeping = asyncio.ensure_future(_keep(batch))
        try:
            ended = await asyncio.gather(
                *(self._dispatch(events) for events in by_aggregate.values()),
                return_exceptions=True,
            )
        finally:
            keeping.cancel()
        for error in ended:
            if isinstance(error, BaseException):
                raise error

    async def park(self, message: Msg, error: str) -> None:
        await self._door.dead_letters.ParkEvent(
            ParkEventRequest(
                consumer=CONSUMER,
                subject=message.subject,
                event_id=event_id(message),
                payload=message.data,
                error=error.replace("\0", "")[:_LONGEST_ERROR],
            )
        )

    async def _dispatch(self, events: list[Event]) -> None:
        async with self._slots:
            for event in events:
                with tracing.within(event.id):
                    await self._follow(event)

    async def _follow(self, event: Event) -> None:
        if event.WhichOneof("facts") == "time_zone_changed":
            await self._move_due_times(event.time_zone_changed.user_id)
        for start in starts(event, self._settings):
            await self._start(start)

    async def _start(self, start: Start) -> None:
        async def ask() -> None:
            with suppress(WorkflowAlreadyStartedError), _past_signal_limit(start):
                await self._temporal.start_workflow(
                    start.workflow,
                    start.argument,
                    id=start.id,
                    task_queue=contracts.TASK_QUEUE,
                    start_delay=start.delay,
                    start_signal=start.signal,
                    start_signal_args=[] if start.signal is None else [start.signal_argument],
                    id_conflict_policy=(
                        WorkflowIDConflictPolicy.TERMINATE_EXISTING
                        if start.instead
                        else WorkflowIDConflictPolicy.USE_EXISTING
                    ),
                    id_reuse_policy=(
                        WorkflowIDReusePolicy.ALLOW_DUPLICATE
                        if start.again
                        else WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY
                    ),
                    rpc_timeout=_RPC_TIMEOUT,
                )

        await _patiently(ask)

    async def _move_due_times(self, user_id: str) -> None:
        """Dates are due at the end of the day in the user's zone, which is another one now."""

        async def ask() -> bool:
            answer = await self._door.reminders.MoveDueTimes(MoveDueTimesRequest(user_id=user_id))
            return answer.more

        while await _patiently(ask):
            pass


def read(data: bytes) -> Event:
    """Raises PoisonEvent."""
    try:
        event = Event.FromString(data)
    except DecodeError:
        raise PoisonEvent("the event can't be read") from None
    if event.WhichOneof("facts") is None or not event.aggregate_id:
        raise PoisonEvent("the event says nothing that is known here")
    return event


def starts(event: Event, settings: Settings) -> list[Start]:
    """What an event asks Temporal for. Deterministic: the same event asks for the same."""
    match event.WhichOneof("facts"):
        case "task_created":
            task = event.task_created.task
            asked = [] if event.task_created.ai_disabled else [_enrichment(task, settings)]
            return [*asked, *([_reminder(task)] if task.HasField("due_time") else [])]
        case "task_updated":
            return _after_update(event, settings)
        case "task_deleted":
            task = event.task_deleted.task
            return [_reminder(task)] if task.HasField("due_time") else []
        case "task_undeleted":
            task = event.task_undeleted.task
            return [_reminder(task)] if task.HasField("due_time") else []
        case "task_suggestions_requested":
            text = event.task_suggestions_requested
            return [_enrichment_again(text.task_id, text.text_revision)]
        case "job_changed":
            return _job(event.job_changed.job)
        case "notification_created":
            told = event.notification_created
            return [_email(told.user_id, told.notification_id, settings)]
        case _:
            return []


def _after_update(event: Event, settings: Settings) -> list[Start]:
    task, before = event.task_updated.task, event.task_updated.before
    changed = frozenset(event.task_updated.changed_fields.paths)
    asked = []
    if changed & _TEXT and not event.task_updated.ai_disabled:
        asked.append(_enrichment(task, settings))
    # A task that has no deadline and had none doesn't need its timer to hear of it.
    timed = task.HasField("due_time") or before.HasField("due_time") or "due" in changed
    if timed and (changed & _TIMING or before.HasField("due_time")):
        asked.append(_reminder(task))
    return asked


def _enrichment(task: task_pb2.Task, settings: Settings) -> Start:
    """For a text that is new. Edits that follow within the delay make this run find itself superseded."""
    return Start(
        EnrichTask.run,
        contracts.TaskText(task.id, task.text_revision),
        contracts.enrich_id(task.id, task.text_revision),
        delay=timedelta(seconds=settings.enrich_debounce) if settings.enrich_debounce else None,
        again=False,
    )


def _enrichment_again(task_id: str, text_revision: int) -> Start:
    """For a text that somebody wants suggestions for, now and anew.

    A run that is under way would do, but for one that is about to end: then nobody would answer.
    """
    return Start(
        EnrichTask.run,
        contracts.TaskText(task_id, text_revision),
        contracts.enrich_id(task_id, text_revision),
        instead=True,
    )


def _reminder(task: task_pb2.Task) -> Start:
    return Start(
        DeadlineReminder.run,
        contracts.TaskDeadline(task.id),
        contracts.reminder_id(task.id),
        signal="changed",
        signal_argument=task.revision,
    )


def _job(job: job_pb2.Job) -> list[Start]:
    """For a job that waits: a new one, or one that somebody retries."""
    if job.kind != job_pb2.JOB_KIND_PAYLOAD or job.state != job_pb2.JOB_STATE_PENDING:
        return []
    return [
        Start(
            ProcessJob.run,
            contracts.JobAttempt(job.id, job.attempt),
            contracts.job_id(job.id, job.attempt),
            again=False,
        )
    ]


def _email(user_id: str, notification_id: str, settings: Settings) -> Start:
    return Start(
        EmailBatch.run,
        contracts.UserMail(user_id, settings.email_window),
        contracts.email_id(user_id),
        signal="notified",
        signal_argument=notification_id,
    )


@contextmanager
def _past_signal_limit(start: Start) -> Iterator[None]:
    """Takes a signal for accepted when the run has had as many as Temporal allows: the run looks again anyway."""
    try:
        yield
    except RPCError as error:
        if start.signal is None or _SIGNAL_LIMIT not in error.message:
            raise
        log.warning("signal refused at temporal's limit", workflow=start.id)


async def _patiently(ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """Asks until it's answered. Raises PoisonEvent when the request is refused for what it is."""
    pause = _FIRST_PAUSE
    while True:
        try:
            return await ask()
        except RPCError as error:
            if error.status in _REFUSED:
                raise PoisonEvent(f"Temporal refused it with {error.status.name}") from None
            answered = error.status.name
        except grpc.aio.AioRpcError as error:
            if is_final(error):
                raise PoisonEvent(f"a service refused it with {error.code().name}") from None
            answered = error.code().name
        log.warning("dispatcher waits", answered=answered)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


async def _keep(batch: list[Msg]) -> None:
    """Tells JetStream again and again that the events are being worked on."""
    while True:
        await asyncio.sleep(_ACK_INTERVAL)
        for message in batch:
            with suppress(nats.errors.Error):
                await message.in_progress()
